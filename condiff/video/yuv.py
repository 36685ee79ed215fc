"""Converts chroma of Lab to the U and V of a film, for unchanged Y.

A film's luma Y' is a weighted sum of the gamma-coded R', G', B', not a function of L*. To keep Y',
the L* of each pixel is solved for, at which a colour with the wanted (a,b) has this Y'. R', G', B'
are read as sRGB, as players show them, unless the film is HDR or has wide primaries: see `light`.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from condiff.arrays import Levels, Plane
from condiff.color.lab import reduce_chroma
from condiff.photos.icc import decode_srgb
from condiff.video.light import HDR, WIDE, solve_colors, to_srgb_table

# Kr and Kb of the matrix coefficients of ITU-T H.273.
MATRICES: dict[int, tuple[float, float]] = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
}
SOLVER_STEPS = 3  # leave less than a tenth of an 8-bit level of Y'
TABLE = 4096  # entries of L* over Y'


@dataclass(frozen=True)
class Coding:
    """The coding of R', G', B' as levels, and of light as R', G', B'; numbers are of H.273."""

    matrix: int  # a key of MATRICES
    full_range: bool
    bits: int = 8  # a sample
    transfer: int = 1  # all except HDR are read as sRGB's
    primaries: int = 1  # all except WIDE are read as sRGB's

    @property
    def is_srgb(self) -> bool:
        """Whether R', G', B' are sRGB."""
        return self.transfer not in HDR and self.primaries not in WIDE

    def luma(self, levels: Levels) -> Plane:
        """Levels of Y -> Y' in [0,1], float32."""
        low, span, _ = self._scale()
        return ((levels.astype(np.float32) - low) / span).clip(0, 1)

    def to_srgb(self, luma: Plane) -> Plane:
        """Y' in [0,1] -> the equivalent sRGB grey in [0,1], tone-mapped for HDR."""
        if self.transfer not in HDR:
            return luma
        table = to_srgb_table(self.transfer, TABLE)
        return table.take((luma * (TABLE - 1) + 0.5).astype(np.int32), mode="clip")

    def lightness(self, luma: Plane) -> Plane:
        """Y' in [0,1] -> L* of the equivalent grey."""
        return luma_to_lightness(self.to_srgb(luma))

    def chroma_levels(self, cb: Plane, cr: Plane) -> tuple[Levels, Levels]:
        """Cb and Cr in [-0.5,0.5] -> levels of U and V."""
        _, _, span = self._scale()
        middle, most = 1 << (self.bits - 1), (1 << self.bits) - 1
        kind = np.uint8 if self.bits == 8 else np.uint16
        u, v = (np.rint(c * span + middle).clip(0, most).astype(kind) for c in (cb, cr))
        return u, v

    def _scale(self) -> tuple[float, float, float]:
        """The level of black, and the spans of Y and of U and V."""
        if self.full_range:
            most = float((1 << self.bits) - 1)
            return 0.0, most, most
        unit = 1 << (self.bits - 8)
        return 16.0 * unit, 219.0 * unit, 224.0 * unit


def _lightness_table() -> Plane:
    """L* of grey over Y' in [0,1]."""
    light = decode_srgb(np.linspace(0, 1, TABLE))
    root = np.where(light > (6 / 29) ** 3, np.cbrt(light), light * 841 / 108 + 4 / 29)
    return (116 * root - 16).astype(np.float32)


LIGHTNESS = _lightness_table()


def luma_to_lightness(luma: Plane) -> Plane:
    """Y' in [0,1] -> L* of the grey of that Y'."""
    return LIGHTNESS.take((luma * (TABLE - 1) + 0.5).astype(np.int32), mode="clip")


def solve_chroma(luma: Plane, ab: Plane, coding: Coding) -> tuple[Plane, Plane]:
    """Y' (h,w) in [0,1] and (a,b) (h,w,2) -> Cb and Cr (h,w) of colours with both.

    Colours outside sRGB are reduced in chroma at constant hue, then if necessary at constant
    Cb : Cr. For HDR and wide primaries the chromaticity is kept.
    """
    kr, kb = MATRICES[coding.matrix]
    weights = np.array([[kr, 1 - kr - kb, kb]], np.float32)
    L = wanted = coding.lightness(luma)
    lab = reduce_chroma(np.dstack([L, ab]).astype(np.float32))
    if coding.is_srgb:
        for step in range(SOLVER_STEPS):
            rgb = cv2.cvtColor(lab, cv2.COLOR_Lab2RGB)
            own = cv2.transform(rgb, weights).reshape(luma.shape)
            if step < SOLVER_STEPS - 1:
                L = (L + wanted - luma_to_lightness(own)).clip(0, 100)
                lab[..., 0] = L
    else:
        rgb = solve_colors(luma, lab, weights, coding.transfer, coding.primaries)
        own = cv2.transform(rgb, weights).reshape(luma.shape)
    red, _, blue = cv2.split(rgb)
    cb, cr = (blue - own) / (2 * (1 - kb)), (red - own) / (2 * (1 - kr))
    room = _room(luma, cb, cr, kr, kb)
    return cb * room, cr * room


def _room(luma: Plane, cb: Plane, cr: Plane, kr: float, kb: float) -> Plane:
    """The largest factor of Cb and Cr, at most 1, that keeps R', G', B' in [0,1]."""
    green = -2 * (kr * (1 - kr) * cr + kb * (1 - kb) * cb) / (1 - kr - kb)
    room = np.ones_like(luma)
    for away in (2 * (1 - kr) * cr, green, 2 * (1 - kb) * cb):
        reach = np.where(away > 0, 1 - luma, luma) / np.maximum(np.abs(away), np.float32(1e-6))
        np.minimum(room, reach, out=room)
    return room
