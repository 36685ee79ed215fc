"""The regions of a drawing, which its lines enclose, and one colour for each.

Trapped-ball segmentation (Zhang et al. 2009, doi:10.1109/TVCG.2009.9): a ball does not pass a gap
that is narrower than itself, so the places that a ball can reach are regions, in spite of gaps in
their outlines. The rest is searched with smaller balls. Regions of similar colours are joined if
there is no line between them.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from condiff.arrays import Plane
from condiff.conditions.filters import find_ends

Labels = NDArray[np.int32]

BALL = 1.5  # radius of the largest ball, in cells of the small picture
SMALLEST_BALL = 0.5  # in pixels
SAMPLES = 48  # most samples of a region's colours; the most central of them is its colour
ALIKE = 0.12  # regions whose colours differ by less in each channel, in [0,1], are joined
PAPER = 0.82  # the least channel of a region at the border that is paper
TINTED = 0.7  # ... and of one that takes most of the border
OTHER = 0.35  # a colour that differs by more from its region's, in a channel, is another object's
SMOOTHED = 1.0  # sigma at which the difference is taken, in cells
STRIP = 2.0, 4.0  # largest width and least length of a strip along the border, in cells
SHAPE = 6.0  # area of the smallest object with a partly missing outline, in cells
OUTLINED, BESIDE = 0.75, 0.6  # share of the outline that has a line, and how near, in cells
STROKE = 0.25  # weaker ink, as a share of the strongest, is not a stroke that ends
TWIG = 0.5  # strokes of fewer cells are twigs of others
AT_END = 0.5  # largest distance from a stroke's end that counts as at the end, in cells
PASSAGE = 1.5  # half the width of the narrowest passage, in pixels
SMALLEST = 1.5  # area of the smallest region that is filled, in cells
EDGE = 0.7  # sigma of the blur where two regions meet, in pixels


def fill_regions(
    colors: Plane,
    ink: NDArray[np.uint8],
    clear: Plane,
    *,
    cell: float,
    hints: tuple[Plane, Plane] | None = None,
) -> Plane:
    """RGB (H,W,3) -> RGB (H,W,3) with one colour in each region of a drawing, its ink (H,W).

    `clear` (H,W) is the distance from the nearest line, and `cell` the side of the small picture's
    cells, both in pixels. Colours count by their distance from lines. What is smaller than a cell
    stays as it is. A part of a region with another colour is a separate object if most of its
    outline is drawn, else a blotch, which gets the region's colour. A light background becomes
    white paper. `hints` are colours (h,w,3) in [0,1] and a mask (h,w) of where they are given, of
    any size: a region with a hint has the hint's colour.
    """
    weight = (np.minimum(clear, cell / 2) * 2 / cell) ** 4 + np.float32(1e-4)
    labels = find_regions(ink, clear, cell)
    labels, centers = _join(labels, clear, *_central_colors(colors, weight, labels))
    parted = _part_shapes(labels, colors - centers[labels - 1], weight, clear, cell)
    if parted.max() > len(centers):
        labels, (centers, _) = parted, _central_colors(colors, weight, parted)
    centers = _whiten_paper(centers, labels)
    centers, hinted = _apply_hints(centers, labels, hints)
    size = np.bincount(labels.reshape(-1), minlength=len(centers) + 1)[1:]
    filled = (size >= SMALLEST * cell**2) | hinted
    change = (centers[labels - 1] - colors) * filled[labels - 1, None]
    return colors + cv2.GaussianBlur(change, (0, 0), EDGE)


def find_regions(ink: NDArray[np.uint8], clear: Plane, cell: float) -> Labels:
    """Labels 1, 2, … (H,W) of the regions of a drawing, as `fill_regions` takes its arguments."""
    labels = _join_strips(label_regions(clear, BALL * cell), clear, cell)
    return _join_passages(labels, ink, clear, cell)


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
        numbers = np.zeros(count, np.int32)  # of the parts: 0 for what is not free
        if found:  # what is connected to a region that was found before is a part of it
            beside = free & (cv2.dilate((labels > 0).astype(np.uint8), np.ones((3, 3))) > 0)
            pairs = np.stack([parts[beside], _nearest(labels)[0][beside]], axis=1)
            pairs, lengths = np.unique(pairs, axis=0, return_counts=True)
            for part, label in pairs[np.argsort(lengths, kind="stable")]:
                numbers[part] = label
        new = numbers == 0
        new[0] = False
        numbers[new] = found + np.arange(1, new.sum() + 1)
        found += int(new.sum())
        labels = np.where(free, numbers[parts], labels)
        if found:
            # Only what a ball covers: from a pixel at a line, the nearest may be across it.
            nearest, distance = _nearest(np.where(clear > ball, labels, 0))
            reached = (labels == 0) & (clear > 0) & (distance <= ball)
            labels[reached] = nearest[reached]
        if ball == SMALLEST_BALL:
            return _nearest(labels)[0] if found else np.ones(clear.shape, np.int32)
        ball /= 2


def _join_strips(labels: Labels, clear: Plane, cell: float) -> Labels:
    """Labels with one for all regions that follow each other along the drawing's border.

    Between an outline and the border there may be so little paper that no ball passes: the paper
    would fall into pieces. A line that reaches the border, or nearly, still separates regions.
    """
    width, length = (n * cell for n in STRIP)
    around, distance = rim_of(labels), rim_of(clear)
    root = np.arange(int(labels.max()) + 1)
    narrow = (distance > 0) & (distance < width)
    ends = np.flatnonzero(np.diff(np.concatenate([[False], narrow, [False]])))
    for start, end in ends.reshape(-1, 2):
        if end - start < length:
            continue
        found = {*root[around[max(0, start - 1) : end + 1]]}
        root[np.isin(root, [*found])] = min(found)
    numbers = np.unique(root, return_inverse=True)[1]
    return numbers.astype(np.int32)[labels]


def _join_passages(labels: Labels, ink: NDArray[np.uint8], clear: Plane, cell: float) -> Labels:
    """Labels with one for regions that are joined by a narrow passage, not by a gap in a line.

    At a gap in an outline strokes end: two of them, or one where it is less wide than two cells.
    Where a ball does not pass between two strokes that go on, both sides are one region.
    """
    strokes = (ink > STROKE * ink.max()).astype(np.uint8)
    ends = find_ends(strokes, shortest=max(3, round(TWIG * cell)))
    if ends.any():
        from_end, nearest = cv2.distanceTransformWithLabels(
            1 - ends, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_CCOMP
        )
    else:
        from_end, nearest = np.full(clear.shape, np.inf), np.zeros(clear.shape, np.int32)
    sides = [_open_sides(labels, (strokes == 0) & (clear > 0), axis) for axis in (0, 1)]
    borders = np.zeros(labels.shape, np.uint8)
    for axis, (_, _, free) in enumerate(sides):
        np.moveaxis(borders, axis, 0)[:-1][free] = 1
    _, parts = cv2.connectedComponents(borders, connectivity=8)
    rows = []
    for axis, (one, other, free) in enumerate(sides):
        planes = (np.moveaxis(p, axis, 0)[:-1][free] for p in (parts, nearest, from_end, clear))
        pair = np.minimum(one, other)[free], np.maximum(one, other)[free]
        rows.append(np.stack([*pair, *planes], axis=1))
    table = np.concatenate(rows)
    passages, which = np.unique(table[:, :3], axis=0, return_inverse=True)
    which, half = which.reshape(-1), np.zeros(len(passages))
    np.maximum.at(half, which, table[:, 5])
    at_end = table[:, 4] <= half[which] + AT_END * cell
    met = np.unique(np.stack([which[at_end], table[at_end, 3]], axis=1), axis=0)
    count = np.bincount(met[:, 0].astype(int), minlength=len(passages))
    gap = (count >= 2) | ((count == 1) & (half <= cell))
    root = np.arange(int(labels.max()) + 1)
    for low, high in passages[~gap & (half >= PASSAGE), :2].astype(int):
        one, other = sorted((root[low], root[high]))
        root[root == other] = one
    return np.unique(root, return_inverse=True)[1].astype(np.int32)[labels]


def rim_of(plane: NDArray[Any]) -> NDArray[Any]:
    """The border pixels (N,…) of a plane (H,W,…), in their order around it."""
    sides = plane[0, :-1], plane[:-1, -1], plane[-1, :0:-1], plane[:0:-1, 0]
    return np.concatenate(sides)


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


def _join(labels: Labels, clear: Plane, centers: Plane, mass: Plane) -> tuple[Labels, Plane]:
    """Labels and colours (m,C) of the regions once neighbours of similar colours are joined.

    Neighbours with a line between them are not joined.
    """
    n = len(centers)
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
        mass[one] += mass[other]
    left, numbers = np.unique([find(region) for region in range(n)], return_inverse=True)
    return (numbers + 1).astype(np.int32)[labels - 1], colors[left]


def _part_shapes(labels: Labels, change: Plane, weight: Plane, clear: Plane, cell: float) -> Labels:
    """Labels with new ones for objects inside a region, whose outline has a wide gap.

    `change` (H,W,C) is how far the colours are from their regions'.
    """
    blur = cell * SMOOTHED
    total = cv2.GaussianBlur(weight, (0, 0), blur)
    smooth = cv2.GaussianBlur(change * weight[..., None], (0, 0), blur) / total[..., None]
    other = (np.abs(smooth).max(axis=2) > OTHER).astype(np.uint8)
    side = 2 * round(cell) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    other = cv2.morphologyEx(other, cv2.MORPH_OPEN, disc)
    parted, found = labels.copy(), int(labels.max())
    for n in np.unique(labels[other > 0]):
        inside = ((labels == n) & (other > 0)).astype(np.uint8)
        count, parts, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
        for part in range(1, count):
            if stats[part, cv2.CC_STAT_AREA] < SHAPE * cell**2:
                continue
            shape = (parts == part).astype(np.uint8)
            outline = shape - cv2.erode(shape, np.ones((3, 3), np.uint8), borderValue=0)
            if np.mean(clear[outline > 0] <= BESIDE * cell) >= OUTLINED:
                found += 1
                parted[shape > 0] = found
    return parted


def paper_limits(rim: Plane) -> Plane:
    """The least channel (n,), in [0,1], from which a region is paper: 2 for one that never is.

    `rim` (n,) is the share of the drawing's border that each region takes, adding up to at most 1.
    """
    limits = np.where(rim > 0.5, TINTED, PAPER)
    return np.where(rim > 0, limits, 2).astype(np.float32)


def _whiten_paper(centers: Plane, labels: Labels) -> Plane:
    """The colours (n,C) of the regions, white for light ones that reach the drawing's border."""
    count = np.bincount(rim_of(labels), minlength=len(centers) + 1)[1:]
    limits = paper_limits(count / count.sum())
    return np.where((centers.min(axis=1) >= limits)[:, None], np.float32(1), centers)


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
    one, other, free = _open_sides(labels, clear > 0, axis)
    return np.sort(np.stack([one[free], other[free]], axis=1), axis=1)


def _open_sides(
    labels: Labels, blank: NDArray[np.bool_], axis: int
) -> tuple[Labels, Labels, NDArray[np.bool_]]:
    """Labels along an axis, those of the next pixels, and where both differ, on blank paper."""
    one, other = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
    free = np.moveaxis(blank, axis, 0)
    return one, other, (one != other) & free[:-1] & free[1:]
