"""Takes the colours of reference photos for the places of a photo that match them.

Cells of the photo and of a reference are matched by features of their lightness. A match counts if
it is mutual and its neighbours' matches lie beside it, as in neighbourhood consensus networks
(Rocco et al. 2018, arXiv:1810.10510), with a fixed filter in place of a learnt one. Where such
matches are dense, their chroma, smoothed along L*, becomes a guide; elsewhere there is none.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from condiff.arrays import Plane
from condiff.color.hints import Strokes
from condiff.color.lab import rgb_to_lab
from condiff.errors import ImageError, PagesError
from condiff.files import short_digest
from condiff.photos.reading import PhotoLike, as_photo
from condiff.resize import resize, shrink_short_side

LARGEST_SIDE = 768  # short side of a reference that is kept
MIN_CHROMA = 1.0  # mean chroma of a photo that has colours to give
MAX_CELLS = 3072  # that are matched; maps of more are averaged: the cost grows with the square
MUTUAL = 1.5  # cells: how far from a cell the match of its match may lie
BESIDE = 1.5  # cells: how far a neighbour's match may lie from the neighbour of the match
REACH = 3.0  # cells: standard deviation of the neighbourhood in which matches are counted
SAME_L = 6.0  # L*: standard deviation of what counts as the same lightness in smoothing
# Shares of matches that count in a cell's neighbourhood: up to the first the guide has no weight,
# from the second on all. Unrelated photos stay below the first at most places.
FEW, MANY = 0.2, 0.55
MIN_SHARE = 0.25  # of a photo that a guide is for, where a reference must match
HINT_WEIGHT = 0.9  # of the guide in a cell that the model gets as a hint


@dataclass(frozen=True, eq=False)
class Reference:
    """A colour photo whose colours are taken: RGB (H,W,3), its short side at most LARGEST_SIDE."""

    pixels: NDArray[Any]

    @classmethod
    def open(cls, photo: "PhotoLike | Reference") -> "Reference":
        """A reference of whatever `as_photo` takes; ImageError for a photo without colours."""
        if isinstance(photo, Reference):
            return photo
        name = photo if isinstance(photo, (str, os.PathLike)) else "the reference"
        try:
            whole = as_photo(photo).pixels
        except PagesError:
            raise ImageError(f"{name} has several pages or frames: give one photo") from None
        pixels = np.ascontiguousarray(shrink_short_side(whole, LARGEST_SIDE))
        if np.linalg.norm(rgb_to_lab(pixels)[..., 1:], axis=2).mean() < MIN_CHROMA:
            raise ImageError(f"{name} has no colours to take: give a colour photo")
        return cls(pixels)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of its content."""
        return short_digest(repr(self.pixels.shape).encode() + self.pixels.tobytes())


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """A photo in cells: features (h,w,K) of its lightness, and L* (h,w) and chroma (h,w,2)."""

    features: Plane
    L: Plane
    chroma: Plane | None = None  # None: the photo is to be coloured

    @classmethod
    def build(cls, features: Plane, L: Plane, chroma: Plane | None = None) -> "FeatureMap":
        """Planes of any sizes, resized to that of the features, but to at most MAX_CELLS cells."""
        height, width = features.shape[:2]
        scale = min(1.0, (MAX_CELLS / (height * width)) ** 0.5)
        height, width = max(1, int(height * scale)), max(1, int(width * scale))

        def fit(plane: Plane) -> Plane:
            return resize(plane, height, width).reshape(height, width, -1).astype(np.float32)

        return cls(fit(features), fit(L)[..., 0], None if chroma is None else fit(chroma))


@dataclass(frozen=True, eq=False)
class Guide:
    """Chroma (h,w,2) for a photo's cells, and its weight (h,w) in [0,1] against the model's."""

    chroma: Plane
    weight: Plane

    @property
    def share(self) -> float:
        """The share of the photo that the guide covers, 0 to 1."""
        return float(self.weight.mean())

    def resized(self, height: int, width: int) -> "Guide":
        """The guide for another number of cells."""
        return Guide(resize(self.chroma, height, width), resize(self.weight, height, width))

    def blend(self, chroma: Plane) -> Plane:
        """Chroma (h,w,2) of the model with the guide's, by weight."""
        guide = self.resized(*chroma.shape[:2])
        weight = guide.weight[..., None]
        return (weight * guide.chroma + (1 - weight) * chroma).astype(np.float32)

    def to_strokes(self, strokes: Strokes | None, cells: tuple[int, int], cell: int) -> Strokes:
        """The user's strokes, and strokes in those of the `cells` (h,w) that the guide is sure of.

        A cell, `cell` pixels of the strokes wide, with a user's stroke in it is the user's alone.
        """
        height, width = cells
        guide = self.resized(height, width)
        taken = guide.weight >= HINT_WEIGHT
        if strokes is not None:
            cover = cv2.resize(strokes.mask, (width, height), interpolation=cv2.INTER_AREA)
            taken &= cover == 0
        mask = _repeat(taken.astype(np.float32), cell)
        values = _repeat(guide.chroma, cell)
        if strokes is not None:
            values = np.where(strokes.mask[..., None] > 0, strokes.values, values)
            mask = np.maximum(mask, strokes.mask)
        return Strokes(values, mask)


def match_references(photo: FeatureMap, views: Sequence[FeatureMap]) -> Guide:
    """The guide for a photo, from views of references (a photo and its mirror image are two).

    Each cell uses the view with the densest matches there.
    """
    height, width = photo.L.shape
    near, alike = _compare_cells(photo.L)
    density = np.zeros(height * width, np.float32)
    chroma = np.zeros((height * width, 2), np.float32)
    for view in views:
        assert view.chroma is not None
        match, trust = match_cells(photo.features, view.features)
        found = near @ trust.ravel()
        sure = trust.ravel() * found**2 + 1e-9
        colors = view.chroma.reshape(-1, 2)[match.ravel()]
        smooth = (alike @ (sure[:, None] * colors)) / (alike @ sure)[:, None]
        denser = found > density
        density = np.where(denser, found, density)
        chroma = np.where(denser[:, None], smooth, chroma)
    ramp = np.clip((density - FEW) / (MANY - FEW), 0, 1)
    weight = ramp * ramp * (3 - 2 * ramp)
    return Guide(
        chroma.reshape(height, width, 2).astype(np.float32),
        weight.reshape(height, width).astype(np.float32),
    )


def match_cells(features: Plane, others: Plane) -> tuple[NDArray[np.int64], Plane]:
    """For each cell of (h,w,K) the index of its match among (H,W,K), and the trust in it in [0,1].

    Trust is the share of the neighbours whose matches lie beside the cell's, and 0 where the match
    is not mutual. A cell is compared together with its eight neighbours.
    """
    similarity = _add_neighbours(_correlate(features, others))
    height, width, rows, columns = similarity.shape
    flat = similarity.reshape(height * width, rows * columns)
    match, back = flat.argmax(axis=1), flat.argmax(axis=0)
    y, x = np.divmod(np.arange(height * width), width)
    back_y, back_x = np.divmod(back[match], width)
    mutual = np.hypot(back_y - y, back_x - x) <= MUTUAL
    place = np.dstack(np.divmod(match.reshape(height, width), columns))
    beside, neighbours = np.zeros((height, width)), np.zeros((height, width))
    for dy, dx in _OFFSETS:
        here, there = _shift(height, dy, width, dx)
        apart = place[there] - place[here] - (dy, dx)
        beside[here] += np.hypot(apart[..., 0], apart[..., 1]) <= BESIDE
        neighbours[here] += 1
    trust = beside / np.maximum(neighbours, 1) * mutual.reshape(height, width)
    return match.reshape(height, width), trust.astype(np.float32)


_OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def _shift(height: int, dy: int, width: int, dx: int) -> tuple[Any, Any]:
    """Indices of the cells that have a neighbour at (dy,dx), and of these neighbours."""
    here = slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx))
    there = slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx))
    return here, there


def _correlate(features: Plane, others: Plane) -> Plane:
    """Cosine similarities (h,w,H,W) of features, after the mean of both is subtracted."""
    flat, other = (f.reshape(-1, f.shape[2]).astype(np.float32) for f in (features, others))
    mean = np.concatenate([flat, other]).mean(axis=0)
    units = []
    for rows in (flat - mean, other - mean):
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        units.append(rows / np.maximum(length, 1e-6))
    return (units[0] @ units[1].T).reshape(*features.shape[:2], *others.shape[:2])


def _add_neighbours(similarity: Plane) -> Plane:
    """The mean (h,w,H,W) over the pairs of neighbours at the same offset, fewer at the edge."""
    height, width, rows, columns = similarity.shape
    total = similarity.copy()
    for dy, dx in _OFFSETS:
        here, there = _shift(height, dy, width, dx)
        other_here, other_there = _shift(rows, dy, columns, dx)
        total[here + other_here] += similarity[there + other_there]
    total /= _count_pairs(height, rows)[:, None, :, None]
    total /= _count_pairs(width, columns)[None, :, None, :]
    return total


def _count_pairs(length: int, other: int) -> Plane:
    """How many of the shifts -1, 0, 1 keep both indices inside: (length,other)."""
    i, j = np.ogrid[0:length, 0:other]
    inside = 1 + ((i > 0) & (j > 0)) + ((i < length - 1) & (j < other - 1))
    return inside.astype(np.float32)


def _compare_cells(L: Plane) -> tuple[Plane, Plane]:
    """Weights (n,n) between a map's n cells: by distance, with rows of sum 1; by that and by L*."""
    height, width = L.shape
    y, x = np.mgrid[0:height, 0:width].reshape(2, -1).astype(np.float32)
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    near = np.exp(squared / np.float32(-2 * REACH**2))
    flat = L.ravel()
    alike = near * np.exp((flat[:, None] - flat) ** 2 / np.float32(-2 * SAME_L**2))
    return near / near.sum(axis=1, keepdims=True), alike


def _repeat(plane: Plane, cell: int) -> Plane:
    """Each cell as `cell` by `cell` pixels."""
    return plane.repeat(cell, axis=0).repeat(cell, axis=1)
