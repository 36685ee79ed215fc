"""Overlapping tiles, for pictures that are larger than a network takes at once.

MultiDiffusion (Bar-Tal et al. 2023, arXiv:2302.08113): at every step of denoising the predictions
of all tiles are averaged, so that neighbouring tiles agree and no seams appear.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tiles:
    """Tiles of one size, given by the first row and the first column of each."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    height: int  # of a tile
    width: int

    @property
    def parts(self) -> list[tuple[Any, ...]]:
        """The index of every tile in an array (...,H,W), row by row."""
        return [
            (..., slice(row, row + self.height), slice(column, column + self.width))
            for row in self.rows
            for column in self.columns
        ]

    def scaled(self, factor: int) -> "Tiles":
        """The same tiles of an array that is larger by a whole factor."""
        rows, columns = (tuple(factor * s for s in starts) for starts in (self.rows, self.columns))
        return Tiles(rows, columns, factor * self.height, factor * self.width)

    @property
    def weight(self) -> np.ndarray:
        """Weights of a tile's pixels, (height,width) float32: largest in the middle, above 0."""
        return np.outer(_ramp(self.height), _ramp(self.width)).astype(np.float32)


def plan_tiles(height: int, width: int, *, side: int, overlap: int) -> Tiles:
    """The fewest tiles of at most `side` pixels that cover (height,width).

    Neighbours share at least `overlap` pixels.
    """
    tall, wide = min(side, height), min(side, width)
    return Tiles(_starts(height, tall, overlap), _starts(width, wide, overlap), tall, wide)


def predict_in_tiles(
    predict: Callable[[Any, Any], Any], x_t: Any, cond: Any, *, tiles: Tiles, weight: Any
) -> Any:
    """The weighted mean (B,C,H,W) of predict(x_t, cond) over all tiles.

    Arrays are numpy's or torch's; `weight` is `tiles.weight` as such an array. `cond` is an array
    that is cut like x_t, or a list or tuple of one condition per tile.
    """
    parts = tiles.parts
    conds: Sequence[Any] = cond if isinstance(cond, (list, tuple)) else [cond[p] for p in parts]
    if len(parts) == 1:
        return predict(x_t, conds[0])
    total, weights = 0 * x_t, 0 * x_t[:1, :1]
    for part, own in zip(parts, conds, strict=True):
        total[part] += weight * predict(x_t[part], own)
        weights[part] += weight
    return total / weights


def _starts(length: int, side: int, overlap: int) -> tuple[int, ...]:
    """First pixels of the tiles, evenly spaced from 0 to length - side."""
    steps = math.ceil((length - side) / max(1, side - overlap))
    return tuple(round(i * (length - side) / max(1, steps)) for i in range(steps + 1))


def _ramp(side: int) -> np.ndarray:
    """A squared sine over the tile's pixels."""
    return np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
