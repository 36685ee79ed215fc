"""Baselines without a model: grey passthrough, and the mean colour of a set."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from condiff.arrays import Pixels
from condiff.color.lab import join_chroma, rgb_to_lab
from condiff.errors import DataError
from condiff.evaluation.metrics import Floats

GREY, MEAN_COLOUR, TRUTH = "grey passthrough", "mean colour", "truth"


def check_methods(
    methods: Collection[str], truths: Sequence[Pixels], baselines: Collection[str]
) -> None:
    """Raise DataError where there is no photo, or a method has the name of a baseline."""
    if not truths:
        raise DataError("there is no photo to evaluate: give at least one true photo.")
    if taken := set(methods) & set(baselines):
        raise DataError(f"'{taken.pop()}' is the name of a baseline: give the method another name.")


def check_picture(method: str, number: int, picture: Pixels, truth: Pixels) -> None:
    """Raise DataError for a method's picture, counted from 1, unless it has its truth's size."""
    if picture.shape != truth.shape:
        raise DataError(
            f"picture {number} of '{method}' is {picture.shape[1]}x{picture.shape[0]} but its "
            f"truth is {truth.shape[1]}x{truth.shape[0]}: give pictures of the same size."
        )


def grey_passthrough(pixels: Pixels) -> Pixels:
    """The photo's L* without any colour: what a colorizer that does nothing returns."""
    grey = with_chroma(pixels, np.zeros(2, np.float32))
    return np.repeat(grey[..., 1:2], 3, axis=2)  # the three may round apart


def mean_chroma(truths: Iterable[Pixels]) -> Floats:
    """Mean (a,b) of a set of photos, each photo counting the same."""
    return np.mean([rgb_to_lab(pixels)[..., 1:].mean((0, 1)) for pixels in truths], axis=0)


def with_chroma(pixels: Pixels, ab: Floats) -> Pixels:
    """The photo's L* with one constant (a,b), as far as sRGB allows."""
    return join_chroma(pixels, np.asarray(ab, np.float32).reshape(1, 1, 2))
