"""Converts colours of any ICC profile to sRGB: 8 bits by LittleCMS, 16 bits by arithmetic.

ICC.1:2010 (profile version 4.3); sRGB is IEC 61966-2-1.
"""

import io
import struct
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from condiff.photos.metadata import Damage
from condiff.photos.photo import strips, to_array

Deep = NDArray[Any]  # uint16

STRIP_PIXELS = 1 << 18
ROOTS = 1 << 18  # steps of the table: the nearest is within a third of a 16-bit level
PRIMARIES, CURVES = (b"rXYZ", b"gXYZ", b"bXYZ"), (b"rTRC", b"gTRC", b"bTRC")
# White, red, green, blue: x and y (IEC 61966-2-1). D50 as in ICC profiles.
SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
# Exceptions that a broken profile raises.
UNUSABLE = (
    ImageCms.PyCMSError, OSError, TypeError, ValueError, ArithmeticError, struct.error,
    np.linalg.LinAlgError,
)  # fmt: skip


def decode_srgb(level: NDArray) -> NDArray:
    """sRGB values in [0,1] -> linear light in [0,1]."""
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def curve_srgb(light: NDArray) -> NDArray:
    """Linear light in [0,1] -> sRGB values in [0,1]: the inverse of `decode_srgb`."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


@cache
def _encoding_table() -> Deep:
    """sRGB of 16 bits over the square root of linear light, where the curve is nowhere steep."""
    return np.rint(curve_srgb((np.arange(ROOTS + 1) / ROOTS) ** 2) * 65_535).astype(np.uint16)


def encode_srgb(light: NDArray) -> Deep:
    """Linear light float32 -> sRGB of 16 bits; values outside [0,1] are clipped."""
    root = cv2.sqrt(np.clip(light, 0, 1, dtype=np.float32)).reshape(light.shape)
    return _encoding_table().take(np.rint(root * np.float32(ROOTS)).astype(np.int32), mode="clip")


@cache
def srgb_profile() -> bytes:
    """A small sRGB profile, without the date that LittleCMS adds."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(profile)


def is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """Whether a profile declares itself to be sRGB."""
    return (profile.profile.profile_description or "").startswith(("sRGB IEC61966-2", "sRGB built"))


def fits(profile: bytes, *, grey: bool) -> bool:
    """Whether a profile fits grey or RGB pixels; an RGB profile also fits grey ones."""
    return profile[16:20] == b"RGB " or (grey and profile[16:20] == b"GRAY")


def to_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """An 8-bit image in its profile's colours -> RGB in sRGB."""
    if is_srgb(profile):
        return image  # nothing to convert
    mode = {"RGB": "RGB", "GRAY": "L"}.get(profile.profile.xcolor_space.strip(), image.mode)
    if mode == "RGB" or image.mode == "1":
        image = image.convert(mode)
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB") or image


MISFIT = "its colour profile is for other channels and was ignored"
BROKEN = Damage("its colour profile is damaged and was ignored")


def image_to_srgb(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    """An image of 8 bits (L, RGB or CMYK) -> sRGB, as RGB, or as L if it stays grey.

    A profile that cannot be used is reported in `notes`.
    """
    spaces = {"L": (b"GRAY", b"RGB "), "RGB": (b"RGB ",), "CMYK": (b"CMYK",)}
    if profile and profile[16:20] not in spaces.get(image.mode, ()):
        notes.append(MISFIT if profile[36:40] == b"acsp" else BROKEN)
    elif profile:
        try:
            image = to_srgb(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except UNUSABLE:
            notes.append(BROKEN)
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def array_to_srgb(pixels: NDArray, profile: bytes, notes: list[str]) -> NDArray:
    """(H,W) grey or (H,W,3) of uint8 or uint16 -> (H,W,3) sRGB of the same depth."""
    if pixels.dtype == np.uint8:
        return to_array(image_to_srgb(Image.fromarray(pixels), profile, notes))
    grey = pixels.ndim == 2
    pixels = cv2.merge([pixels] * 3).reshape(*pixels.shape, 3) if grey else pixels
    if profile and not fits(profile, grey=grey):
        notes.append(MISFIT if profile[36:40] == b"acsp" else BROKEN)
    elif profile:
        try:
            return deep_to_srgb(pixels, profile)
        except UNUSABLE:
            notes.append(BROKEN)
    return pixels


def deep_to_srgb(pixels: Deep, profile: bytes) -> Deep:
    """(H,W,3) uint16 in the profile's colours -> (H,W,3) uint16 in sRGB.

    Matrix and curve profiles, and profiles with one grey curve, are applied in full depth. Table
    profiles (of scanners, printers) are applied in 8 bits, then scaled to 16. Raises one of
    UNUSABLE if the profile is broken.
    """
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if is_srgb(opened):
        return pixels
    with np.errstate(all="ignore"):
        if shaper := _read_shaper(profile):
            return apply_shaper(pixels, *shaper)
    result = np.empty_like(pixels)
    grey = profile[16:20] == b"GRAY"
    for strip in strips(*pixels.shape[:2], pixels=STRIP_PIXELS):
        image = Image.fromarray(np.rint(pixels[strip] / 257).astype(np.uint8))
        image = image.getchannel(0) if grey else image
        result[strip] = np.asarray(to_srgb(image, opened).convert("RGB"), np.uint16) * 257
    return result


def apply_shaper(pixels: Deep, curves: list[NDArray], matrix: NDArray) -> Deep:
    """Apply curves (65536,) to linear light and a matrix to sRGB primaries to (H,W,3) uint16."""
    result = np.empty_like(pixels)
    for strip in strips(*pixels.shape[:2], pixels=STRIP_PIXELS):
        light = np.stack([curves[c][pixels[strip, :, c]] for c in range(3)], axis=2)
        result[strip] = encode_srgb(light @ matrix.T)
    return result


def gamma_shaper(
    exponent: float | None, chromaticities: tuple[float, ...] | None
) -> tuple[list[NDArray], NDArray]:
    """The shaper of samples encoded as light to the power of `exponent` (PNG's gAMA).

    None stands for the curve of sRGB. `chromaticities`: x and y of white, red, green and blue
    (PNG's cHRM); None for those of sRGB.
    Raises ValueError or LinAlgError if they do not span a gamut.
    """
    levels = np.arange(65_536) / 65_535
    curve = decode_srgb(levels) if exponent is None else levels ** (1 / exponent)
    matrix = np.eye(3)
    if chromaticities is not None:
        to_xyz = _primaries_matrix(chromaticities)
        if np.abs(np.linalg.det(to_xyz)) < 1e-4:
            raise ValueError("its primaries lie on a line")
        matrix = np.linalg.inv(_primaries_matrix(SRGB_CHROMATICITIES)) @ to_xyz
    return [curve.astype(np.float32)] * 3, matrix.astype(np.float32)


def _primaries_matrix(chromaticities: tuple[float, ...]) -> NDArray:
    """(3,3): linear light -> XYZ under D50, adapted by Bradford's matrix (ICC, annex E)."""
    xy = np.array(chromaticities, np.float64).reshape(4, 2)
    if (xy <= 0).any() or (xy.sum(1) > 1).any():
        raise ValueError("its primaries are not valid colours")
    xyz = np.stack([xy[:, 0], xy[:, 1], 1 - xy.sum(1)]) / xy[:, 1]
    white, primaries = xyz[:, 0], xyz[:, 1:]
    scaled = primaries * np.linalg.solve(primaries, white)
    cones = np.diag(BRADFORD @ D50 / (BRADFORD @ white))
    return np.linalg.inv(BRADFORD) @ cones @ BRADFORD @ scaled


def lab_to_srgb(lab: NDArray) -> Deep:
    """(H,W,3) L* in [0,100], a* and b* under D50 -> (H,W,3) uint16 in sRGB."""
    matrix = np.linalg.inv(_primaries_matrix(SRGB_CHROMATICITIES)).astype(np.float32)
    result = np.empty(lab.shape, np.uint16)
    for strip in strips(*lab.shape[:2], pixels=STRIP_PIXELS):
        L, a, b = np.moveaxis(lab[strip], 2, 0)
        y = (L + 16) / 116
        roots = np.stack([y + a / 500, y, y - b / 200], axis=2)
        result[strip] = encode_srgb((_cube(roots) * D50).astype(np.float32) @ matrix.T)
    return result


def _cube(root: NDArray) -> NDArray:
    """f(t) of CIE Lab -> t, such as Y/Y_n of (L* + 16) / 116."""
    return np.where(root > 6 / 29, root**3, (root - 4 / 29) * (108 / 841))


def _read_shaper(profile: bytes) -> tuple[list[NDArray], NDArray] | None:
    """Three curves (65536,) to linear light and the matrix to sRGB, or None for other profiles."""
    tags = _read_tags(profile)
    if b"A2B0" in tags:
        return None
    if profile[16:20] == b"GRAY" and b"kTRC" in tags:
        curve = _read_curve(tags[b"kTRC"])
        if profile[20:24] == b"Lab ":  # the curve gives L* (ICC.1:2010, F.2)
            curve = _cube((curve * 100 + 16) / 116)
        return [curve.astype(np.float32)] * 3, np.eye(3, dtype=np.float32)
    if profile[16:20] != b"RGB " or not tags.keys() >= {*PRIMARIES, *CURVES}:
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
