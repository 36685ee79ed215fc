"""Spreads strokes of colour over the object that they are on, but not across its edges.

Chrominance blending over geodesic distances (Yatziv and Sapiro 2006, doi:10.1109/TIP.2005.864231);
here the model's own chroma is one more colour, at the same distance everywhere.
"""

import cv2
import numpy as np

from condiff.arrays import Plane

REACH = 1.0  # the distance at which a stroke and the model's own colour weigh the same
FLAT_COST = 1.0  # of a path over constant L*, as long as the photo's short side
EDGE_COST = 0.05  # of crossing one unit of L*
SHARPNESS = 4  # a colour's weight is its distance to the power of -SHARPNESS
MAX_COLORS = 32  # strokes are grouped into at most this many colours, to limit memory and time
SWEEPS = 2  # passes down and up; the second one finds paths that turn back


def propagate_hints(chroma: Plane, L: Plane, *, target: Plane, mask: Plane) -> Plane:
    """Chroma (h,w,2) that is `target` where the mask (h,w) is set, and blends into `chroma`.

    A stroke weighs less the farther its path is: length and edges of L* (h,w) both count.
    """
    colors, places = group_colors(target, mask)
    distance = measure_distance(places, measure_steps(L))
    weight = np.maximum(distance, 1e-3) ** -SHARPNESS
    own = np.float32(REACH**-SHARPNESS)
    blended = np.tensordot(weight, colors, (0, 0)) + own * chroma
    blended /= (weight.sum(axis=0) + own)[..., None]
    return np.where(mask[..., None] > 0, target, blended).astype(np.float32)


def group_colors(target: Plane, mask: Plane) -> tuple[Plane, Plane]:
    """Group strokes by colour: mean colours (N,2) and places (N,h,w), N at most MAX_COLORS."""
    inside = mask > 0
    bin_size = 6.0
    while True:
        bins = np.round(target[inside] / bin_size).astype(int)
        kinds, kind = np.unique(bins, axis=0, return_inverse=True)
        if len(kinds) <= MAX_COLORS:
            break
        bin_size *= 1.5
    places = np.zeros((len(kinds), *mask.shape), bool)
    places[(kind.reshape(-1), *np.nonzero(inside))] = True
    return np.stack([target[place].mean(axis=0) for place in places]), places


def measure_steps(L: Plane) -> dict[str, Plane]:
    """The cost of a step from each cell to its right, lower and lower diagonal neighbours."""
    smooth = cv2.bilateralFilter(L.astype(np.float32), 9, 12, 3)  # texture is not an edge
    flat = FLAT_COST / min(L.shape)

    def cost(first: Plane, second: Plane, length: float) -> Plane:
        return length * flat + EDGE_COST * np.abs(first - second)

    return {
        "right": cost(smooth[:, :-1], smooth[:, 1:], 1),
        "down": cost(smooth[:-1], smooth[1:], 1),
        "down right": cost(smooth[:-1, :-1], smooth[1:, 1:], 2**0.5),
        "down left": cost(smooth[:-1, 1:], smooth[1:, :-1], 2**0.5),
    }


def measure_distance(places: Plane, costs: dict[str, Plane]) -> Plane:
    """Costs (N,h,w) of the cheapest paths from N places (N,h,w) to each cell, by sweeps over rows.

    Raster scans as for geodesic distances (Criminisi et al. 2008); within a row the cheapest path
    is a running minimum.
    """
    rows = np.where(places, np.float32(0), np.float32(1e6)).transpose(1, 0, 2).copy()  # (h,N,w)
    along = np.pad(np.cumsum(costs["right"], axis=1), ((0, 0), (1, 0)))
    last = len(rows) - 1
    for _ in range(SWEEPS):
        _relax_row(rows[0], along[0])
        for y in range(last):
            aslant = costs["down right"][y], costs["down left"][y]
            _relax(rows[y + 1], rows[y], costs["down"][y], *aslant)
            _relax_row(rows[y + 1], along[y + 1])
        for y in reversed(range(last)):
            aslant = costs["down left"][y], costs["down right"][y]
            _relax(rows[y], rows[y + 1], costs["down"][y], *aslant)
            _relax_row(rows[y], along[y])
    return rows.transpose(1, 0, 2)


def _relax(row: Plane, before: Plane, straight: Plane, right: Plane, left: Plane) -> None:
    """Lower the costs of a row (N,w) by paths from the row before, straight or diagonal."""
    np.minimum(row, before + straight, out=row)
    np.minimum(row[:, 1:], before[:, :-1] + right, out=row[:, 1:])
    np.minimum(row[:, :-1], before[:, 1:] + left, out=row[:, :-1])


def _relax_row(row: Plane, along: Plane) -> None:
    """Lower the costs of a row (N,w) by paths within it, to the right and back."""
    np.minimum(row, np.minimum.accumulate(row - along, axis=1) + along, out=row)
    back = np.minimum.accumulate((row + along)[:, ::-1], axis=1)
    np.minimum(row, back[:, ::-1] - along, out=row)
