"""Several results for one photo: how far they differ, and rules to pick one."""

from collections.abc import Callable, Sequence

import numpy as np

from condiff.arrays import Pixels, Plane
from condiff.color.lab import rgb_to_lab
from condiff.resize import shrink_long_side

MAX_SIDE = 1024  # largest long side at which chroma, which is smooth, is compared


def measure_deviation(samples: Sequence[Pixels]) -> Plane:
    """How far samples (H,W,3) are from their mean: (h,w), the root mean square in units of ab."""
    return np.sqrt(_squared_deviations(samples).mean(axis=0))


def find_median(samples: Sequence[Pixels]) -> int:
    """The index of the sample whose chroma is nearest to the mean of all."""
    return int(np.argmin(_squared_deviations(samples).mean(axis=(1, 2))))


def find_colorful(samples: Sequence[Pixels]) -> int:
    """The index of the sample with the largest mean chroma."""
    return int(np.argmax(np.linalg.norm(_chroma_of(samples), axis=3).mean(axis=(1, 2))))


def _chroma_of(samples: Sequence[Pixels]) -> Plane:
    """Samples (H,W,3) -> their a and b (N,h,w,2)."""
    small = (shrink_long_side(pixels, MAX_SIDE) for pixels in samples)
    return np.stack([rgb_to_lab(pixels)[..., 1:] for pixels in small])


def _squared_deviations(samples: Sequence[Pixels]) -> Plane:
    """The squared distances (N,h,w), in ab, of samples (H,W,3) from their mean."""
    chroma = _chroma_of(samples)
    return ((chroma - chroma.mean(axis=0)) ** 2).sum(axis=3)


PICKS: dict[str, Callable[[Sequence[Pixels]], int]] = {
    "best": find_median,  # the rule that came nearest to the truth where it was measured
    "median": find_median,
    "colorful": find_colorful,
}
