"""Conversions of x_0, noise, x_t and the network's prediction, for NumPy and torch arrays.

Ho et al. 2020 (arXiv:2006.11239) for the process, Salimans & Ho 2022 (arXiv:2202.00512) for v.
docs/guide/diffusion.md has all formulas beside their configuration keys.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from condiff.config import PredictionType

# An array of NumPy or of torch, float32. alpha_bar is an array of it that broadcasts, or a number.
Array = TypeVar("Array", bound=Any)


def add_noise(x_0: Array, eps: Array, alpha_bar: Any) -> Array:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps."""
    return _sqrt(alpha_bar) * x_0 + _sqrt(1 - alpha_bar) * eps


def target(prediction_type: PredictionType, x_0: Array, eps: Array, alpha_bar: Any) -> Array:
    """The training target: eps, x_0, or v = sqrt(alpha_bar) eps - sqrt(1-alpha_bar) x_0.

    The squared error of v is that of the noise weighted by 1/alpha_bar.
    """
    if prediction_type == "epsilon":
        return eps
    if prediction_type == "sample":
        return x_0
    return _sqrt(alpha_bar) * eps - _sqrt(1 - alpha_bar) * x_0


def to_x_0(
    prediction_type: PredictionType, model_output: Array, x_t: Array, alpha_bar: Any
) -> Array:
    """The clean image that a model output stands for."""
    if prediction_type == "sample":
        return model_output
    signal, sigma = _sqrt(alpha_bar), _sqrt(1 - alpha_bar)
    if prediction_type == "epsilon":
        return (x_t - sigma * model_output) / signal
    return signal * x_t - sigma * model_output


def to_eps(x_0: Array, x_t: Array, alpha_bar: Any) -> Array:
    """The noise in x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps."""
    sigma = _sqrt(1 - alpha_bar)
    least = sigma.clip(1e-8) if hasattr(sigma, "clip") else max(sigma, 1e-8)
    return (x_t - _sqrt(alpha_bar) * x_0) / least


def from_x_0(prediction_type: PredictionType, x_0: Array, x_t: Array, alpha_bar: Any) -> Array:
    """The model output that stands for a clean image: the inverse of `to_x_0`."""
    if prediction_type == "sample":
        return x_0
    return target(prediction_type, x_0, to_eps(x_0, x_t, alpha_bar), alpha_bar)


def guidance_branches(scales: Sequence[float]) -> list[int]:
    """The numbers of the outputs that `guide_along` needs for these scales: the others cancel."""
    own = [*scales, 1.0]
    before = [0.0, *scales]
    return [number for number, (s, b) in enumerate(zip(own, before, strict=True)) if s != b]


def guide_along(outputs: Mapping[int, Array], scales: Sequence[float]) -> Array:
    """Classifier-free guidance along a chain of conditions: e_n + sum of scales[i] (e_i - e_i+1).

    `outputs` are the e_i that `guidance_branches` names: e_0 with all conditions, each following
    one with fewer, e_n with none. With one scale w this is null + w (cond - null), so that 1 is off
    (Ho & Salimans 2022, arXiv:2207.12598); with two, of words and picture, it is eq. 3 of
    InstructPix2Pix (Brooks et al. 2022, arXiv:2211.09800).
    """
    numbers = sorted(outputs)
    guided = outputs[numbers[-1]]
    for number, following in zip(numbers[-2::-1], numbers[:0:-1], strict=True):
        guided = guided + scales[number] * (outputs[number] - outputs[following])
    return guided


def project_guidance(guided: Array, cond: Array, x_0: Array, *, eta: float) -> Array:
    """Guided outputs (B,C,h,w) with `eta` of what guidance adds along the colour of each pixel.

    `cond` is the output with all conditions, and `x_0` the clean image that it predicts. What
    guidance adds is split, pixel by pixel, into a part parallel to x_0 and one orthogonal to it.
    The parallel part makes colours stronger, wrong ones too; the orthogonal one changes their hue.
    `eta` 1 is guidance unchanged, 0 keeps only the orthogonal part. This is the projection of
    adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416), there over whole images.
    """
    if eta == 1:
        return guided
    added = guided - cond
    square = (x_0 * x_0).sum(1)[:, None] + 1e-6
    return guided - (1 - eta) * (added * x_0).sum(1)[:, None] / square * x_0


def _sqrt(x: Any) -> Any:
    """The square root in single precision; of a number as a Python float, which torch takes too."""
    if hasattr(x, "sqrt"):
        return x.sqrt()
    root = np.sqrt(x, dtype=np.float32)
    return root if root.ndim else float(root)
