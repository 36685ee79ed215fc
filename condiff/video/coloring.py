"""The chroma of key frames by a pipeline, with hints that follow motion."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from condiff._version import __version__
from condiff.arrays import Pixels, Plane
from condiff.color.edits import NO_EDITS, ColorEdits
from condiff.color.hints import Hint, cover_dab
from condiff.color.lab import lightness, upsample_chroma
from condiff.config import SamplingConfig
from condiff.files import short_digest
from condiff.photos.photo import Photo
from condiff.photos.provenance import add_provenance
from condiff.pipelines.pipeline import Pipeline
from condiff.video.reading import Film, FilmFrame
from condiff.video.steady import EVERY, Colored, Steady, Strokes
from condiff.video.yuv import solve_chroma


@dataclass(frozen=True)
class Coloring:
    """The settings of a film's chroma; a result is a function of these and the frames."""

    pipeline: Pipeline
    config: SamplingConfig
    seed: int
    edits: ColorEdits = NO_EDITS  # hints are placed on the first frame of a shot
    every: int = EVERY
    hint_shots: tuple[int, ...] = ()  # the shots that get the hints, from 1; none: all

    def describe(self) -> dict[str, Any]:
        """All settings that the colours depend on, to check that a run may be resumed."""
        edits, hints = self.edits, self.edits.hints
        given: Any
        if isinstance(hints, Image.Image):
            given = short_digest(hints.tobytes())
        else:
            given = [[hint.x, hint.y, hint.color] for hint in hints]
        return {
            "version": __version__,
            "model": self.pipeline.loaded.name,
            "engine": self.pipeline.backend.name,
            "sampling": self.config.model_dump(mode="json"),
            "seed": self.seed,
            "every": self.every,
            "hints": given,
            "hint_shots": list(self.hint_shots),
            "edits": [
                edits.saturation,
                edits.temperature,
                edits.mask_digest,
                edits.as_is,
                edits.reference_digests,
                edits.palette_note,
            ],
        }

    def sample(self, pixels: Pixels, size: tuple[int, int], strokes: Image.Image | None) -> Plane:
        """The chroma (h,w,2) of an upright picture (H,W,3), at the size (width, height).

        `strokes` are the hints at this frame, a transparent picture, or None.
        """
        edits = replace(self.edits, hints=strokes if strokes is not None else ())
        pipeline = self.pipeline
        encoded = pipeline.encode(pixels, config=self.config, edits=edits)
        *_, x_0 = pipeline.sample(encoded, config=self.config, seed=self.seed)
        prepared = encoded.edits
        (height, width), (wide, high) = pixels.shape[:2], size
        box = prepared.box or (slice(0, height), slice(0, width))
        inside = pixels[box]
        cells = pipeline.to_cells(x_0, encoded) * pipeline.loaded.task.space.scale
        chroma = prepared.keep_hints(prepared.recolor(cells, inside), inside)
        down, across = high / height, wide / width
        top, bottom = round(box[0].start * down), round(box[0].stop * down)
        left, right = round(box[1].start * across), round(box[1].stop * across)
        fitting = (max(1, right - left), max(1, bottom - top))
        L = lightness(cv2.resize(inside, fitting, interpolation=cv2.INTER_AREA))
        fine = upsample_chroma(chroma, L)
        if prepared.adjust:
            fine = prepared.adjust(np.dstack([L, fine]))[..., 1:]
        if prepared.weight is not None:
            weight = cv2.resize(prepared.weight, fitting, interpolation=cv2.INTER_AREA)
            fine = fine * (weight[..., None] / np.float32(255))
        whole = np.zeros((high, wide, 2), np.float32)
        whole[top : top + fitting[1], left : left + fitting[0]] = fine[: high - top, : wide - left]
        return whole

    def strokes_of(self, shot: int, size: tuple[int, int]) -> Strokes | None:
        """The hints of a shot's first frame as RGBA (h,w,4) at the size (width, height)."""
        if self.hint_shots and shot not in self.hint_shots:
            return None
        hints = self.edits.hints
        if isinstance(hints, Image.Image):
            picture = hints.convert("RGBA")
            return np.array(picture.resize(size, Image.Resampling.NEAREST))
        return draw_dabs(hints, size) if hints else None

    def describe_making(self) -> str:
        """The note that a model made a film's colours."""
        model = self.pipeline.loaded.name
        return f"Colours made by condiff {__version__}, model {model}, seed {self.seed}."

    def note_making(self, frame: Photo) -> Photo:
        """A frame with the note that a model made its colours."""
        metadata = add_provenance(
            frame.metadata,
            model=self.pipeline.loaded.name,
            seed=self.seed,
            settings={**self.config.model_dump(mode="json"), "every": self.every},
        )
        return replace(frame, metadata=metadata)


def draw_dabs(hints: Sequence[Hint], size: tuple[int, int]) -> Strokes:
    """Hints as discs on transparent RGBA (h,w,4), for a picture of (width, height)."""
    width, height = size
    strokes = np.zeros((height, width, 4), np.uint8)
    for hint in hints:
        inside = cover_dab(*hint.locate(width, height), (height, width), least=2)
        strokes[inside] = (*ImageColor.getrgb(hint.color)[:3], 255)
    return strokes


def to_shares(edits: ColorEdits, film_size: tuple[int, int]) -> ColorEdits:
    """Convert hints in pixels of a frame of (width, height) to shares of its sides.

    Raises ConfigError for hints outside the frame, and for pictures of another aspect.
    """
    edits.prepare(photo=film_size, size=(16, 16))
    if isinstance(edits.hints, Image.Image):
        return edits
    width, height = film_size
    placed = []
    for hint in edits.hints:
        x, y = hint.locate(width, height)
        placed.append(Hint(float(x / width), float(y / height), hint.color))
    return replace(edits, hints=placed)


def steady_for(film: Film, coloring: Coloring) -> Steady[FilmFrame]:
    """The method of colouring a film's frames."""
    wide, high = film.guide_size
    upright = (high, wide) if film.turns % 2 else (wide, high)

    def sample(frame: FilmFrame, strokes: Strokes | None) -> Plane:
        picture = None if strokes is None else Image.fromarray(film.upright(strokes), "RGBA")
        return film.stored(coloring.sample(frame.picture(), upright, picture))

    def strokes_of(_: FilmFrame, shot: int) -> Strokes | None:
        strokes = coloring.strokes_of(shot, upright)
        return None if strokes is None else film.stored(strokes)

    return Steady(sample, strokes_of, every=coloring.every)


def chroma_planes(colored: Colored[FilmFrame]) -> tuple[NDArray[Any], NDArray[Any]]:
    """U and V of a frame that give its chroma at the frame's own Y."""
    frame, ab = colored.frame, colored.chroma
    coding = frame.film.coding
    luma = frame.luma_of_chroma()
    if ab.shape[:2] != luma.shape:
        ab = upsample_chroma(ab, coding.lightness(luma))
    return coding.chroma_levels(*solve_chroma(luma, ab, coding))
