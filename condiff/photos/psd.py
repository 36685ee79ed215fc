"""Reads the merged picture of Photoshop's PSD and PSB files, and their metadata.

Adobe Photoshop File Formats Specification (2019): header, resources, image data.
"""

import os
import struct
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from condiff.arrays import Pixels
from condiff.photos import icc
from condiff.photos import metadata as meta
from condiff.photos.ifd import PREFIX
from condiff.photos.metadata import Metadata
from condiff.photos.photo import Unreadable, to_8_bits, to_array

# Colour modes: the name, and the number of colour channels.
MODES = {
    0: ("bitmap", 1), 1: ("grey", 1), 2: ("indexed", 1), 3: ("RGB", 3), 4: ("CMYK", 4),
    7: ("multichannel", 1), 8: ("duotone", 1), 9: ("Lab", 3),
}  # fmt: skip
# Blocks after the layers of 8 bits: layers of 16 and 32 bits, and marks of transparency.
LAYER_BLOCKS, ALPHA_BLOCKS = (b"Lr16", b"Lr32", b"Layr"), (b"Mtrn", b"Mt16", b"Mt32")
LONG_BLOCKS = {  # whose length has 8 bytes in a PSB
    b"LMsk", *LAYER_BLOCKS, *ALPHA_BLOCKS, b"Alph", b"FMsk", b"lnk2", b"FEid", b"FXid", b"PxSD",
}  # fmt: skip
RESOLUTION, PROFILE, VERSION, EXIF, XMP = 1005, 1039, 1057, 1058, 1060


def read_header(file: BinaryIO) -> tuple[int, int, int, int, int, int]:
    """Version, channels, height, width, bits and colour mode."""
    file.seek(0)
    magic, version, channels, height, width, bits, mode = struct.unpack(
        ">4sH6xHIIHH", file.read(26)
    )
    if magic != b"8BPS" or version not in (1, 2) or not 1 <= channels <= 56:
        raise ValueError("its header is damaged")
    return version, channels, height, width, bits, mode


def read_psd(file: BinaryIO, notes: list[str]) -> tuple[Pixels, Pixels | None, Metadata]:
    """(H,W,3) sRGB of 8 or 16 bits, alpha or None, and the metadata.

    Raises Unreadable if the file was saved without its merged picture.
    """
    version, channels, height, width, bits, mode = read_header(file)
    name, count = MODES.get(mode, ("unknown", 0))
    if not count or channels < count or bits not in (1, 8, 16, 32):
        raise Unreadable(f"its colour mode ({name}, {bits} bits) is not read; save it as a TIFF")
    palette = file.read(_length(file, ">I"))
    block = file.read(_length(file, ">I"))
    layers = _length(file, ">I" if version == 1 else ">Q")
    end = file.tell() + layers
    transparent = layers > 0 and _has_alpha(file, end, large=version == 2)
    file.seek(end)
    resources = {number: data for number, data in meta.read_resources(block)}
    if resources.get(VERSION, b"\0\0\0\0\1")[4:5] == b"\0":
        raise Unreadable(
            "it was saved without its merged picture; save it with 'Maximize Compatibility', or as"
            " a TIFF"
        )
    transparent = transparent and channels > count
    shape = (channels, height, width)
    planes = list(islice(_read_planes(file, shape, bits, large=version == 2), count + transparent))
    alpha = planes[count] if transparent else None
    profile = resources.get(PROFILE, b"")
    pixels = _to_colours(planes[:count], name, palette, profile, notes)
    if channels - count - (alpha is not None) > 0:
        notes.append("its further channels (masks or spot colours) were left out")
    if alpha is not None and alpha.dtype != pixels.dtype:
        alpha = to_8_bits(alpha) if pixels.dtype == np.uint8 else alpha.astype(np.uint16) * 257
    return pixels, alpha, _metadata(resources, block)


def _length(file: BinaryIO, format: str) -> int:
    return int(struct.unpack(format, file.read(struct.calcsize(format)))[0])


def _has_alpha(file: BinaryIO, end: int, *, large: bool) -> bool:
    """Whether the first alpha channel is the merged picture's transparency.

    The number of layers is negative then. Files of 16 and 32 bits have their layers, or a mark that
    there are none but transparency, in a block further on. `end` is that of the whole section.
    """
    layers = _length(file, ">Q" if large else ">I")
    if layers:
        return _count_layers(file) < 0
    file.seek(_length(file, ">I"), os.SEEK_CUR)  # the global mask
    while file.tell() + 12 <= end:
        signature, key = struct.unpack(">4s4s", file.read(8))
        if signature not in (b"8BIM", b"8B64"):
            return False
        if key in ALPHA_BLOCKS:
            return True
        size = _length(file, ">Q" if large and key in LONG_BLOCKS else ">I")
        if key in LAYER_BLOCKS:
            return _count_layers(file) < 0
        file.seek(-(-size // 4) * 4, os.SEEK_CUR)
    return False


def _count_layers(file: BinaryIO) -> int:
    return int(struct.unpack(">h", file.read(2))[0])


def _read_planes(
    file: BinaryIO, shape: tuple[int, int, int], bits: int, *, large: bool
) -> Iterator[NDArray]:
    """Each channel as (H,W) uint8 or uint16, in order."""
    channels, height, width = shape
    stride = (width * bits + 7) // 8
    coded = _length(file, ">H")
    if coded not in (0, 1):
        raise Unreadable("its merged picture is compressed by ZIP; save it as a TIFF")
    sizes = [height * stride] * channels
    if coded:
        kind = ">u4" if large else ">u2"
        rows = np.frombuffer(file.read(channels * height * int(kind[-1])), kind)
        sizes = [int(n) for n in rows.reshape(channels, height).sum(axis=1, dtype=np.int64)]
    for size in sizes:
        data = file.read(size)
        if coded:
            data = Image.frombytes("L", (stride, height), data, "packbits", "L").tobytes()
        if len(data) < height * stride:
            raise ValueError("its pixels are cut short")
        yield _to_levels(np.frombuffer(data, np.uint8).reshape(height, stride), bits, width)


def _to_levels(rows: NDArray, bits: int, width: int) -> NDArray:
    if bits == 1:  # 1 is black
        return (1 - np.unpackbits(rows, axis=1, count=width)) * np.uint8(255)
    if bits == 16:
        return rows.view(">u2").astype(np.uint16)
    if bits == 32:  # linear light
        return icc.encode_srgb(rows.view(">f4").astype(np.float32))
    return rows


def _to_colours(
    planes: list[NDArray], name: str, palette: bytes, profile: bytes, notes: list[str]
) -> Pixels:
    """The colour channels -> (H,W,3) sRGB."""
    if name == "indexed":
        table = np.frombuffer(palette[:768].ljust(768, b"\0"), np.uint8).reshape(3, 256).T
        pixels = np.ascontiguousarray(table[to_8_bits(planes[0])])
        return icc.array_to_srgb(pixels, profile, notes)
    if name == "CMYK":  # stored inverted
        inks = np.stack([255 - to_8_bits(plane) for plane in planes], axis=2)
        image = Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes())
        return to_array(icc.image_to_srgb(image, profile, notes))
    if name == "Lab":
        deep = planes[0].dtype == np.uint16
        white, half, unit = (65_535, 32_768, 256) if deep else (255, 128, 1)
        light, a, b = (plane.astype(np.float32) for plane in planes)
        lab = np.stack([light * (100 / white), (a - half) / unit, (b - half) / unit], axis=2)
        pixels = icc.lab_to_srgb(lab)
        return pixels if deep else to_8_bits(pixels)
    grey = len(planes) == 1
    return icc.array_to_srgb(planes[0] if grey else np.stack(planes, axis=2), profile, notes)


def _metadata(resources: dict[int, bytes], block: bytes) -> Metadata:
    dpi = None
    if len(data := resources.get(RESOLUTION, b"")) == 16:
        across, down = (n / 65_536 for n in struct.unpack(">I4xI4x", data))
        dpi = (across, down) if across > 1 and down > 1 else None
    exif = resources.get(EXIF, b"")
    return Metadata(
        format="PSD",
        exif=PREFIX + exif if exif else b"",
        xmp=resources.get(XMP, b""),
        photoshop=meta.only(block, {meta.IPTC_RESOURCE}),
        dpi=dpi,
        profiled=bool(resources.get(PROFILE)),
    )
