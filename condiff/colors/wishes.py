"""What a user asks of a photo's colours: hints, saturation and temperature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from condiff.colors.adjust import build_adjustment
from condiff.colors.hints import Hints, Strokes, draw_strokes, to_cells
from condiff.colors.lab import lightness, upsample_chroma
from condiff.colors.spread import spread

Plane = NDArray[Any]  # float32


@dataclass(frozen=True)
class Wishes:
    """Strokes at the size of the condition, and the function that adjusts (H,W,3) Lab."""

    strokes: Strokes | None = None
    adjust: Callable[[Plane], Plane] | None = None

    def keep_hints(self, chroma: Plane, pixels: NDArray[Any]) -> Plane:
        """Chroma (h,w,2) with the strokes blended in, at their size; unchanged without strokes."""
        if self.strokes is None:
            return chroma
        size = self.strokes.mask.shape[::-1]
        L = lightness(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
        fine = upsample_chroma(chroma, L)
        return spread(fine, L, target=self.strokes.chroma, mask=self.strokes.mask)

    def encode_hints(
        self, condition: Plane, *, cell: int, scale: float, size: tuple[int, int]
    ) -> Plane | None:
        """The model's hints (1,3,*size), zero where the condition (H,W,1) was padded, or None."""
        if self.strokes is None:
            return None
        cells = to_cells(self.strokes, (condition[..., 0] + 1) * 50, cell=cell, scale=scale)
        hints = np.zeros((1, cells.shape[2], *size), np.float32)
        hints[0, :, : cells.shape[0], : cells.shape[1]] = cells.transpose(2, 0, 1)
        return hints


NOTHING = Wishes()


def build_wishes(
    *,
    photo: tuple[int, int],
    size: tuple[int, int],
    hints: Hints = (),
    saturation: float = 1.0,
    temperature: float = 0.0,
) -> Wishes:
    """Wishes for a photo of (width, height) whose condition has the size (h,w)."""
    adjust = build_adjustment(saturation=saturation, temperature=temperature)
    return Wishes(draw_strokes(hints, photo=photo, size=size), adjust)


def names_of(*, hints: Hints, saturation: float, temperature: float) -> list[str]:
    """The names of the wishes that differ from the defaults."""
    there = {
        "hints": not isinstance(hints, (list, tuple)) or bool(hints),
        "saturation": saturation != 1,
        "temperature": temperature != 0,
    }
    return [name for name, wanted in there.items() if wanted]


def note_wishes(
    *,
    points: Sequence[str] = (),
    strokes: str | None = None,
    saturation: float = 1.0,
    temperature: float = 0.0,
) -> dict[str, object]:
    """The wishes as they are noted in a result; those at their defaults are left out.

    `points` are hints as they were given, `strokes` is the SHA-256 of a picture of them.
    """
    noted: dict[str, object] = {"hints": list(points)} if points else {}
    if strokes:
        noted["strokes"] = strokes[:16]
    if saturation != 1:
        noted["saturation"] = saturation
    if temperature != 0:
        noted["temperature"] = temperature
    return noted
