"""Brings a small coloured picture to the size of its drawing: flat inside the lines, sharp at them.

The colours of the small picture's cells spread over the drawing by an edge-preserving filter, the
domain transform (Gastal and Oliveira 2011, doi:10.1145/1964921.1964964), which lines stop.
A cell that a line crosses mixes the colours of both sides, so it counts little: a normalized
convolution (Knutsson and Westin 1993) weighs each cell by its distance from the lines.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from condiff.arrays import Plane
from condiff.conditions.drawing_cleanup import shrink_ink
from condiff.conditions.drawing_regions import fill_regions, find_regions

REACH = 0.7  # standard deviation of the filter, in cells of the small picture
PASSES = 3  # of the filter, across and down: more change little
BARRIER = 8.0  # the distance that crossing a line adds, in standard deviations
FAINT = 0.12  # weaker ink, in [0,1], is not a line
FLOOR = 1e-4  # weight of a cell that a line crosses: such a cell counts where there is no other
FILLED = 12.0  # largest cell, in pixels, at which regions are filled; larger drawings are shrunk
CLEARANCE = 0.5  # distance from the nearest line at which a cell counts fully, in cells


def finish_along_lines(
    small: NDArray,
    ink: NDArray,
    *,
    keep_lines: bool = True,
    flat: float = 0.0,
    hints: tuple[Plane, Plane] | None = None,
) -> NDArray:
    """RGB (h,w,3) in [0,1] and the ink (H,W) uint8 of its drawing -> RGB (H,W,3) in [0,1].

    `keep_lines` draws the ink over the colours. `flat`, from 0 to 1, is how even colours are inside
    closed lines: 0 unchanged, 1 one colour per region. That is the colour of the region's `hints`,
    as `fill_regions` takes them, where there are some.
    """
    height, width = ink.shape
    cell = max(height / small.shape[0], width / small.shape[1])
    if cell <= 1:
        colors = cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA)
    else:
        if flat and cell > FILLED:
            scale = FILLED / cell
            middle = shrink_ink(ink, round(width * scale), round(height * scale))
            small, cell = _spread_and_fill(small, middle, FILLED, flat, hints), 1 / scale
            colors, _ = _spread_colors(small, ink, cell)
        else:
            colors = _spread_and_fill(small, ink, cell, flat, hints)
    if keep_lines:
        colors = colors * _transparency(ink)[..., None]
    return np.asarray(colors.clip(0, 1), np.float32)


def share_of_regions(ink: NDArray[np.uint8], cells: tuple[int, int]) -> Plane:
    """The part of each cell (h,w,n) of a small picture that each region of a drawing covers.

    `cells` are h and w, and the ink (H,W) is several times as large.
    """
    clear = _measure_clearance(*_find_barriers(ink, ink.shape[0] / cells[0]))
    labels = find_regions(ink, clear, ink.shape[0] / cells[0])
    planes = [
        cv2.resize((labels == n).astype(np.float32), cells[::-1], interpolation=cv2.INTER_AREA)
        for n in range(1, int(labels.max()) + 1)
    ]
    return np.stack(planes, axis=2)


def _find_barriers(
    ink: NDArray[np.uint8], cell: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where (H,W) a line is crossed, going across and going down.

    Lines several pixels wide are barriers only at their middle, so that the colours of both sides
    meet there.
    """
    dark = ink.astype(np.float32) / 255
    middle = cv2.GaussianBlur(dark, (0, 0), max(0.8, cell / 4))
    return _ridge(middle, dark, axis=1), _ridge(middle, dark, axis=0)


def _measure_clearance(across: NDArray[np.bool_], down: NDArray[np.bool_]) -> Plane:
    """The distance (H,W) from the nearest line, in pixels."""
    return cv2.distanceTransform((~(across | down)).astype(np.uint8), cv2.DIST_L2, 3)


def _spread_and_fill(
    small: NDArray, ink: NDArray, cell: float, flat: float, hints: tuple[Plane, Plane] | None
) -> Plane:
    colors, clear = _spread_colors(small, ink, cell)
    if flat:
        filled = fill_regions(colors, ink, clear, cell=cell, hints=hints)
        colors = colors + np.float32(flat) * (filled - colors)
    return colors


def _spread_colors(small: NDArray, ink: NDArray, cell: float) -> tuple[Plane, Plane]:
    """RGB (H,W,3) along the lines, and the distance (H,W) from the nearest line, in pixels."""
    height, width = ink.shape
    across, down = _find_barriers(ink, cell)
    clear = _measure_clearance(across, down)
    reach = np.float32(cell * CLEARANCE)
    weight = (np.minimum(clear, reach) / reach) ** 4 + np.float32(FLOOR)
    upright = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    planes = np.concatenate([upright * weight[..., None], weight[..., None]], axis=2)
    columns = np.ascontiguousarray(planes.transpose(1, 0, 2), np.float32)
    sigma = cell * REACH
    for n in range(PASSES):
        # Standard deviations that halve from pass to pass and make up `sigma` together.
        part = sigma * np.sqrt(3) * 2.0 ** (PASSES - n - 1) / np.sqrt(4.0**PASSES - 1)
        passes = np.float32(np.exp(-np.sqrt(2) / part))
        stops = np.float32(np.exp(-np.sqrt(2) * BARRIER * sigma / part))
        _spread(columns, np.where(across.T, stops, passes))
        rows = np.ascontiguousarray(columns.transpose(1, 0, 2))
        _spread(rows, np.where(down, stops, passes))
        columns = np.ascontiguousarray(rows.transpose(1, 0, 2))
    return rows[..., :3] / np.maximum(rows[..., 3:], np.float32(1e-12)), clear


def _transparency(ink: NDArray) -> Plane:
    return 1 - ink.astype(np.float32) / 255


def _ridge(middle: Plane, dark: Plane, *, axis: int) -> NDArray[np.bool_]:
    """Where the ink is strongest along an axis: the middle pixel of every line that crosses it."""
    before, after = np.roll(middle, 1, axis), np.roll(middle, -1, axis)
    return (middle >= before) & (middle > after) & (middle > FAINT * dark.max())


def _spread(slices: Plane, passes: Plane) -> None:
    """The recursive filter along the first axis of (N,M,C), there and back.

    `passes` (N,M) is the share of a slice that reaches the next one.
    """
    shares = np.repeat(passes[..., None], slices.shape[2], axis=2)
    step = np.empty_like(slices[0])
    for here, there, share in zip(slices[1:], slices[:-1], shares[1:], strict=True):
        np.subtract(there, here, out=step)
        step *= share
        here += step
    for here, there, share in zip(slices[-2::-1], slices[:0:-1], shares[:0:-1], strict=True):
        np.subtract(there, here, out=step)
        step *= share
        here += step
