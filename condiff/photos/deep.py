"""Decodes in full depth what Pillow reduces to 8 bits: PNG, HEIC, AVIF, JPEG XL, JPEG 2000."""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from condiff.arrays import Pixels
from condiff.photos import jxl
from condiff.photos.formats import MAX_SIDE
from condiff.photos.metadata import Damage
from condiff.photos.opening import caught_stderr
from condiff.photos.photo import Unreadable, to_16_bits

SYCC = b"colr\1\0\0\0\0\0\x12"  # of a JPEG 2000 whose components are luma and chroma

Decoded = tuple[Pixels, Pixels | None]  # (H,W) or (H,W,3) of uint16, and alpha or None


def decode_deep(image: Image.Image, file: BinaryIO, notes: list[str]) -> Decoded | None:
    """The samples of an opened image of more than 8 bits; None if Pillow keeps full depth."""
    if image.format == "PNG":
        return _decode_png(image, file, notes)
    if image.format == "HEIF" and image.info.get("bit_depth", 8) > 8:
        return _decode_heif(image, file)
    if image.format in BITS and image.mode in CHANNELS and not image.tell():
        file.seek(0)
        return _decode_by_imagecodecs(image, file.read(), notes)
    return None


def _decode_heif(image: Image.Image, file: BinaryIO) -> Decoded | None:
    """A HEIC of 10 or 12 bits by pillow-heif, which stores them in the upper bits of 16."""
    import pillow_heif

    file.seek(0)
    heif = pillow_heif.open_heif(file, convert_hdr_to_8bit=False)
    samples: NDArray[Any] = np.asarray(heif[heif.primary_index])
    channels = {"I;16": (), "RGB;16": (3,), "RGBA;16": (4,)}.get(heif.mode)
    if samples.dtype != np.uint16 or channels is None:
        return None
    if samples.shape != (*image.size[::-1], *channels):
        return None
    bits = image.info["bit_depth"]
    levels = np.rint((samples >> (16 - bits)) * (65_535 / (2**bits - 1))).astype(np.uint16)
    alpha = np.ascontiguousarray(levels[..., 3]) if channels == (4,) else None
    return np.ascontiguousarray(levels[..., :3] if channels else levels), alpha


def _decode_by_imagecodecs(image: Image.Image, data: bytes, notes: list[str]) -> Decoded | None:
    """The samples by imagecodecs; None where it is not installed or does not read the file."""
    assert image.format is not None
    bits = BITS[image.format](data)
    if bits <= 8:
        return None
    with suppress(Exception):  # any error of a codec: Pillow may still decode the data
        import imagecodecs

        with caught_stderr():
            decode: Any = {
                "JXL": imagecodecs.jpegxl_decode,
                "JPEG2000": imagecodecs.jpeg2k_decode,
                "AVIF": imagecodecs.avif_decode,
            }[image.format]
            samples: NDArray[Any] = decode(data)
        channels = CHANNELS[image.mode]
        samples = samples.reshape(*samples.shape[:2], -1)
        if image.mode == "RGB" and samples.shape[2] == 1:  # a grey AVIF in Pillow before 13
            channels = 1
        if samples.dtype == np.uint8 or samples.shape != (*image.size[::-1], channels):
            return None
        if image.format != "JXL":
            samples = np.rint(samples * (65_535 / (2**bits - 1))).astype(np.uint16)
        levels = to_16_bits(samples, deep=samples.dtype.kind != "f", notes=notes)
        alpha = np.ascontiguousarray(levels[..., -1]) if channels in (2, 4) else None
        colour = levels[..., 0] if channels <= 2 else levels[..., :3]
        return np.ascontiguousarray(colour), alpha
    return None


def _read_bits(data: bytes) -> int:
    """The depth of a JPEG 2000 codestream (ISO/IEC 15444-1, A.5.1); 0 if it is not plain RGB."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or SYCC in data[:at]:
        return 0
    with suppress(struct.error, IndexError):
        (count,) = struct.unpack_from(">H", data, at + 40)
        parts = [data[at + 42 + 3 * n : at + 45 + 3 * n] for n in range(count)]
        signed_or_subsampled = any(p[0] & 0x80 or p[1:] != b"\1\1" for p in parts)
        return 0 if signed_or_subsampled or len({p[0] for p in parts}) > 1 else parts[0][0] + 1
    return 0


def _read_avif_bits(data: bytes) -> int:
    """The depth of an AVIF from its first picture's configuration (AV1-ISOBMFF, 2.3.3)."""
    at = data.find(b"av1C")
    if at < 0 or at + 7 > len(data):
        return 0
    high, twelve = data[at + 6] & 0x40, data[at + 6] & 0x20
    return (12 if twelve else 10) if high else 8


# The formats that imagecodecs decodes deeper than Pillow, with functions that read the depth.
BITS: dict[str, Callable[[bytes], int]] = {
    "JXL": lambda data: jxl.read_bits(io.BytesIO(data)),
    "JPEG2000": _read_bits,
    "AVIF": _read_avif_bits,
}
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def _decode_png(image: Image.Image, file: BinaryIO, notes: list[str]) -> Decoded | None:
    """A PNG of 16 bits a channel by cv2; `file` has pixel chunks only, with valid checksums.

    libpng refuses incomplete pixels and reports this on stderr.
    """
    tiles = getattr(image, "tile", ())
    if (
        image.tell()  # Pillow reads further frames, in 8 bits
        or image.mode == "I;16"
        or not any(str(tile[3]).endswith(";16B") for tile in tiles)
    ):
        return None
    if max(image.size) > MAX_SIDE["PNG"]:
        raise Unreadable(f"its sides are above libpng's {MAX_SIDE['PNG']:,}; cut it into parts")
    file.seek(0)
    data = file.read()
    try:
        with caught_stderr((b"libpng ",)) as caught, _silent_opencv():
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise
        raise ValueError(f"cv2 says: {error.err}") from None
    remarks = "; ".join(line.decode("latin-1").strip() for line in caught)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim == 2:
        raise ValueError(remarks or "its pixels cannot be decoded")
    if remarks:
        notes.append(Damage(f"its pixels are whole, but not as they should be stored ({remarks})"))
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), None
    alpha = np.ascontiguousarray(pixels[..., 3])
    if data[25] == 4:  # grey and alpha
        return np.ascontiguousarray(pixels[..., 0]), alpha
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB), alpha


@contextmanager
def _silent_opencv() -> Iterator[None]:
    """Switch off OpenCV's messages in all threads; by one thread at a time, in caught_stderr."""
    logging = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # in OpenCV 4, in 5
    level = logging.setLogLevel(0)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        logging.setLogLevel(level)  # type: ignore[attr-defined]
