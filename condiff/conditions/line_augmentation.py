"""Augments lines for training, so that a model follows lines and not one extractor's habits.

Lines (H,W) are ink: 1 on paper 0 inside, as float32, and 255 on 0 outside, as uint8. The
differences between a user's drawing and an extractor's are applied at random: a hand's wobble, the
pen's width, strokes left out, a scan's blur, grain and paper, and sometimes a negative.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from condiff.arrays import Plane


@dataclass(frozen=True)
class Augmentation:
    """One row of the table: the function, its probability, and the range of its amount."""

    function: Callable[[Plane, float, np.random.Generator], Plane]
    probability: float
    low: float
    high: float


def jitter(lines: Plane, amount: float, rng: np.random.Generator) -> Plane:
    """Bend the sheet by up to about `amount` pixels, smoothly."""
    cell = rng.uniform(12, 48)
    grid = np.indices(lines.shape, dtype=np.float32)
    y = grid[0] + np.float32(amount) * _noise(lines.shape, cell, rng)
    x = grid[1] + np.float32(amount) * _noise(lines.shape, cell, rng)
    return cv2.remap(lines, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def thickness(lines: Plane, amount: float, rng: np.random.Generator) -> Plane:
    """Grow lines by `amount` pixels on each side; below 0 shave them, but never away."""
    if amount < 0:
        square = np.ones((3, 3), np.uint8)
        thin = cv2.erode(lines, square)
        hairs = lines - cv2.dilate(thin, square)  # what eroding would lose altogether
        return _mix(lines, np.maximum(thin, hairs), min(1, -amount))
    whole = int(amount)
    return _mix(_grow(lines, whole), _grow(lines, whole + 1), amount - whole)


def gaps(lines: Plane, amount: float, rng: np.random.Generator) -> Plane:
    """Remove lines in patches that cover the share `amount` of the sheet."""
    field = _noise(lines.shape, rng.uniform(4, 20), rng)
    return np.where(field < np.quantile(field, amount), np.float32(0), lines)


def blur(lines: Plane, amount: float, rng: np.random.Generator) -> Plane:
    """Blur with a sigma of `amount` pixels."""
    return cv2.GaussianBlur(lines, (0, 0), amount)


def paper(lines: Plane, amount: float, rng: np.random.Generator) -> Plane:
    """Darken the paper by up to `amount`, unevenly, as if badly lit; ink stays."""
    light = 0.75 + 0.25 * _noise(lines.shape, max(lines.shape), rng)
    return lines + (1 - lines) * np.float32(amount) * light


def noise(lines: Plane, amount: float, rng: np.random.Generator) -> Plane:
    """Add grain with a standard deviation of `amount`."""
    return lines + np.float32(amount) * rng.standard_normal(lines.shape, dtype=np.float32)


def polarity(lines: Plane, amount: float, rng: np.random.Generator) -> Plane:
    """Invert, for users' drawings whose paper was mistaken for ink."""
    return 1 - lines


AUGMENTATIONS: dict[str, Augmentation] = {  # in the order in which they happen to a drawing
    "jitter": Augmentation(jitter, 0.3, 0.5, 2.5),
    "thickness": Augmentation(thickness, 0.5, -1, 1.2),
    "gaps": Augmentation(gaps, 0.3, 0.05, 0.3),
    "blur": Augmentation(blur, 0.3, 0.4, 1.5),
    "paper": Augmentation(paper, 0.3, 0.03, 0.25),
    "noise": Augmentation(noise, 0.3, 0.01, 0.08),
    "polarity": Augmentation(polarity, 0.05, 1, 1),
}


def augment_lines(lines: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H,W,1) uint8 ink -> (H,W,1) uint8: each augmentation with its probability and amount."""
    plane = lines[..., 0].astype(np.float32) / 255
    for row in AUGMENTATIONS.values():
        if rng.random() < row.probability:
            plane = row.function(plane, float(rng.uniform(row.low, row.high)), rng)
    return (plane.clip(0, 1) * 255).round().astype(np.uint8)[..., None]


def _noise(shape: tuple[int, ...], cell: float, rng: np.random.Generator) -> Plane:
    """Smooth noise in about [-1,1], its hills some `cell` pixels wide."""
    height, width = shape
    coarse = rng.uniform(-1, 1, (round(height / cell) + 2, round(width / cell) + 2))
    return cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def _grow(lines: Plane, radius: int) -> Plane:
    if radius == 0:
        return lines
    side = 2 * radius + 1
    return cv2.dilate(lines, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))


def _mix(first: Plane, second: Plane, part: float) -> Plane:
    return first + np.float32(part) * (second - first)
