"""Several results for one photo: how far they differ, and rules to pick one."""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from condiff.color.lab import rgb_to_lab

Pixels = NDArray[Any]  # uint8 or uint16
Plane = NDArray[Any]  # float32

MAX_SIDE = 1024  # long side at which chroma, which is smooth, is compared at most


def compare_size(pixels: Pixels) -> tuple[int, int]:
    """(width, height) at which samples are compared: the photo's, its long side at most 1024."""
    height, width = pixels.shape[:2]
    scale = min(1.0, MAX_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def chroma_of(samples: Sequence[Pixels]) -> Plane:
    """Answers (H,W,3) -> their a and b (N,h,w,2)."""
    size = compare_size(samples[0])
    small = (cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) for pixels in samples)
    return np.stack([rgb_to_lab(pixels)[..., 1:] for pixels in small])


def measure_deviation(samples: Sequence[Pixels]) -> Plane:
    """How far samples (H,W,3) are from their mean: (h,w), the root mean square in units of ab."""
    chroma = chroma_of(samples)
    apart = chroma - chroma.mean(axis=0)
    return np.sqrt((apart * apart).sum(axis=3).mean(axis=0))


def find_median(samples: Sequence[Pixels]) -> int:
    """The index of the answer whose chroma is nearest to the mean of all."""
    chroma = chroma_of(samples)
    apart = chroma - chroma.mean(axis=0)
    return int(np.argmin((apart * apart).sum(axis=3).mean(axis=(1, 2))))


def find_colorful(samples: Sequence[Pixels]) -> int:
    """The index of the answer with the largest mean chroma."""
    return int(np.argmax(np.linalg.norm(chroma_of(samples), axis=3).mean(axis=(1, 2))))


PICKS: dict[str, Callable[[Sequence[Pixels]], int]] = {
    "best": find_median,  # the rule that came nearest to the truth where it was measured
    "median": find_median,
    "colorful": find_colorful,
}
