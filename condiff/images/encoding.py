"""Encodes photos, with as much depth, alpha and metadata as each format can hold."""

import io
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from condiff.images import ifd, jpeg, png, tiff
from condiff.images import metadata as meta
from condiff.images.decoding import to_8_bits
from condiff.images.formats import HOLDS, NOTHING, find_format
from condiff.images.metadata import Metadata
from condiff.images.photo import Photo
from condiff.images.profiles import srgb_profile

PNG_16_LEVEL = 1  # of zlib; higher levels pack 16-bit photos, mostly noise, no better


def encode(photo: Photo, file: BinaryIO, format: str, *, quality: int | None = None) -> None:
    """Write a photo in a format (Pillow's name) to a file that can seek.

    `quality` (1..100) is for JPEG, WebP and AVIF; without it a JPEG is coded like its source.
    """
    WRITERS.get(format, _write_by_pillow)(photo, file, format, quality)


def losses(photo: Photo, format: str) -> str:
    """What a format cannot hold of a photo, in words; empty where it holds everything."""
    format = find_format(format)
    holds, metadata = HOLDS.get(format, NOTHING), photo.metadata
    texts = format in ("JPEG", "PNG", "TIFF")
    rows = {
        "16 bits a channel": (photo.is_deep, holds.deep),
        "EXIF": (metadata.exif, holds.exif and _fits(metadata.exif, format)),
        "XMP": (metadata.xmp, holds.xmp),
        "IPTC": (metadata.photoshop, texts and _fits(metadata.photoshop, format)),
        "comments": (metadata.comment, texts),
        "resolution": (metadata.dpi, holds.dpi),
    }
    return ", ".join(name for name, (there, kept) in rows.items() if there and not kept)


def _fits(block: bytes, format: str) -> bool:
    return format != "JPEG" or len(block) <= meta.MAX_SEGMENT - len(meta.PHOTOSHOP)


def _write_by_pillow(photo: Photo, file: BinaryIO, format: str, quality: int | None) -> None:
    """JPEG, WebP, AVIF and whatever else Pillow writes."""
    holds, metadata = HOLDS.get(format, NOTHING), photo.metadata
    options: dict[str, Any] = {}
    if holds.quality:
        options["quality"] = quality or holds.quality
    if holds.profile and metadata.profiled:
        options["icc_profile"] = srgb_profile()
    if holds.exif and metadata.exif:
        options["exif"] = metadata.exif
    if holds.xmp and metadata.xmp:
        options["xmp"] = metadata.xmp
    if holds.dpi and metadata.dpi:
        options["dpi"] = metadata.dpi
    if format == "JPEG":
        jpeg.add_options(options, metadata, quality=quality)
    elif format == "WEBP" and metadata.coding.lossless and quality is None:
        options |= {"lossless": True, "exact": True}
    elif format == "AVIF":
        options["subsampling"] = "4:4:4"
        if "exif" in options:  # with the entry there, Pillow would write all of it anew
            options["exif"] = ifd.drop_orientation(options["exif"])
    save_whole(_to_image(photo), file, format, options)


def save_whole(
    image: Image.Image, file: BinaryIO, format: str, options: Mapping[str, Any] | None = None
) -> None:
    """Save an image by way of memory.

    Pillow writes some formats straight to the file's descriptor; on a full disk it then reports
    success for a JPEG, and never returns for a JPEG 2000.
    """
    encoded = io.BytesIO()
    image.save(encoded, format, **(options or {}))
    file.write(encoded.getbuffer())


def _to_image(photo: Photo) -> Image.Image:
    image = Image.fromarray(to_8_bits(photo.pixels))
    if photo.alpha is not None:
        image.putalpha(Image.fromarray(to_8_bits(photo.alpha)))
    return image


def _write_png(photo: Photo, file: BinaryIO, format: str, quality: int | None) -> None:
    metadata = photo.metadata
    chunks = [png.profile_chunk(srgb_profile())] if metadata.profiled else []
    if metadata.dpi:
        chunks.append(png.resolution_chunk(metadata.dpi))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif.removeprefix(ifd.PREFIX)))
    if metadata.xmp:
        chunks.append(png.xmp_chunk(metadata.xmp))
    chunks += metadata.text
    if metadata.comment and not any(png.keyword(chunk) == b"Comment" for chunk in metadata.text):
        chunks.append(png.text_chunk("Comment", metadata.comment))
    if metadata.photoshop:
        chunks.append(png.raw_profile_chunk("iptc", metadata.photoshop))
    if photo.is_deep:
        encoded = _encode_deep_png(photo).data
    else:
        buffer = io.BytesIO()
        _to_image(photo).save(buffer, "PNG")
        encoded = buffer.getbuffer()
    png.write_with_chunks(encoded, chunks, file)


def _encode_deep_png(photo: Photo) -> NDArray[np.uint8]:
    if photo.alpha is None:
        blue_first = cv2.cvtColor(photo.pixels, cv2.COLOR_RGB2BGR)
    else:
        blue_first = np.dstack([photo.pixels[..., ::-1], photo.alpha])
    done, encoded = cv2.imencode(".png", blue_first, [cv2.IMWRITE_PNG_COMPRESSION, PNG_16_LEVEL])
    if not done:
        raise ValueError("its pixels cannot be encoded")
    return encoded


def _write_tiff(photo: Photo, file: BinaryIO, format: str, quality: int | None) -> None:
    """Write a TIFF with the tags of the source's TIFF or EXIF, in their own byte order."""
    metadata = photo.metadata
    tags: ifd.Directory = {}
    order = "<"
    with suppress(*meta.BROKEN):
        tags, order = _read_exif(metadata.exif)
    tags = {tag: entry for tag, entry in tags.items() if tag not in meta.STRUCTURE}
    tags |= _other_tags(metadata, tags, order)
    pixels = photo.pixels if photo.alpha is None else np.dstack([photo.pixels, photo.alpha])
    tiff.write_tiff(file, pixels, tags, order=order)


def _read_exif(exif: bytes) -> tuple[ifd.Directory, str]:
    """The tags of an EXIF block, and its byte order."""
    if not exif:
        return {}, "<"
    body = io.BytesIO(exif.removeprefix(ifd.PREFIX))
    order, big, offset = ifd.read_header(body)
    return ifd.read_directory(body, offset, order=order, big=big), order


def _other_tags(metadata: Metadata, tags: ifd.Directory, order: str) -> ifd.Directory:
    """The tags of a TIFF that hold what other formats keep outside EXIF."""
    added: ifd.Directory = {ifd.ORIENTATION: ifd.short(1, order=order)}
    if metadata.dpi and (282 not in tags or metadata.format != "TIFF"):
        across, down = (ifd.rational(d, order=order) for d in metadata.dpi)
        added |= {282: across, 283: down, 296: ifd.short(2, order=order)}
    if metadata.comment and meta.IMAGE_DESCRIPTION not in tags:
        text = metadata.comment.encode() + b"\0"
        added[meta.IMAGE_DESCRIPTION] = ifd.Entry(2, len(text), text)
    blocks = {
        meta.XMP_TAG: (1, metadata.xmp),
        meta.IPTC: (1, meta.iptc_record(metadata.photoshop)),
        meta.PHOTOSHOP_TAG: (1, meta.without(metadata.photoshop, {meta.IPTC_RESOURCE})),
        meta.PROFILE_TAG: (7, srgb_profile() if metadata.profiled else b""),
    }
    for tag, (kind, data) in blocks.items():
        if data:
            added[tag] = ifd.Entry(kind, len(data), data)
    return added


Writer = Callable[[Photo, BinaryIO, str, int | None], None]
WRITERS: dict[str, Writer] = {"PNG": _write_png, "TIFF": _write_tiff}
ENCODER_FAILURES = (OSError, ValueError, KeyError, struct.error, cv2.error)
