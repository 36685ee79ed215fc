"""Converts colours of any ICC profile to sRGB: 8 bits by LittleCMS, 16 bits by arithmetic.

ICC.1:2010 (profile version 4.3); sRGB is IEC 61966-2-1.
"""

import io
import struct
from contextlib import suppress
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Deep = NDArray[Any]  # uint16

STRIP_PIXELS = 1 << 18
ROOTS = 1 << 18  # steps of the table: the nearest is within a third of a 16-bit level
PRIMARIES, CURVES = (b"rXYZ", b"gXYZ", b"bXYZ"), (b"rTRC", b"gTRC", b"bTRC")
UNUSABLE = (ImageCms.PyCMSError, OSError, TypeError, ValueError)  # what a broken profile raises


def decode_srgb(level: NDArray) -> NDArray:
    """sRGB values in [0,1] -> linear light in [0,1]."""
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


@cache
def _encoding_table() -> Deep:
    """sRGB of 16 bits over the square root of linear light, where the curve is nowhere steep."""
    light = (np.arange(ROOTS + 1) / ROOTS) ** 2
    curved = 1.055 * light ** (1 / 2.4) - 0.055
    level = np.where(light <= 0.0031308, light * 12.92, curved)
    return np.rint(level * 65_535).astype(np.uint16)


def encode_srgb(light: NDArray) -> Deep:
    """Linear light float32 -> sRGB of 16 bits; what lies outside [0,1] is clipped."""
    root = cv2.sqrt(np.clip(light, 0, 1, dtype=np.float32)).reshape(light.shape)
    return _encoding_table().take(np.rint(root * np.float32(ROOTS)).astype(np.int32), mode="clip")


@cache
def srgb_profile() -> bytes:
    """A small sRGB profile, without the date that LittleCMS puts into it."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(profile)


def is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """Whether a profile says that it is sRGB itself."""
    return (profile.profile.profile_description or "").startswith(("sRGB IEC61966-2", "sRGB built"))


def to_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """An image of 8 bits in its profile's colours -> RGB in sRGB."""
    if is_srgb(profile):
        return image  # nothing to convert
    mode = {"RGB": "RGB", "GRAY": "L"}.get(profile.profile.xcolor_space.strip(), image.mode)
    if mode == "RGB" or image.mode == "1":
        image = image.convert(mode)
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB") or image


def deep_to_srgb(pixels: Deep, profile: bytes) -> Deep:
    """(H,W,3) uint16 in the profile's colours -> (H,W,3) uint16 in sRGB.

    Profiles of a matrix and curves, or of one grey curve, are applied in full depth. One of tables
    (a scanner's, a printer's) is applied in 8 bits, which are then spread over 16. A broken one is
    ignored: sRGB is the best guess.
    """
    with suppress(*UNUSABLE, struct.error, ArithmeticError), np.errstate(all="ignore"):
        if is_srgb(ImageCms.ImageCmsProfile(io.BytesIO(profile))):
            return pixels
        shaper = _read_shaper(profile)
        strips = range(0, len(pixels), max(1, STRIP_PIXELS // pixels.shape[1]))
        result = np.empty_like(pixels)
        for top in strips:
            rows = pixels[top : top + strips.step]
            if shaper:
                curves, matrix = shaper
                light = np.stack([curves[c][rows[..., c]] for c in range(3)], axis=2)
                result[top : top + strips.step] = encode_srgb(light @ matrix.T)
            else:
                image = Image.fromarray(np.rint(rows / 257).astype(np.uint8))
                opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
                flat = np.asarray(to_srgb(image, opened).convert("RGB"), np.uint16)
                result[top : top + strips.step] = flat * 257
        return result
    return pixels


def _read_shaper(profile: bytes) -> tuple[list[NDArray], NDArray] | None:
    """Three curves (65536,) to linear light and the matrix to sRGB's, where that is the profile."""
    tags = _read_tags(profile)
    if profile[16:20] == b"GRAY" and b"kTRC" in tags:
        return [_read_curve(tags[b"kTRC"])] * 3, np.eye(3, dtype=np.float32)
    if profile[16:20] != b"RGB " or b"A2B0" in tags or not tags.keys() >= {*PRIMARIES, *CURVES}:
        return None
    matrix = np.linalg.inv(_read_primaries(_read_tags(srgb_profile()))) @ _read_primaries(tags)
    return [_read_curve(tags[name]) for name in CURVES], matrix.astype(np.float32)


def _read_tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    places = [struct.unpack_from(">4sII", profile, 132 + 12 * n) for n in range(min(count, 256))]
    return {name: profile[at : at + size] for name, at, size in places}


def _read_primaries(tags: dict[bytes, bytes]) -> NDArray:
    """(3,3): linear light of the profile -> XYZ under D50, the profile connection space."""
    columns = [np.array(struct.unpack_from(">3i", tags[name], 8)) / 65_536 for name in PRIMARIES]
    return np.stack(columns, axis=1)


def _read_curve(tag: bytes) -> NDArray:
    """A `curv` or `para` tag (ICC.1:2010, 10.5 and 10.15) over all 16-bit levels."""
    x = np.arange(65_536) / 65_535
    if tag[:4] == b"para":
        kind = struct.unpack_from(">H", tag, 8)[0]
        if kind > 4:
            raise ValueError("no such curve")
        given = struct.unpack_from(f">{(1, 3, 4, 5, 7)[kind]}i", tag, 12)
        g, a, b, c, d, e, f = [v / 65_536 for v in given] + [1, 0, 0, 0, 0, 0][len(given) - 1 :]
        if kind == 1:
            d = -b / a
        elif kind == 2:
            d, e, f, c = -b / a, c, c, 0
        powered = np.maximum(a * x + b, 0) ** g + e
        y = powered if kind == 0 else np.where(x >= d, powered, c * x + f)
    elif tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        values = np.frombuffer(tag, ">u2", count, 12)
        if count == 0:
            y = x
        elif count == 1:
            y = x ** (int(values[0]) / 256)
        else:
            y = np.interp(x, np.linspace(0, 1, count), values / 65_535)
    else:
        raise ValueError("no curve")
    return np.clip(y, 0, 1).astype(np.float32)
