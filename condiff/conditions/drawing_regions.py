"""The regions of a drawing, which its lines enclose, and one colour for each.

Trapped-ball segmentation (Zhang et al. 2009, doi:10.1109/TVCG.2009.9): a ball does not pass a gap
that is narrower than itself, so the places that a ball can reach are regions, in spite of gaps in
their outlines. What is left is searched with smaller balls. Regions of like colours between which
there is no line are joined.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[Any]  # float32
Labels = NDArray[np.int32]

BALL = 1.0  # radius of the largest ball, in cells of the small picture
SMALLEST_BALL = 0.5  # in pixels
SAMPLES = 48  # of a region's colours, at most, of which the most central one is its colour
ALIKE = 0.12  # regions whose colours differ by less in each channel, in [0,1], are joined
PAPER = 0.82  # the least channel of a background that is paper
SAME, OTHER = 0.35, 0.6  # up to SAME a colour is its region's, from OTHER on something else's
SMALLEST = 1.5  # area of the smallest region that is filled, in cells
EDGE = 0.7  # sigma of the blur where two regions meet, in pixels


def fill_regions(
    colors: Plane, clear: Plane, *, cell: float, hints: tuple[Plane, Plane] | None = None
) -> Plane:
    """RGB (H,W,3) -> RGB (H,W,3) with one colour in each region.

    `clear` (H,W) is the distance from the nearest line, and `cell` the side of the small picture's
    cells, both in pixels. Colours count by their distance from lines. What is smaller than a cell
    stays as it is, and so does a colour that is far from its region's: its outline is missing. A
    light background becomes white paper. `hints` are colours (h,w,3) in [0,1] and a mask (h,w) of
    where they are given, of any size: a region with a hint has the hint's colour.
    """
    weight = (np.minimum(clear, cell / 2) * 2 / cell) ** 4 + np.float32(1e-4)
    labels = label_regions(clear, BALL * cell)
    centers, size = _join(labels, clear, *_central_colors(colors, weight, labels))
    centers = _whiten_paper(centers, labels)
    centers, hinted = _apply_hints(centers, labels, hints)
    change = centers[labels - 1] - colors
    far = np.abs(change).max(axis=2)
    alike = ((OTHER - far) / (OTHER - SAME)).clip(0, 1) * (size >= SMALLEST * cell**2)[labels - 1]
    share = np.where(hinted[labels - 1], np.float32(1), alike)
    return colors + cv2.GaussianBlur(change * share[..., None], (0, 0), EDGE)


def label_regions(clear: Plane, ball: float) -> Labels:
    """Labels 1, 2, … of all pixels, for distances (H,W) from the nearest line.

    `ball` is the radius of the largest ball, in pixels: gaps of less than twice that are closed.
    Lines belong to the nearest region.
    """
    labels, found = np.zeros(clear.shape, np.int32), 0
    while True:
        ball = max(ball, SMALLEST_BALL)
        free = (clear > ball) & (labels == 0)
        count, parts = cv2.connectedComponents(free.astype(np.uint8), connectivity=4)
        rest = np.zeros(count, bool)  # parts at the edges of regions that were found before
        if found:
            beside = cv2.dilate((labels > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            rest[parts[beside & free]] = True
        new = ~rest
        new[0] = False  # what is not free
        numbers = np.where(new, found + np.cumsum(new), 0).astype(np.int32)
        found += int(new.sum())
        labels = np.where(free, numbers[parts], labels)
        if found:
            nearest, distance = _nearest(labels)
            reached = (labels == 0) & (clear > 0) & ((distance <= ball) | (free & rest[parts]))
            labels[reached] = nearest[reached]
        if ball == SMALLEST_BALL:
            return _nearest(labels)[0] if found else np.ones(clear.shape, np.int32)
        ball /= 2


def _nearest(labels: Labels) -> tuple[Labels, Plane]:
    """The nearest label of every pixel, and its distance."""
    distance, places = cv2.distanceTransformWithLabels(
        (labels == 0).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    there = labels > 0
    label_of = np.zeros(int(places.max()) + 1, np.int32)
    label_of[places[there]] = labels[there]
    return label_of[places], np.asarray(distance)


def _central_colors(colors: Plane, weight: Plane, labels: Labels) -> tuple[Plane, Plane]:
    """The most central colour of each of the n regions, (n,C), and the region's weight, (n,).

    A mean of two colours would be a third one; the most central one is a colour of the region.
    """
    order = np.argsort(labels, axis=None, kind="stable")
    colors, weight = colors.reshape(-1, colors.shape[2])[order], weight.reshape(-1)[order]
    ends = np.cumsum(np.bincount(labels.reshape(-1)))[1:]
    centers = np.zeros((len(ends), colors.shape[1]), np.float32)
    mass = np.zeros(len(ends))
    middles = (np.arange(SAMPLES) + 0.5) / SAMPLES
    for n, end in enumerate(ends):
        start = ends[n - 1] if n else 0
        sums = np.cumsum(weight[start:end], dtype=np.float64)
        mass[n] = sums[-1]
        spread = np.searchsorted(sums, middles * mass[n]).clip(0, end - start - 1)
        some = colors[start + np.unique(spread)]
        distances = np.abs(some[:, None] - some[None]).sum(axis=(1, 2))
        centers[n] = some[np.argmin(distances)]
    return centers, mass


def _join(
    labels: Labels, clear: Plane, centers: Plane, mass: Plane
) -> tuple[Plane, NDArray[np.int64]]:
    """Colours (n,C) and sizes (n,) of the regions once neighbours of like colours are joined.

    Neighbours between which there is a line are not.
    """
    n = len(centers)
    size = np.bincount(labels.reshape(-1), minlength=n + 1)[1:]
    sides = [_open_borders(labels, clear, axis) for axis in (0, 1)]
    pairs, lengths = np.unique(np.concatenate(sides), axis=0, return_counts=True)
    colors, mass, root = centers.copy(), mass.copy(), np.arange(n)

    def find(region: int) -> int:
        while root[region] != region:
            root[region] = root[root[region]]
            region = int(root[region])
        return region

    for first, second in pairs[np.argsort(-lengths, kind="stable")]:
        one, other = find(first - 1), find(second - 1)
        if one == other or np.abs(colors[one] - colors[other]).max() >= ALIKE:
            continue
        share = np.float32(mass[other] / (mass[one] + mass[other]))
        colors[one] += share * (colors[other] - colors[one])
        root[other] = one
        size[one] += size[other]
        mass[one] += mass[other]
    roots = [find(region) for region in range(n)]
    return colors[roots], size[roots]


def _whiten_paper(centers: Plane, labels: Labels) -> Plane:
    """The colours (n,C) of the regions, white for light ones that reach the drawing's border."""
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    white = centers.copy()
    for color in np.unique(centers[np.unique(rim) - 1], axis=0):
        if color.min() >= PAPER:
            white[(centers == color).all(axis=1)] = 1
    return white


def _apply_hints(
    centers: Plane, labels: Labels, hints: tuple[Plane, Plane] | None
) -> tuple[Plane, NDArray[np.bool_]]:
    """The colours (n,C) of the regions with those of hints, and which regions have one, (n,)."""
    hinted = np.zeros(len(centers), bool)
    if hints is None:
        return centers, hinted
    size = labels.shape[1], labels.shape[0]
    values, mask = (cv2.resize(h, size, interpolation=cv2.INTER_NEAREST) for h in hints)
    given, found = mask > 0, centers.copy()
    for n in np.unique(labels[given]):
        found[n - 1] = np.median(values[given & (labels == n)], axis=0)
        hinted[n - 1] = True
    return found, hinted


def _open_borders(labels: Labels, clear: Plane, axis: int) -> NDArray[np.int32]:
    """The pairs of labels (N,2), the smaller first, of border pixels that no line covers."""
    one, two = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
    free = np.moveaxis(clear, axis, 0) > 0
    border = (one != two) & free[:-1] & free[1:]
    return np.sort(np.stack([one[border], two[border]], axis=1), axis=1)
