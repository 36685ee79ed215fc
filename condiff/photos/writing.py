"""Encodes photos with their metadata, and writes each file atomically."""

import hashlib
import io
import os
import re
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from condiff.checks import as_int, check_kind
from condiff.errors import ConfigError, ImageError, UnknownFormatError
from condiff.files import (
    EXISTS,
    find_mode,
    find_obstacle,
    name_of,
    publish,
    shorten_stem,
    unwritten,
    write_buffer,
)
from condiff.photos import ifd, png, tiff, xmp
from condiff.photos import metadata as meta
from condiff.photos.formats import FORMATS, HOLDS, MAX_SIDE, NOTHING, find_format
from condiff.photos.icc import srgb_profile
from condiff.photos.metadata import MAX_SEGMENT, PHOTOSHOP, Metadata
from condiff.photos.photo import Photo, as_memory_error, to_8_bits
from condiff.photos.provenance import KEYWORD

NO_LIMIT = 1 << 31
PNG_16_LEVEL = 1  # of zlib; higher levels pack 16-bit photos, mostly noise, no better


def encode(photo: Photo, file: BinaryIO, format: str, *, quality: int | None = None) -> None:
    """Write a photo in a format (Pillow's name) to a file that can seek.

    `quality` (1..100) applies to JPEG, WebP and AVIF; without it a JPEG is coded like its source.
    """
    metadata = photo.metadata
    if metadata.extended_xmp and not (format == "JPEG" and _fits_xmp(metadata.xmp)):
        bare = xmp.drop_extension(metadata.xmp)
        photo = replace(photo, metadata=replace(metadata, xmp=bare, extended_xmp=b""))
    WRITERS.get(format, _write_by_pillow)(photo, file, format, quality)


def losses(photo: Photo, format: str) -> str:
    """What a format cannot store of a photo, as text; empty if nothing is lost."""
    format = find_format(format)
    holds, metadata = HOLDS.get(format, NOTHING), photo.metadata
    texts = format in ("JPEG", "PNG", "TIFF")
    rows = {
        "16 bits a channel": (photo.is_deep, holds.deep),
        "EXIF": (metadata.exif, holds.exif and _fits(metadata.exif, format)),
        "XMP": (metadata.xmp, holds.xmp and (format != "JPEG" or _fits_xmp(metadata.xmp))),
        "extended XMP": (metadata.extended_xmp, format == "JPEG" and _fits_xmp(metadata.xmp)),
        "IPTC": (metadata.photoshop, texts and _fits(metadata.photoshop, format)),
        "comments": (metadata.comment, texts),
        _name_texts(metadata.text): (_others(metadata.text), format == "PNG"),
        "resolution": (metadata.dpi, holds.dpi),
    }
    return ", ".join(name for name, (there, kept) in rows.items() if there and not kept)


def _others(texts: Sequence[png.Chunk]) -> list[str]:
    """The keywords of a PNG's texts that no other block contains."""
    names = (png.keyword(text).decode("latin-1") for text in texts)
    return [name for name in dict.fromkeys(names) if name not in ("Comment", KEYWORD)]


def _name_texts(texts: Sequence[png.Chunk]) -> str:
    names = _others(texts)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"the PNG's texts ({', '.join(names[:3])}{more})"


def _fits(block: bytes, format: str) -> bool:
    return format != "JPEG" or len(block) <= meta.MAX_SEGMENT - len(meta.PHOTOSHOP)


def _fits_xmp(packet: bytes) -> bool:
    """Whether a packet fits into a JPEG, without its padding for editing."""
    return len(packet) <= MAX_XMP or len(PADDING.sub(b"\n", packet)) <= MAX_XMP


def _write_by_pillow(photo: Photo, file: BinaryIO, format: str, quality: int | None) -> None:
    """Write JPEG, WebP, AVIF and other formats of Pillow."""
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
        add_jpeg_options(options, metadata, quality=quality)
    elif format == "WEBP" and metadata.coding.lossless and quality is None:
        options |= {"lossless": True, "exact": True}
    elif format == "AVIF":
        options["subsampling"] = "4:4:4"
        if "exif" in options:  # otherwise Pillow would rewrite the whole block
            options["exif"] = ifd.drop_orientation(options["exif"])
    save_whole(_to_image(photo), file, format, options)


def save_whole(
    image: Image.Image, file: BinaryIO, format: str, options: Mapping[str, Any] | None = None
) -> None:
    """Save an image by encoding it in memory first.

    Pillow writes some formats straight to the file's descriptor; on a full disk it then reports
    success for a JPEG, and never returns for a JPEG 2000.
    """
    encoded = io.BytesIO()
    image.save(encoded, format, **(options or {}))
    write_buffer(encoded, file)


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
    with _encode_png(photo) as encoded:
        png.write_with_chunks(encoded, chunks, file)


def _encode_png(photo: Photo) -> memoryview:
    if photo.is_deep:
        return _encode_deep_png(photo).data
    encoded = io.BytesIO()
    _to_image(photo).save(encoded, "PNG")
    return encoded.getbuffer()


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
    """The TIFF tags for metadata that other formats store outside EXIF."""
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
# Exceptions of encoders, each of which has its own for unsupported content.
ENCODER_FAILURES = (
    OSError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, SystemError,
    struct.error, cv2.error,
)  # fmt: skip


def write_image(
    image: Image.Image, target: Path | BinaryIO, *, format: str | None = None, force: bool = False
) -> None:
    """Write an image atomically; arguments as in `write_photo`."""
    if image.mode in ("1", "L"):  # drawings, maps: one channel, no metadata
        _write(target, partial(save_whole, image), format=format, force=force)
    else:
        write_photo(Photo.from_image(image), target, format=format, force=force)


def write_photo(
    photo: Photo,
    target: str | os.PathLike[str] | BinaryIO,
    *,
    format: str | None = None,
    quality: int | None = None,
    force: bool = False,
) -> None:
    """Write a photo atomically, at its own depth if the format supports it.

    `target` is a path or a file open for bytes. `format` defaults to that of the path's suffix, or
    PNG for a file. `quality` (1..100) applies to lossy formats. Raises ImageError if it cannot be
    written, or exists and not `force`; ConfigError for a quality out of range.
    """
    if not isinstance(photo, Photo):
        raise ImageError(
            f"cannot write {type(photo).__name__}: give a Photo, as read_photo and Pipeline "
            "return; a Pillow image has a method save"
        )
    if not (isinstance(target, (str, os.PathLike)) or hasattr(target, "write")):
        raise ImageError(
            f"cannot write to {type(target).__name__}: give a path, or a file open for bytes"
        )
    if format is not None:
        check_kind("format", format, str)
    if quality is not None and not 1 <= as_int("quality", quality) <= 100:
        raise ConfigError(f"quality must be from 1 to 100, not {quality}.")

    def save(file: BinaryIO, name: str) -> None:
        check_photo(photo, name, name_of(target))
        kept = photo if HOLDS.get(name, NOTHING).alpha else replace(photo, alpha=None)
        with as_memory_error():
            encode(kept, file, name, quality=quality)

    _write(target, save, format=format, force=force)


def _write(
    target: str | os.PathLike[str] | BinaryIO,
    save: Callable[[BinaryIO, str], None],
    *,
    format: str | None,
    force: bool,
) -> None:
    """Write the target atomically by `save(file, format)`, with Pillow's name of the format."""
    path = Path(target) if isinstance(target, (str, os.PathLike)) else None
    if path:
        check_target(path, force, format=format)
    format = find_format(format or (path.suffix if path else "png"))
    try:
        if path:
            with publish(path, force) as file:
                save(file, format)
        elif not isinstance(target, (str, os.PathLike)):
            encoded = io.BytesIO()  # some encoders seek, and a pipe cannot
            save(encoded, format)
            write_buffer(encoded, target)
    except ENCODER_FAILURES as error:
        if isinstance(error, KeyError) and format not in Image.SAVE:
            raise UnknownFormatError(
                f"cannot write {name_of(target)}: there is no format {format}; give "
                "JPEG, PNG, TIFF or WEBP"
            ) from None
        raise unwritten(name_of(target), error) from None


def check_size(size: tuple[int, int], format: str, name: str) -> None:
    """Raise ImageError if a format's encoder does not support that width and height.

    Call it before the work, as soon as the photo was read.
    """
    format = find_format(format)
    if max(size) > MAX_SIDE.get(format, NO_LIMIT):
        larger = " or ".join(s for s in (".png", ".tif") if max(size) <= _longest_side(s))
        raise ImageError(
            f"cannot write {name}: {format} supports at most {MAX_SIDE[format]:,} pixels a side,"
            f" and this picture is {size[0]:,} by {size[1]:,}; use {larger}"
        )


def _longest_side(suffix: str) -> int:
    return MAX_SIDE.get(find_format(suffix), NO_LIMIT)


def check_photo(photo: Photo, format: str, name: str) -> None:
    """Raise ImageError if a format does not support a photo's size or its transparency.

    An opaque alpha channel may be dropped. Call it before the work, like `check_size`.
    """
    format = find_format(format)
    check_size(photo.size, format, name)
    if photo.alpha is None or HOLDS.get(format, NOTHING).alpha:
        return
    if photo.alpha.min() < np.iinfo(photo.alpha.dtype).max:
        raise ImageError(
            f"cannot write {name}: {format} has no transparency, but this photo has;"
            " use .png or .webp (PNG or WebP), or --background white"
        )


def default_target(source: Path, suffix: str) -> Path:
    """photo.jpg, "color" -> photo.color.jpg beside it; .png if its format is not written."""
    ending = source.suffix if source.suffix.lower() in FORMATS else ".png"
    name = shorten_stem(source.stem, f".{suffix}{ending}")  # with_name refuses "."
    return source.parent / name


MAX_XMP = MAX_SEGMENT - 29  # a segment begins with an identifier
PIECE = 65_400  # bytes of an extended packet in one segment
PADDING = re.compile(rb"\s{64,}")  # of an XMP packet, for editing in place

# ITU T.81, table K.2 (chroma), and the sum of K.1 (luma); libjpeg scales them by its quality.
LUMA_SUM = 3688
CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
) + (99,) * 32  # fmt: skip


def estimate_scale(table: tuple[int, ...]) -> float:
    """A luma table's step sizes relative to those of quality 50."""
    return sum(table) / LUMA_SUM


def chroma_table(luma: tuple[int, ...]) -> tuple[int, ...]:
    """The chroma table of the same quality, for a source without chroma."""
    scale = estimate_scale(luma)
    return tuple(max(1, min(255, round(step * scale))) for step in CHROMA)


def add_jpeg_options(options: dict[str, Any], metadata: Metadata, *, quality: int | None) -> None:
    """Add Pillow's options for a JPEG like the source; `quality` replaces its tables."""
    coding = metadata.coding
    options["subsampling"] = (coding.subsampling if len(coding.tables) > 1 else None) or "4:4:4"
    if coding.progressive:
        options["progressive"] = True
    luma = coding.tables[0] if coding.tables else ()
    if quality is None and len(luma) == 64 and max(map(max, coding.tables)) < 256:
        # The source's luma steps, so that lightness is not quantised a second time.
        del options["quality"]
        chroma = coding.tables[1] if len(coding.tables) > 1 else chroma_table(luma)
        options["qtables"] = [list(luma), list(chroma)]
    if len(options.get("exif", b"")) > MAX_SEGMENT:
        del options["exif"]
    if len(options.get("xmp", b"")) > MAX_XMP:
        options["xmp"] = PADDING.sub(b"\n", options["xmp"])
        if len(options["xmp"]) > MAX_XMP:
            del options["xmp"]
    if metadata.comment:
        options["comment"] = metadata.comment.encode()[:MAX_SEGMENT]
    segments = _extended_xmp(metadata.extended_xmp)
    if 0 < len(metadata.photoshop) <= MAX_SEGMENT - len(PHOTOSHOP):
        segments.append((b"\xff\xed", PHOTOSHOP + metadata.photoshop))
    options["extra"] = b"".join(
        marker + struct.pack(">H", len(content) + 2) + content for marker, content in segments
    )


def _extended_xmp(packet: bytes) -> list[tuple[bytes, bytes]]:
    """The segments of an extended packet (XMP Specification Part 3, 1.1.3.1), markers first."""
    name = hashlib.md5(packet, usedforsecurity=False).hexdigest().upper().encode()
    return [
        (
            b"\xff\xe1",
            meta.EXTENDED_XMP
            + name
            + struct.pack(">II", len(packet), at)
            + packet[at : at + PIECE],
        )
        for at in range(0, len(packet), PIECE)
    ]


def check_target(
    target: Path, force: bool = False, *, format: str | None = None, new_folder: bool = False
) -> None:
    """Raise ImageError if `target` cannot be written; call it before the work.

    Without `format`, raises UnknownFormatError if the suffix is not that of an image format. With
    `new_folder`, the target's folder and those around it need not exist, because they will be made.
    """
    if format is None and target.suffix.lower() not in FORMATS:
        ending = target.suffix if target.suffix else "a name without a suffix"
        folder = f", or {target}{os.sep} for a folder" if new_folder and not target.suffix else ""
        raise UnknownFormatError(
            f"cannot write {target}: {ending} is not a format that condiff writes; use .jpg, .png, "
            f".webp, .avif or .tif{folder}"
        )
    why = None
    try:
        mode = find_mode(target)
        if stat.S_ISDIR(mode):
            why = "it is a folder; give a file name"
        elif os.path.lexists(target) and not force:
            why = EXISTS
        elif mode and not stat.S_ISREG(mode):  # /dev/null must not become a photo
            why = "it is not a regular file; give another name"
        else:
            why = find_obstacle(target.parent, new=new_folder)
    except (OSError, ValueError) as error:  # a name too long, a NUL in it
        raise unwritten(str(target), error) from None
    if why:
        raise ImageError(f"cannot write {target}: {why}")
