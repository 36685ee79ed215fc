"""Baselines without a model: grey passthrough, and the mean colour of a set."""

from collections.abc import Iterable

import numpy as np

from condiff.color.lab import join_chroma, rgb_to_lab
from condiff.evaluation.metrics import Floats, Pixels

GREY, MEAN_COLOUR, TRUTH = "grey passthrough", "mean colour", "truth"


def grey_passthrough(pixels: Pixels) -> Pixels:
    """The photo's L* without any colour: what a colorizer that does nothing returns."""
    grey = with_chroma(pixels, np.zeros(2, np.float32))
    return np.repeat(grey[..., 1:2], 3, axis=2)  # the three may round apart


def mean_chroma(truths: Iterable[Pixels]) -> Floats:
    """Mean (a,b) of a set of photos, each photo counting the same."""
    return np.mean([rgb_to_lab(pixels)[..., 1:].mean((0, 1)) for pixels in truths], axis=0)


def with_chroma(pixels: Pixels, ab: Floats) -> Pixels:
    """The photo's L* under one constant (a,b), as far as sRGB has it."""
    return join_chroma(pixels, np.asarray(ab, np.float32).reshape(1, 1, 2))
