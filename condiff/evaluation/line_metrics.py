"""Metrics of pictures made from drawings: do they follow the lines, and do they differ?

`ink` is (H,W) uint8, 255 on paper 0; `pixels` are uint8 RGB (H,W,3).
"""

from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np

from condiff.color.lab import rgb_to_lab
from condiff.errors import DataError
from condiff.evaluation.metrics import Pixels

TOLERANCE = 2.0  # pixels
STROKE = 127  # stronger ink is a line


def edge_f1(ink: np.ndarray, truth: np.ndarray, *, tolerance: float = TOLERANCE) -> float:
    """How well lines match others of the same size: the F1 of their pixels, in [0,1].

    A pixel of a line counts as right where the other drawing has one within `tolerance` pixels,
    Euclidean. Two blank sheets score 1, a blank one and another 0.
    """
    if ink.shape != truth.shape:
        raise DataError(
            f"lines of {ink.shape[1]}x{ink.shape[0]} are compared with {truth.shape[1]}x"
            f"{truth.shape[0]}: bring them to one size."
        )
    lines, others = ink > STROKE, truth > STROKE
    if not lines.any() or not others.any():
        return float(lines.any() == others.any())
    precision = float(np.mean(_distance_to(others)[lines] <= tolerance))
    recall = float(np.mean(_distance_to(lines)[others] <= tolerance))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def lab_diversity(samples: Sequence[Pixels]) -> float:
    """Mean Euclidean Lab distance of a pixel, over all pairs of at least two samples."""
    labs = [rgb_to_lab(pixels) for pixels in samples]
    distances = [
        np.linalg.norm(one - other, axis=-1).mean() for one, other in combinations(labs, 2)
    ]
    return float(np.mean(distances))


def _distance_to(lines: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the nearest line, (H,W) float32; there must be a line."""
    paper = (~lines).astype(np.uint8)
    return cv2.distanceTransform(paper, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
