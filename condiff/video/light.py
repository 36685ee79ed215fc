"""Light of films that are not sRGB: HDR with PQ or HLG, and primaries wider than sRGB's.

The curves are those of ITU-R BT.2100; levels of light are relative to reference white (203 cd/m2,
ITU-R BT.2408). The model's input is tone-mapped grey. Colours keep their chromaticity in sRGB at
the film's luminance.
"""

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from condiff.arrays import Plane
from condiff.color.lab import RGB_OF_XYZ, XYZ_OF_RGB
from condiff.photos.icc import curve_srgb, decode_srgb

PQ, HLG = 16, 18  # transfer characteristics of H.273
HDR = {PQ: "PQ", HLG: "HLG"}
# Colour primaries of H.273 wider than sRGB's, all with white D65: x and y of red, green, blue.
WIDE: dict[int, tuple[str, tuple[float, ...]]] = {
    9: ("BT.2020", (0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    12: ("Display P3", (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
}
WHITE = 203.0  # cd/m2
KNEE = 0.5  # of white: light above is compressed to below 1
TABLE = 1 << 14  # entries of the curves
STEPS = 5  # leave less than a tenth of a 10-bit level of Y'


def to_light(signal: Plane, transfer: int) -> Plane:
    """R', G', B' or Y' in [0,1] -> linear light, 1 at white; for HLG that of the scene."""
    return _tables(transfer)[0].take((signal * (TABLE - 1) + 0.5).astype(np.int32), mode="clip")


def to_signal(light: Plane, transfer: int) -> Plane:
    """The inverse of `to_light`."""
    root = cv2.sqrt(cv2.sqrt(np.maximum(light, 0, dtype=np.float32) / np.float32(_most(transfer))))
    at = (root * (TABLE - 1) + 0.5).astype(np.int32).reshape(light.shape)
    return _tables(transfer)[1].take(at, mode="clip")


@cache
def to_srgb_table(transfer: int, entries: int) -> Plane:
    """A table of tone-mapped sRGB grey in [0,1] over Y' of a film in [0,1]."""
    signal = np.linspace(0, 1, entries)
    if transfer not in HDR:
        return signal.astype(np.float32)
    light = _shown(_decode(signal, transfer), transfer)
    mapped = np.where(light > KNEE, 1 - (1 - KNEE) * np.exp((KNEE - light) / (1 - KNEE)), light)
    return curve_srgb(mapped).astype(np.float32)


def solve_colors(luma: Plane, lab: Plane, weights: Plane, transfer: int, primaries: int) -> Plane:
    """R', G', B' (h,w,3) of a film with its Y' (h,w) and the chromaticity of Lab (h,w,3).

    `weights` are those of R', G', B' in Y'. R', G', B' exceed 1 for colours outside the film's
    gamut.
    """
    srgb = cv2.cvtColor(lab, cv2.COLOR_Lab2LRGB)
    linear: Plane = np.maximum(cv2.transform(srgb, _from_srgb(primaries)), np.float32(1e-6))
    wanted = to_light(luma, transfer)
    luminance = cv2.transform(linear, _luminance(primaries)).reshape(*luma.shape, 1)
    linear = np.asarray(linear / luminance, np.float32)
    scale = wanted
    for _ in range(STEPS):
        own = cv2.transform(to_signal(linear * scale[..., None], transfer), weights)
        light = to_light(own.reshape(luma.shape), transfer)
        scale = scale * (wanted / np.maximum(light, np.float32(1e-6)))
    return to_signal(linear * scale[..., None], transfer)


def _decode(signal: NDArray[Any], transfer: int) -> NDArray[Any]:
    if transfer == PQ:
        root = signal ** (1 / 78.84375)
        return (
            10000
            / WHITE
            * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root))
            ** (1 / 0.1593017578125)
        )
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return decode_srgb(signal)


def _shown(light: NDArray[Any], transfer: int) -> NDArray[Any]:
    """Light of greys on a display; HLG is scene light, here for a display of 1000 cd/m2."""
    return 1000 / WHITE * light**1.2 if transfer == HLG else light


def _most(transfer: int) -> float:
    return float(_decode(np.ones(1), transfer)[0])


@cache
def _tables(transfer: int) -> tuple[Plane, Plane]:
    """Light over the signal, and the signal over the fourth root of light, 1 at the most."""
    signal = np.linspace(0, 1, TABLE)
    light = _decode(signal, transfer)
    fine = np.linspace(0, 1, 1 << 18)
    wanted = np.linspace(0, 1, TABLE) ** 4 * _most(transfer)
    inverse = np.interp(wanted, _decode(fine, transfer), fine)
    return light.astype(np.float32), inverse.astype(np.float32)


@cache
def _xyz_of(primaries: int) -> NDArray[Any]:
    """XYZ of linear R, G, B as columns (3,3); white equals that of sRGB."""
    if primaries not in WIDE:
        return XYZ_OF_RGB
    x, y = np.reshape(WIDE[primaries][1], (3, 2)).T
    columns = np.stack([x / y, np.ones(3), (1 - x - y) / y])
    return columns * np.linalg.solve(columns, XYZ_OF_RGB.sum(axis=1))


@cache
def _from_srgb(primaries: int) -> Plane:
    return (np.linalg.inv(_xyz_of(primaries)) @ np.linalg.inv(RGB_OF_XYZ)).astype(np.float32)


@cache
def _luminance(primaries: int) -> Plane:
    return _xyz_of(primaries)[1:2].astype(np.float32)
