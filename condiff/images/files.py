"""Reads photo files of any format, upright and in sRGB; writes them completely or not at all."""

import io
import math
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from condiff.errors import ImageError
from condiff.images import ifd, png
from condiff.images.decoding import decode_by_cv2, decode_pixels, orientation, to_16_bits
from condiff.images.encoding import ENCODER_FAILURES, encode, save_whole
from condiff.images.formats import FORMATS, HOLDS, NOTHING, READ_ONLY, find_format
from condiff.images.memory import as_memory_error
from condiff.images.metadata import Metadata, add_tags, read_metadata
from condiff.images.photo import Photo
from condiff.images.targets import check_target, publish, reason_of, unwritten

MAX_PIXELS = 200_000_000

# What Pillow's decoders raise on damaged files.
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip
NOT_OPENED: dict[type, str] = {
    FileNotFoundError: "there is no such file; check the path",
    IsADirectoryError: "it is a folder; give a photo, or use `condiff batch`",
    PermissionError: "no permission; make the file readable",
}
HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}
# Formats whose further pictures are gain maps, depth maps or previews of the first one.
ONE_PHOTO = {"MPO", "HEIF"}

_pillow_limit = threading.Lock()


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Switch off Pillow's own pixel limit, which may be lower than `max_pixels`."""
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def read_image(
    source: Path | BinaryIO, *, max_pixels: int = MAX_PIXELS, page: int = 1
) -> Image.Image:
    """A photo, upright and in sRGB of 8 bits: mode RGB, or RGBA when the file has transparency.

    Of a file with several pages or frames `page` is read, counted from 1. `.info` holds "format",
    "metadata" and, where present, "exif" and "dpi". Raises ImageError where it cannot be read.
    """
    return read_photo(source, max_pixels=max_pixels, page=page).to_image()


def read_photo(
    source: Path | BinaryIO, *, max_pixels: int = MAX_PIXELS, page: int | None = None
) -> Photo:
    """A photo at its own depth, with its metadata.

    Raises ImageError where it cannot be read, or has several pages or frames and `page` is None.
    """
    if not isinstance(source, Path):
        return _read(io.BytesIO(source.read()), "standard input", max_pixels, page)
    name = str(source)
    try:
        with open(source, "rb") as file:  # a pipe given by its path cannot seek, as Pillow must
            seekable = file if file.seekable() else io.BytesIO(file.read())
            return _read(seekable, name, max_pixels, page)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = NOT_OPENED.get(type(error), f"{reason_of(error)}; check the path and the disk")
        raise ImageError(f"cannot read {name}: {why}") from None


def _read(file: BinaryIO, name: str, max_pixels: int, page: int | None) -> Photo:
    """The photo in an open, seekable file."""
    head = file.read(16)
    if not head:
        raise ImageError(f"cannot read {name}: it is empty; get the photo again from its source")
    file.seek(0)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        _register_heif(name)
    try:
        with _without_pillow_limit():
            image = Image.open(file)
        with image, as_memory_error():
            _check_size(image.size, name, max_pixels)
            _turn_to_page(image, name, page)
            _check_size(image.size, name, max_pixels)
            if image.format == "PNG" and "exif" not in image.info:  # it may follow the pixels
                for _, block in png.read_chunks(file, {b"eXIf"}):
                    image.info["exif"] = ifd.PREFIX + block
            metadata = read_metadata(image, file, turned=orientation(image) > 4)
            pixels, alpha = decode_pixels(image, file)
    except UnidentifiedImageError:
        if photo := _read_wide_tiff(file, max_pixels):
            return photo
        raise ImageError(
            f"cannot read {name}: it is not a photo in a known format; convert it to JPEG or PNG"
        ) from None
    except BROKEN as error:
        raise ImageError(
            f"cannot read {name}: it is damaged or cut short ({reason_of(error)}); get a whole copy"
        ) from None
    return Photo(pixels, alpha, metadata)


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    """Raise ImageError for too many pixels, or none; only the header was read so far."""
    pixels = math.prod(size)
    if pixels > max_pixels:
        raise ImageError(
            f"cannot read {name}: it has {_megapixels(pixels)} megapixels, above the limit of"
            f" {_megapixels(max_pixels)}; raise it with --max-pixels {pixels}, or scale the photo"
            " down"
        )
    if min(size) < 1:
        raise ImageError(f"cannot read {name}: it has no pixels; get a whole copy")


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.0f}" if pixels >= 100_000_000 else f"{pixels / 1e6:.4g}"


def _turn_to_page(image: Image.Image, name: str, page: int | None) -> None:
    """Go to a page; ImageError if it is not there, or if none is given and there are several."""
    pages = _full_pages(image)
    if page is None and len(pages) > 1:
        raise ImageError(
            f"cannot read {name}: it holds {len(pages)} pages or frames, and one photo is made"
            f" of one; choose it with --page 1 to --page {len(pages)}"
        )
    if not 1 <= (page or 1) <= len(pages):
        there = f"choose --page 1 to --page {len(pages)}" if len(pages) > 1 else "it has but one"
        raise ImageError(f"cannot read {name}: it has no page {page}; {there}")
    if len(pages) > 1:
        image.seek(pages[(page or 1) - 1])


def _full_pages(image: Image.Image) -> list[int]:
    """The numbers of the frames that are neither thumbnails nor reduced copies of another."""
    count = getattr(image, "n_frames", 1)
    if count == 1 or image.format in ONE_PHOTO:
        return [0]
    if image.format != "TIFF":
        return list(range(count))
    full = []
    for number in range(count):
        image.seek(number)
        tags = getattr(image, "tag_v2", {})
        if not tags.get(254, 0) & 1 and tags.get(255, 1) != 2:
            full.append(number)
    image.seek(0)
    return full or [0]


def _register_heif(name: str) -> None:
    """Let Pillow open HEIC by pillow-heif; ImageError if that is not installed."""
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(
            f"cannot read {name}: it is HEIC, which needs a decoder; pip install 'condiff[heif]'"
        ) from None
    pillow_heif.register_heif_opener(thumbnails=False)


def _read_wide_tiff(file: BinaryIO, max_pixels: int) -> Photo | None:
    """Read a colour TIFF of 32-bit or floating-point channels, which Pillow cannot; else None."""
    try:
        order, big, offset = ifd.read_header(file)
        tags = ifd.read_directory(file, offset, order=order, big=big)
        width, height = (ifd.read_number(tags[tag], order) for tag in (256, 257))
        if width * height > max_pixels:
            return None
        wide = decode_by_cv2(file)
    except BROKEN:
        return None
    if wide.ndim != 3 or wide.shape[2] not in (3, 4):
        return None
    deep = to_16_bits(wide, deep=wide.dtype.kind != "f")
    alpha = np.ascontiguousarray(deep[..., 3]) if deep.shape[2] == 4 else None
    pixels = np.ascontiguousarray(deep[..., 2::-1])
    return Photo(pixels, alpha, add_tags(Metadata(format="TIFF"), tags, order))


def write_image(
    image: Image.Image, target: Path | BinaryIO, *, format: str | None = None, force: bool = False
) -> None:
    """Write a photo completely or not at all; arguments are those of `write_photo`."""
    if image.mode in ("1", "L"):  # drawings, maps: one channel, and nothing that travels with it
        _write(target, partial(save_whole, image), format=format, force=force)
    else:
        write_photo(Photo.from_image(image), target, format=format, force=force)


def write_photo(
    photo: Photo,
    target: Path | BinaryIO,
    *,
    format: str | None = None,
    quality: int | None = None,
    force: bool = False,
) -> None:
    """Write a photo completely or not at all, at its own depth if the format has it.

    `format` is by default that of the target's suffix, PNG for a stream. `quality` (1..100) is for
    lossy formats. Raises ImageError where it cannot be written, or is there and not `force`.
    """

    def save(file: BinaryIO, name: str) -> None:
        told = str(target) if isinstance(target, Path) else "standard output"
        with as_memory_error():
            encode(_without_idle_alpha(photo, name, told), file, name, quality=quality)

    _write(target, save, format=format, force=force)


def _write(
    target: Path | BinaryIO,
    save: Callable[[BinaryIO, str], None],
    *,
    format: str | None,
    force: bool,
) -> None:
    """Let `save(file, format)` write the target, completely or not at all; format as Pillow's."""
    path = target if isinstance(target, Path) else None
    if path:
        check_target(path, force, format=format)
    format = find_format(format or (path.suffix if path else "png"))
    try:
        if isinstance(target, Path):
            with publish(target, force) as file:
                save(file, format)
        else:
            encoded = io.BytesIO()  # some encoders seek, and a pipe cannot
            save(encoded, format)
            target.write(encoded.getbuffer())
    except ENCODER_FAILURES as error:
        raise unwritten(str(path or "standard output"), error) from None


def _without_idle_alpha(photo: Photo, format: str, name: str) -> Photo:
    """The photo without an opaque alpha that the format cannot hold; ImageError if it is in use."""
    if photo.alpha is None or HOLDS.get(format, NOTHING).alpha:
        return photo
    if photo.alpha.min() < np.iinfo(photo.alpha.dtype).max:
        raise ImageError(
            f"cannot write {name}: {format} has no transparency, and this photo has;"
            " use .png or .webp (PNG or WebP)"
        )
    return replace(photo, alpha=None)


def default_target(source: Path, suffix: str) -> Path:
    """photo.jpg, "color" -> photo.color.jpg beside it; .png where its format is not written."""
    ending = source.suffix if source.suffix.lower() in FORMATS else ".png"
    return source.parent / f"{source.stem}.{suffix}{ending}"  # with_name refuses "."


def list_images(root: Path) -> list[Path]:
    """Every photo below a folder, by suffix, sorted; hidden files and folders are left out."""
    if not root.is_dir():
        raise ImageError(f"cannot list {root}: there is no such folder; check the path")
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in FORMATS.keys() | READ_ONLY
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    )
