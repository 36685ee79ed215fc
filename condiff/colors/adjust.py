"""Saturation and colour temperature, adjusted at constant L*."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condiff.errors import ConfigError

Plane = NDArray[Any]  # float32

DAYLIGHT = 1e6 / 6504  # mired of D65, the white of sRGB
MAX_SATURATION = 5.0
MIN_TEMPERATURE, MAX_TEMPERATURE = -100.0, 200.0  # mired: 18600 K and 2827 K


def build_adjustment(
    *, saturation: float = 1.0, temperature: float = 0.0
) -> Callable[[Plane], Plane] | None:
    """A function that changes a and b of (H,W,3) Lab, or None where nothing is to be changed.

    First chroma is multiplied by `saturation`. Then the white becomes that of a black body
    `temperature` mired (a million by kelvin) warmer than daylight, or cooler if it is negative.
    Raises ConfigError for values out of range.
    """
    if not 0 <= saturation <= MAX_SATURATION:
        raise ConfigError(f"saturation is from 0 to {MAX_SATURATION:g}, not {saturation:g}.")
    if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise ConfigError(
            f"temperature is from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g} mired,"
            f" not {temperature:g}; 0 is as it is, 50 is clearly warmer."
        )
    if saturation == 1 and temperature == 0:
        return None
    gains = white_gains(temperature)
    return partial(adjust, saturation=saturation, gains=gains)


def adjust(lab: Plane, *, saturation: float, gains: tuple[float, float]) -> Plane:
    """(H,W,3) Lab with a and b changed, L* the same; `gains` are of f(X) and of f(Z).

    Scaling X and Z and leaving Y, as a von Kries adaptation in XYZ, is affine in Lab, since
    a = 500 (f(X) - f(Y)), b = 200 (f(Y) - f(Z)) and f is a cube root.
    """
    f_y = (lab[..., 0] + 16) / 116
    a = (500 * f_y + saturation * lab[..., 1]) * gains[0] - 500 * f_y
    b = 200 * f_y - (200 * f_y - saturation * lab[..., 2]) * gains[1]
    return np.stack([lab[..., 0], a, b], axis=2).astype(np.float32)


def white_gains(temperature: float) -> tuple[float, float]:
    """Factors of f(X) and f(Z) that move the white `temperature` mired on the Planckian locus."""
    whites = [_black_body(1e6 / (DAYLIGHT + shift)) for shift in (0.0, temperature)]
    (x, z), (new_x, new_z) = whites
    return (new_x / x) ** (1 / 3), (new_z / z) ** (1 / 3)


def _black_body(kelvin: float) -> tuple[float, float]:
    """X/Y and Z/Y of a black body, by the cubics of Kim et al. (US patent 7024034, 2002)."""
    T = 1e3 / kelvin
    if kelvin < 4000:
        x = -0.2661239 * T**3 - 0.2343589 * T**2 + 0.8776956 * T + 0.179910
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        x = -3.0258469 * T**3 + 2.1070379 * T**2 + 0.2226347 * T + 0.240390
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    return x / y, (1 - x - y) / y
