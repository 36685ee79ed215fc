"""Colour spaces for x_0 other than Lab: chroma of pixels, and back to Lab with the photo's L*."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condiff.color.lab import LUMINANCE, RGB_OF_XYZ, WHITE, XYZ_OF_RGB
from condiff.photos.icc import decode_srgb

Floats = NDArray[Any]

# Ottosson 2020, "A perceptual color space for image processing": linear light -> cones -> OKLab.
CONES_OF_RGB = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
OKLAB_OF_CONES = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip
# JPEG's (ITU-T T.871), on sRGB levels in [0,1].
YCBCR_OF_RGB = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
HALVINGS = 24  # of the range in which the tone is searched: to 1e-7


@dataclass(frozen=True)
class Space:
    """A tone and two chroma axes; `limit` is the largest |chroma| on an axis that sRGB reaches."""

    limit: float
    of_rgb: Callable[[Floats], Floats]  # (...,3) sRGB in [0,1] -> (...,3) tone and chroma
    to_light: Callable[[Floats], Floats]  # back, to linear light, which may leave [0,1]

    def chroma_of(self, pixels: Floats) -> Floats:
        """(...,3) uint8 sRGB -> (...,2) chroma."""
        return self.of_rgb(pixels / 255.0)[..., 1:]

    def to_ab(self, chroma: Floats, lightness: Floats) -> Floats:
        """(...,2) chroma at L* (...) -> (...,2) a*, b* float32, at the tone that gives this L*."""
        f_y = (lightness.astype(np.float64) + 16) / 116
        wanted = np.where(f_y > 6 / 29, f_y**3, (f_y - 4 / 29) * 108 / 841)
        low, high = np.full(wanted.shape, -1.0), np.full(wanted.shape, 2.0)
        for _ in range(HALVINGS):
            tone = (low + high) / 2
            light = self.to_light(np.concatenate([tone[..., None], chroma], axis=-1))
            dark = light @ LUMINANCE < wanted
            low, high = np.where(dark, tone, low), np.where(dark, high, tone)
        return light_to_lab(light)[..., 1:].astype(np.float32)


def light_to_lab(light: Floats) -> Floats:
    """(...,3) linear light, also outside sRGB -> (...,3) Lab."""
    xyz = light @ XYZ_OF_RGB.T / WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * 841 / 108 + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _lab_to_light(lab: Floats) -> Floats:
    f_y = (lab[..., 0] + 16) / 116
    f = np.stack([f_y + lab[..., 1] / 500, f_y, f_y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 108 / 841) * WHITE
    return xyz @ RGB_OF_XYZ.T


def _oklab_of_rgb(rgb: Floats) -> Floats:
    return np.cbrt(decode_srgb(rgb) @ CONES_OF_RGB.T) @ OKLAB_OF_CONES.T


def _oklab_to_light(oklab: Floats) -> Floats:
    return (oklab @ np.linalg.inv(OKLAB_OF_CONES).T) ** 3 @ np.linalg.inv(CONES_OF_RGB).T


def _ycbcr_to_light(ycbcr: Floats) -> Floats:
    rgb = ycbcr @ np.linalg.inv(YCBCR_OF_RGB).T
    return np.sign(rgb) * decode_srgb(np.abs(rgb))  # odd, so that luminance grows with the tone


SPACES = {
    "Lab": Space(110.0, lambda rgb: light_to_lab(decode_srgb(rgb)), _lab_to_light),
    "OKLab": Space(0.33, _oklab_of_rgb, _oklab_to_light),
    "YCbCr": Space(0.5, lambda rgb: rgb @ YCBCR_OF_RGB.T, _ycbcr_to_light),
}
