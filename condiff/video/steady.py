"""Steady colours: key frames are sampled, and their chroma is carried along motion to the rest.

Within a shot all key frames have the same x_T. A key frame's chroma is that of the previous key
frame, carried along the flow and mixed with a share of its own sample; newly visible parts use the
sample alone. Frames between two key frames blend the chroma of both, carried along the flow and
weighted by proximity. A shot ends where most of a frame is not found in the next one.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from condiff.arrays import Plane
from condiff.video.motion import Guide, Motion, Track, estimate

Strokes = NDArray[Any]  # (h,w,4) uint8 RGBA, opaque at given colours

EVERY = 12  # frames from one key frame to the next
OWN_SHARE = 0.3  # of a key frame's own sample, where carried chroma exists
HINTED_SHARE = 0.1  # the same in a shot with hints, so that their colours persist
CUT = 0.35  # a smaller share of a frame found in the next is a cut
UNSURE = 0.05  # weight of carried chroma where motion is unreliable, of 1


class Frame(Protocol):
    """A frame to be coloured."""

    @property
    def guide(self) -> Guide:
        """Its L*, (h,w) uint8, at the size for motion estimation."""


F = TypeVar("F", bound=Frame)


@dataclass(frozen=True)
class Key:
    """The state at a key frame: chroma (h,w,2) and strokes there, and the shot's number from 1."""

    chroma: Plane
    strokes: Strokes | None
    shot: int


@dataclass(frozen=True)
class Colored(Generic[F]):
    """A frame with its chroma (h,w,2) at the guide's size; at key frames the state, too."""

    frame: F
    chroma: Plane
    key: Key | None = None


@dataclass(frozen=True)
class Steady(Generic[F]):
    """Colours a sequence of frames.

    `sample` returns a key frame's own chroma, given the frame and its strokes or None. `strokes`
    returns those of a shot's first frame, given the frame and the shot's number.
    """

    sample: Callable[[F, Strokes | None], Plane]
    strokes: Callable[[F, int], Strokes | None] = field(default=lambda frame, shot: None)
    every: int = EVERY
    own_share: float = OWN_SHARE

    def run(self, frames: Iterable[F], start: Key | None = None) -> Iterator[Colored[F]]:
        """Yield the frames in order with their chroma; at most `every` + 1 are in memory.

        `start` is the state at the first frame, if a run is resumed at a key frame.
        """
        span: _Span[F] | None = None
        shot = start.shot if start else 0
        for frame in frames:
            if span is None:
                key = start or self._open_shot(frame, shot := shot + 1)
                span = _Span(frame, key)
                continue
            back, ahead = estimate(span.frames[-1].guide, frame.guide)
            if max(back.share, ahead.share) < CUT:
                yield from self._close_shot(span)
                span = _Span(frame, self._open_shot(frame, shot := shot + 1))
                continue
            span.add(frame, back, ahead)
            if len(span.frames) > self.every:
                key = self._next_key(span)
                yield from span.color(key)
                span = _Span(frame, key)
        if span is not None:
            yield from self._close_shot(span)

    def _open_shot(self, frame: F, shot: int) -> Key:
        strokes = self.strokes(frame, shot)
        return Key(self.sample(frame, strokes), strokes, shot)

    def _next_key(self, span: "_Span[F]") -> Key:
        """The state at the last frame of a span."""
        track, strokes = span.tracks[-1], span.key.strokes
        if strokes is not None:
            strokes = track.carry(strokes, cv2.INTER_NEAREST)
            strokes[track.held < 0.5] = 0
        own = self.sample(span.frames[-1], strokes)
        share = self.own_share if strokes is None else min(self.own_share, HINTED_SHARE)
        weight = (track.held * (1 - share))[..., None]
        chroma = weight * track.carry(span.key.chroma) + (1 - weight) * own
        return Key(chroma, strokes, span.key.shot)

    def _close_shot(self, span: "_Span[F]") -> Iterator[Colored[F]]:
        """The frames of a shot's last span; its last frame becomes a key frame."""
        last = span.key
        if len(span.frames) > 1:
            last = self._next_key(span)
            yield from span.color(last)
        yield Colored(span.frames[-1], last.chroma, last)


class _Span(Generic[F]):
    """Frames from a key frame on, with tracks back to it and motion to the next frame."""

    def __init__(self, frame: F, key: Key):
        self.frames, self.key = [frame], key
        self.tracks = [Track.at(*frame.guide.shape)]
        self.ahead: list[Motion] = []

    def add(self, frame: F, back: Motion, ahead: Motion) -> None:
        self.frames.append(frame)
        self.tracks.append(self.tracks[-1].extend(back))
        self.ahead.append(ahead)

    def color(self, end: Key) -> Iterator[Colored[F]]:
        """All frames except the last, a key frame with the state `end`."""
        length = len(self.frames) - 1
        to_end = [Track.at(*self.frames[-1].guide.shape)]
        for motion in reversed(self.ahead):
            to_end.append(to_end[-1].extend(motion))
        to_end.reverse()
        yield Colored(self.frames[0], self.key.chroma, self.key)
        for n in range(1, length):
            chroma = _blend(
                (self.tracks[n].carry(self.key.chroma), self.tracks[n].held, 1 - n / length),
                (to_end[n].carry(end.chroma), to_end[n].held, n / length),
            )
            yield Colored(self.frames[n], chroma)


def _blend(*parts: tuple[Plane, Plane, float]) -> Plane:
    """Blend chroma (h,w,2), each with its confidence (h,w) and a weight."""
    total = np.zeros(parts[0][1].shape, np.float32)
    mixed = np.zeros_like(parts[0][0])
    for chroma, held, share in parts:
        weight = np.maximum(held, UNSURE) * np.float32(share)
        total += weight
        mixed += chroma * cv2.merge([weight, weight])
    return mixed / cv2.merge([total, total])
