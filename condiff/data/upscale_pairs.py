"""For the task upscale: windows of a view, and the small pictures that they are made from."""

from dataclasses import dataclass

import cv2
import numpy as np

from condiff.resize import FACTORS, bring_up

MARGIN = 16  # pixels around a window, so that its border changes neither lines nor cubics
BLUR = 1.0  # at most, a standard deviation in pixels of the small picture
NOISE = 16.0  # at most, a standard deviation, of 255


@dataclass(frozen=True)
class Window:
    """A square of `side` pixels, and a larger one around it, which lines are drawn from."""

    row: int  # of the larger square in the view
    column: int
    seen: int  # side of the larger square
    top: int  # of the window in the larger square
    left: int
    side: int

    def cut(self, view: np.ndarray) -> np.ndarray:
        """Cut the larger square out of a view (S,S,C): (seen,seen,C)."""
        rows, columns = slice(self.row, self.row + self.seen), slice(self.column, None)
        return np.ascontiguousarray(view[rows, columns][:, : self.seen])

    def inside(self, seen: np.ndarray) -> np.ndarray:
        """Cut the window out of the larger square (seen,seen,C): (side,side,C)."""
        rows, columns = slice(self.top, self.top + self.side), slice(self.left, None)
        return seen[rows, columns][:, : self.side]


def sample_window(length: int, side: int, rng: np.random.Generator) -> Window:
    """A random window of `side` in a view of `length` pixels a side, with margins if they fit.

    Margins vary by a few pixels, so that windows lie anywhere on the grid of the small picture.
    """
    seen = min(length, side + 2 * MARGIN)
    row, column = (int(n) for n in rng.integers(length - seen + 1, size=2))
    room = seen - side
    shift = min(room, max(FACTORS))
    top, left = (int(n) + (room - shift) // 2 for n in rng.integers(shift + 1, size=2))
    return Window(row, column, seen, top, left, side)


def make_small(pixels: np.ndarray, rng: np.random.Generator, *, degrade: float) -> np.ndarray:
    """(n,n,3) uint8 -> (n,n,3) float32 in [0,255]: shrunk by a random factor, enlarged again.

    With the probability `degrade` it is blurred and noised while small, because pictures of the
    first stage are not photos: conditioning augmentation (Ho et al. 2021, arXiv:2106.15282).
    """
    side = max(1, round(len(pixels) / FACTORS[int(rng.integers(len(FACTORS)))]))
    shrunk = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
    small: np.ndarray = shrunk.astype(np.float32)
    if rng.random() < degrade:
        small = cv2.GaussianBlur(small, (0, 0), float(rng.uniform(0.1, BLUR)))
        grain = rng.standard_normal(small.shape, dtype=np.float32)
        small = (small + np.float32(rng.uniform(0, NOISE)) * grain).clip(0, 255)
    return bring_up(small, width=len(pixels), height=len(pixels)).clip(0, 255)
