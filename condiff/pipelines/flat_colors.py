"""Even colours in the regions of a drawing, from the first step of sampling on.

A model with little training gives one region many colours, and averaging them at the end mixes
them. Here every predicted x_0 is made flat, so that the following steps start from flat colours, as
in illustrations: a projection in each step, as ILVR (Choi et al. 2021, arXiv:2108.02938) projects
the predicted image onto a reference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condiff.color.hints import Strokes
from condiff.conditions.drawing_finish import share_of_regions
from condiff.conditions.drawing_regions import paper_limits, rim_of

Array = Any  # float32, of NumPy or torch
PURE = 4  # exponent of a cell's share in its weight for a region: cells on lines get little
LEAST = 2.0  # area in cells; a smaller region keeps the model's colours


@dataclass(frozen=True, eq=False)
class FlatColors:
    """Evens out x_0 (1,C,h,w) by the regions of a drawing; arrays are the backend's.

    The drawing covers the first `rows` and `columns` of the N cells of x_0.
    """

    inside: tuple[int, int]  # rows and columns
    shares: Array  # (N,n): the part of each cell that each region covers
    weights: Array  # (n,N): the weight of each cell in a region's colour; rows add up to 1
    rest: Array  # (N,1): the part of each cell outside these regions
    hinted: Array  # (n,1): 1 for regions with a given colour, else 0
    given: Array  # (n,C): these colours
    limits: Array  # (n,1): a region is paper if all channels, in [-1,1], reach this
    strength: float = 1.0  # 0 leaves x_0 unchanged, 1 makes it flat

    @classmethod
    def build(
        cls,
        ink: NDArray[np.uint8],
        cells: tuple[int, int],
        *,
        strength: float,
        strokes: Strokes | None,
        to_device: Callable[[NDArray[Any]], Array],
    ) -> "FlatColors":
        """Build from the ink (H,W) of a drawing; `cells`: rows and columns of x_0 that it covers.

        `strokes` are hints with values in the units of x_0.
        """
        shares = share_of_regions(ink, cells).reshape(cells[0] * cells[1], -1)
        shares = shares[:, shares.sum(0) >= LEAST]
        weights = shares**PURE
        weights /= np.maximum(weights.sum(0), np.float32(1e-9))
        plane, count = shares.reshape(*cells, shares.shape[1]), shares.shape[1]
        hinted, given = np.zeros((count, 1), np.float32), np.zeros((count, 3))
        if strokes is not None:
            hinted, given = _find_hinted(plane, strokes)
        limits = 2 * paper_limits(rim_of(plane).mean(axis=0)) - 1

        def move(array: NDArray[Any]) -> Array:
            return to_device(np.ascontiguousarray(array, np.float32))

        return cls(
            inside=cells,
            shares=move(shares),
            weights=move(weights.T),
            rest=move(1 - shares.sum(1, keepdims=True)),
            hinted=move(hinted),
            given=move(given),
            limits=move(limits[:, None]),
            strength=strength,
        )

    def __call__(self, x_0: Array) -> Array:
        """x_0 (1,C,h,w) with one colour per region, and white paper."""
        rows, columns = self.inside
        cells = x_0[0, :, :rows, :columns].reshape(x_0.shape[1], -1).T
        colors = self.weights @ cells
        paper = (colors >= self.limits).all(1)[:, None]
        colors = colors + paper * (1 - colors)
        colors = colors + self.hinted * (self.given - colors)
        even = self.shares @ colors + self.rest * cells
        cells = cells + self.strength * (even - cells)
        result = 1 * x_0
        result[0, :, :rows, :columns] = cells.T.reshape(x_0.shape[1], rows, columns)
        return result


def _find_hinted(shares: NDArray[Any], strokes: Strokes) -> tuple[NDArray[Any], NDArray[Any]]:
    """Which regions (n,1) have a hint, and its colour (n,C), the median over the hint's pixels."""
    rows, columns, count = shares.shape
    y, x = np.nonzero(strokes.mask)
    height, width = strokes.mask.shape
    there = shares[y * rows // height, x * columns // width]  # (P,n)
    region = there.argmax(1)
    hinted, given = np.zeros((count, 1), np.float32), np.zeros((count, strokes.values.shape[2]))
    for n in np.unique(region[there.max(1) > 0]):
        hinted[n], given[n] = 1, np.median(strokes.values[y, x][region == n], axis=0)
    return hinted, given
