"""Motion between frames: optical flow, its reliability per pixel, and chains of flows."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from condiff.arrays import Plane

Guide = NDArray[Any]  # (h,w) uint8, L* of 0 to 100 as 0 to 255

FLOW_SIDE = 240  # largest short side for estimating motion and carrying chroma
# A pixel is visible in both frames if the flow there and back ends near it (the criterion of
# Sundaram, Brox and Keutzer 2010) and its lightness is similar.
RELATIVE_ERROR, ABSOLUTE_ERROR = 0.01, 2.0  # of squared lengths, pixels^2; 0.5 loses flat areas
SAME_LIGHTNESS = 32  # levels of a guide, 12.5 L*


def guide_size(width: int, height: int) -> tuple[int, int]:
    """Width and height for motion: half those of the frame, the short side at most 240."""
    scale = min(0.5, FLOW_SIDE / min(width, height))
    return max(16, round(width * scale)), max(16, round(height * scale))


@dataclass(frozen=True)
class Motion:
    """Flow from a frame to its neighbour, (h,w,2) in pixels, and its validity, (h,w) 0 or 1."""

    flow: Plane
    held: Plane

    @property
    def share(self) -> float:
        """The share of the frame that is found in the neighbour."""
        return float(self.held.mean())


def estimate(before: Guide, after: Guide) -> tuple[Motion, Motion]:
    """The motion from `after` back to `before`, and from `before` ahead to `after`."""
    search = _search()
    back = search.calc(after, before, None)
    ahead = search.calc(before, after, None)
    return (
        Motion(back, _check(back, ahead, after, before)),
        Motion(ahead, _check(ahead, back, before, after)),
    )


@cache
def _search() -> Any:
    """Dense inverse search with the preset `fast`; it has no state between calls."""
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)


@cache
def grid(height: int, width: int) -> Plane:
    """Every pixel's position (h,w,2) as (x,y); cached, do not modify."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.dstack([x, y])


def take(values: Plane, places: Plane, how: int = cv2.INTER_LINEAR) -> Plane:
    """Values (h,w[,C]) at places (h,w,2) in pixels, clamped at the edges."""
    x, y = cv2.split(places)
    return cv2.remap(values, x, y, how, borderMode=cv2.BORDER_REPLICATE)


def _squared(vectors: Plane) -> Plane:
    """The squared lengths of vectors (h,w,2), without NumPy's slow sum over the last axis."""
    x, y = cv2.split(vectors)
    return x * x + y * y


def _check(flow: Plane, other: Plane, here: Guide, there: Guide) -> Plane:
    """Where the other flow inverts a flow and L* is similar: (h,w) float32, 0 or 1."""
    height, width = here.shape
    places = grid(height, width) + flow
    back = take(other, places)
    missed = _squared(flow + back)
    length = _squared(flow) + _squared(back)
    changed = cv2.absdiff(here, take(there, places))
    x, y = places[..., 0], places[..., 1]
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    held = (missed <= RELATIVE_ERROR * length + ABSOLUTE_ERROR) & (changed <= SAME_LIGHTNESS)
    return (held & inside).astype(np.float32)


@dataclass(frozen=True)
class Track:
    """Each pixel's place in a key frame, (h,w,2), and its confidence, 0 to 1."""

    places: Plane
    held: Plane

    @classmethod
    def at(cls, height: int, width: int) -> "Track":
        """The track of the key frame itself."""
        return cls(grid(height, width), np.ones((height, width), np.float32))

    def extend(self, motion: Motion) -> "Track":
        """The track of the next frame, from its motion back to this track's frame."""
        places = grid(*motion.held.shape) + motion.flow
        return Track(take(self.places, places), take(self.held, places) * motion.held)

    def carry(self, values: Plane, how: int = cv2.INTER_LINEAR) -> Plane:
        """Values (h,w,C) of the key frame, warped to this frame."""
        return take(values, self.places, how)
