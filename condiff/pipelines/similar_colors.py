"""Common colours for the places of a photo that look alike.

A model gives one sky, or one saucer, patches of other colours. Here every predicted x_0 is averaged
over cells of similar content and lightness: non-local means (Buades, Coll and Morel 2005,
doi:10.1109/CVPR.2005.38), with the backbone's features in place of a neighbourhood's pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condiff.arrays import Plane

Array = Any  # float32, of NumPy or torch
TEMPERATURE = 0.07  # of the features' cosine: exp((cosine - 1) / TEMPERATURE)
SAME_L = 8.0  # L*: standard deviation of what counts as the same lightness
MAX_WEIGHTS = 2**22  # 16 MiB a window; of a larger one every s-th cell of each s-th row is averaged


@dataclass(frozen=True, eq=False)
class SimilarColors:
    """Averages x_0 (1,C,h,w) of N cells over M similar cells; arrays are the backend's."""

    grid: tuple[int, int]  # rows and columns of the N cells
    stride: int  # between the M cells, in rows and in columns
    own: Array  # (N,1): the weight of a cell's own colour
    others: Array  # (N,M): those of the M cells; with `own` a row adds up to 1

    @classmethod
    def build(
        cls,
        features: Plane,
        L: Plane,
        *,
        hinted: NDArray[np.bool_] | None = None,
        to_device: Callable[[NDArray[Any]], Array],
    ) -> "SimilarColors":
        """Build from features (K,h,w) and L* (h,w) of the cells.

        Cells of `hinted` (h,w) keep their colours, and give none to others.
        """
        channels = features - features.mean((1, 2), keepdims=True)
        channels /= np.maximum(channels.std((1, 2), keepdims=True), 1e-3)
        channels /= np.maximum(np.linalg.norm(channels, axis=0), np.float32(1e-6))
        free = np.ones(L.shape, bool) if hinted is None else ~hinted
        stride = 1
        while L.size * L[::stride, ::stride].size > MAX_WEIGHTS:
            stride += 1

        def flatten(plane: NDArray[Any], step: int = 1) -> NDArray[Any]:
            return plane[..., ::step, ::step].reshape(*plane.shape[:-2], -1)

        cosine = flatten(channels).T @ flatten(channels, stride)
        apart = (flatten(L)[:, None] - flatten(L, stride)) / np.float32(SAME_L)
        similar = np.exp((cosine - 1) / np.float32(TEMPERATURE) - apart**2 / 2)
        similar *= flatten(free)[:, None] & flatten(free, stride)
        similar *= np.float32(stride**2)  # one of them stands for so many cells
        total = 1 + similar.sum(1, keepdims=True)
        return cls(
            (L.shape[0], L.shape[1]),
            stride,
            to_device(np.ascontiguousarray(1 / total, np.float32)),
            to_device(np.ascontiguousarray(similar / total, np.float32)),
        )

    def __call__(self, x_0: Array) -> Array:
        """x_0 (1,C,h,w), averaged over similar cells; a cell may be a patch of p by p pixels."""
        (rows, columns), patch = self.grid, x_0.shape[-1] // self.grid[1]
        patches = x_0.reshape(-1, rows, patch, columns, patch)
        cells = patches.swapaxes(0, 1).swapaxes(1, 3)  # (rows,columns,patch,C,patch)
        averaged = cells[:: self.stride, :: self.stride].reshape(self.others.shape[1], -1)
        mixed = self.own * cells.reshape(rows * columns, -1) + self.others @ averaged
        return mixed.reshape(cells.shape).swapaxes(1, 3).swapaxes(0, 1).reshape(x_0.shape)
