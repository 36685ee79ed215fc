"""Reads photos, from files of any format and from Python's objects: upright, sRGB, 8 or 16 bits."""

import io
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from condiff.arrays import Pixels
from condiff.checks import as_int
from condiff.errors import ConfigError, ImageError, PagesError, install_command
from condiff.files import name_of, reason_of
from condiff.photos import icc, ifd, jpeg, jxl, png, psd, raw, tiff
from condiff.photos import metadata as meta
from condiff.photos.deep import decode_deep
from condiff.photos.formats import MAX_PIXELS, is_photo, name_content, name_known
from condiff.photos.metadata import Damage, Metadata, read_metadata
from condiff.photos.opening import (
    open_image,
    register_heif,
    register_jxl,
    without_pillow_limit,
)
from condiff.photos.photo import (
    TURNS,
    Photo,
    SeveralPages,
    Unreadable,
    as_memory_error,
    to_8_bits,
    to_16_bits,
    to_array,
    turn_upright,
)

# Exceptions that decoders raise on damaged files.
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError,
    RuntimeError, struct.error, zlib.error, AttributeError, AssertionError, SystemError,
)  # fmt: skip
NOT_OPENED: dict[type, str] = {
    FileNotFoundError: "there is no such file; check the path",
    IsADirectoryError: "it is a folder; give a file (`condiff batch` colours folders)",
    PermissionError: "no permission; make the file readable",
}
HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Formats whose further pictures are gain maps, depth maps or previews of the first one.
ONE_PHOTO = {"MPO", "HEIF", "JXL"}
# The tags of a raw file that apply to the developed photo: author, time, camera.
RAW_TAGS = {270, 271, 272, 282, 283, 296, 305, 306, 315, 700, 33432, 33723, 34665, 34853}
HDR_NOTE = "its HDR colours (PQ or HLG) were read as those of sRGB"
SAME_GAMMA = 0.05  # libpng's threshold: below it a gamma is that of sRGB

FLOAT_SLACK = 1e-3  # overshoot beyond [0,1] that resizing may cause

PhotoFile = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
PhotoLike = Photo | Image.Image | NDArray[Any] | PhotoFile


def read_image(
    source: PhotoFile, *, max_pixels: int = MAX_PIXELS, page: int = 1, strict: bool = False
) -> Image.Image:
    """A photo, upright and in sRGB of 8 bits: mode RGB, or RGBA when the file has transparency.

    `page`, counted from 1, selects a page or frame of a file with several. `.info` contains
    "format", "metadata" and, if present, "exif", "dpi" and "warnings". Raises ImageError if the
    photo cannot be read.
    """
    return read_photo(source, max_pixels=max_pixels, page=page, strict=strict).to_image()


def read_photo(
    source: PhotoFile,
    *,
    max_pixels: int = MAX_PIXELS,
    page: int | None = None,
    strict: bool = False,
) -> Photo:
    """Read a photo at its own depth with its metadata, from a path, bytes or an open file.

    `.info["warnings"]` lists what was left out. A JPEG that lacks only its last bytes is read with
    a warning; with `strict`, any damaged file is refused. Raises ImageError if the photo cannot be
    read, PagesError if it has several pages or frames and `page`, counted from 1, is None.
    """
    max_pixels = as_int("max_pixels", max_pixels)
    if page is not None and as_int("page", page) < 1:
        raise ConfigError(f"Pages are counted from 1, not {page}.")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read(io.BytesIO(source), "the bytes that were given", max_pixels, page, strict)
    if not isinstance(source, (str, os.PathLike)):
        if not hasattr(source, "read"):
            raise ImageError(
                f"cannot read {type(source).__name__}: give a path, bytes or an open file; "
                "Pipeline takes images and arrays as well"
            )
        try:
            content = source.read()
        except ValueError as error:  # it is closed
            raise ImageError(f"cannot read {name_of(source)}: {reason_of(error)}") from None
        if isinstance(content, str):
            raise ImageError("cannot read a file that is opened as text: open it with mode 'rb'")
        if not isinstance(content, (bytes, bytearray, memoryview)):
            kind = type(content).__name__
            raise ImageError(f"cannot read {name_of(source)}: its read() gives {kind}, not bytes")
        return _read(io.BytesIO(content), name_of(source), max_pixels, page, strict)
    name = str(source)
    try:
        with open(source, "rb") as file:  # a pipe given by its path cannot seek, as Pillow must
            seekable = file if file.seekable() else io.BytesIO(file.read())
            return _read(seekable, name, max_pixels, page, strict)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = NOT_OPENED.get(type(error), f"{reason_of(error)}; check the path and the disk")
        raise ImageError(f"cannot read {name}: {why}") from None


def _read(file: BinaryIO, name: str, max_pixels: int, page: int | None, strict: bool) -> Photo:
    """The photo in an open, seekable file."""
    head = file.read(256)
    notes: list[str] = []
    with _as_image_error(name, head):
        photo = _read_kind(file, head, max_pixels, page, notes)
        if strict and head.startswith(jpeg.START):
            notes += jpeg.find_damage(file)
    damage = next((note for note in notes if isinstance(note, Damage)), None)
    if strict and damage:
        raise ImageError(
            f"cannot read {name}: {damage}; get a whole copy, or read it without --strict"
        )
    return _with_notes(photo, notes)


@contextmanager
def _as_image_error(name: str, head: bytes = b"") -> Iterator[None]:
    """Convert a decoder's errors to ImageError with the name; `head`: the first 256 bytes."""
    try:
        with as_memory_error(), without_pillow_limit():
            yield
    except Unreadable as error:
        kind = PagesError if isinstance(error, SeveralPages) else ImageError
        raise kind(f"cannot read {name}: {error}") from None
    except UnidentifiedImageError:
        if what := name_known(head):
            raise ImageError(
                f"cannot read {name}: it is {what}, but damaged or cut short; get a whole copy"
            ) from None
        what = name_content(head)
        known = f"it is {what}" if what else "it is not a photo in a known format"
        advice = "convert it to JPEG or PNG"
        if what and what.startswith("a video"):
            advice = f"`condiff video` colours films; of one frame, {advice}"
        raise ImageError(f"cannot read {name}: {known}; {advice}") from None
    except BROKEN as error:
        why = reason_of(error)
        why = "" if "libjxl" in why else f" ({why})"  # this text is on building libjxl
        raise ImageError(
            f"cannot read {name}: it is damaged or cut short{why}; get a whole copy"
        ) from None


def _with_notes(photo: Photo, notes: list[str]) -> Photo:
    """The photo with its warnings, each once."""
    if not notes:
        return photo
    return replace(photo, info={**photo.info, "warnings": tuple(dict.fromkeys(notes))})


def _read_kind(
    file: BinaryIO, head: bytes, max_pixels: int, page: int | None, notes: list[str]
) -> Photo:
    """The photo in a file, by the reader that its first bytes select."""
    if not head:
        raise Unreadable("it is empty; get the photo again from its source")
    if kind := raw.find_raw(head):
        return _read_raw(file, kind, max_pixels, page, notes)
    if head.startswith(TIFF_STARTS):
        return _read_tiff(file, max_pixels, page, notes)
    if head.startswith(b"8BPS"):
        _, _, height, width, _, _ = psd.read_header(file)
        _check_size((width, height), max_pixels)
        _choose(1, page)
        file.seek(26)
        pixels, alpha, metadata = psd.read_psd(file, notes)
        return Photo(pixels, alpha, meta.normalise(metadata, turned=False, notes=notes))
    if jxl.is_jxl(head):
        register_jxl()
        _check_size(jxl.read_size(file), max_pixels)
    elif head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        register_heif()
    if head[4:8] == b"ftyp" and b"tmap" in head[16 : int.from_bytes(head[:4], "big")]:
        notes.append(meta.say_lost("HDR gain map"))
    elif head.startswith(jpeg.START):
        return _read_jpeg(file, max_pixels, page, notes)
    elif head.startswith(png.SIGNATURE):
        return _read_png(file, max_pixels, page, notes)
    return _read_by_pillow(file, max_pixels, page, notes)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raise Unreadable for too many pixels or none; called when only the header was read."""
    if not all(isinstance(side, int) for side in size):
        raise Unreadable("its header is damaged; get a whole copy")
    pixels = math.prod(size)
    if pixels > max_pixels:
        raise Unreadable(
            f"it has {_megapixels(pixels)} megapixels, above the limit of"
            f" {_megapixels(max_pixels)}; raise it with --max-pixels {pixels}, or scale the photo"
            " down"
        )
    if min(size) < 1:
        raise Unreadable("it has no pixels; get a whole copy")


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.0f}" if pixels >= 100_000_000 else f"{pixels / 1e6:.4g}"


def _choose(count: int, page: int | None) -> int:
    """The index of a page; Unreadable if it does not exist, or if several do and `page` is None."""
    if page is None and count > 1:
        raise SeveralPages(
            f"it has {count} pages or frames; choose one with --page 1 to --page {count}"
        )
    if not 1 <= (page or 1) <= count:
        there = f"choose --page 1 to --page {count}" if count > 1 else "it has only one"
        raise Unreadable(f"it has no page {page}; {there}")
    return (page or 1) - 1


# ---- TIFF and raw files


def _read_tiff(file: BinaryIO, max_pixels: int, page: int | None, notes: list[str]) -> Photo:
    with tiff.open_tiff(file) as opened:
        chain = tiff.read_chain(opened)
        if tiff.is_raw(chain):
            return _read_raw(file, "DNG, NEF, ARW or the like", max_pixels, page, notes)
        pages = tiff.list_pages(chain)
        chosen = pages[_choose(len(pages), page)]
        _check_size((chosen.imagewidth, chosen.imagelength), max_pixels)
        pixels, alpha = tiff.read_page(chosen, file, notes)
        directory = ifd.read_directory(
            file, chosen.offset, order=opened.byteorder, big=opened.is_bigtiff
        )
        dpi, order = tiff.read_resolution(chosen), opened.byteorder
    turn = _orientation_in(directory, order)
    metadata = Metadata(format="TIFF", dpi=meta.resolution(dpi))
    with suppress(*meta.BROKEN):
        metadata = meta.add_tags(metadata, directory, order, notes)
    metadata = meta.normalise(metadata, turned=turn > 4, notes=notes)
    return Photo(*turn_upright(pixels, alpha, turn), metadata)


def _orientation_in(directory: ifd.Directory, order: str) -> int:
    entry = directory.get(ifd.ORIENTATION)
    turn = ifd.read_number(entry, order) if entry and entry.kind == 3 and entry.count == 1 else 1
    return turn if turn in TURNS else 1


def _read_raw(
    file: BinaryIO, kind: str, max_pixels: int, page: int | None, notes: list[str]
) -> Photo:
    _choose(1, page)
    pixels = raw.develop(file, kind, max_pixels)
    metadata = Metadata(format="RAW")
    with suppress(*meta.BROKEN):  # most are TIFFs
        order, big, offset = ifd.read_header(file)
        tags = ifd.read_directory(file, offset, order=order, big=big)
        kept = {tag: entry for tag, entry in tags.items() if tag in RAW_TAGS}
        metadata = meta.add_tags(metadata, kept, order, notes)
    return Photo(pixels, None, meta.normalise(metadata, turned=False, notes=notes))


# ---- JPEG


def _read_jpeg(file: BinaryIO, max_pixels: int, page: int | None, notes: list[str]) -> Photo:
    try:
        photo = _read_by_pillow(file, max_pixels, page, notes)
    except UnidentifiedImageError:
        file.seek(0)
        return _read_odd_jpeg(file.read(), max_pixels, page, notes)
    except OSError as error:
        if "truncated" not in str(error):
            raise
        file.seek(0)
        data, note = jpeg.mend(file.read())
        photo = _read_by_pillow(io.BytesIO(data), max_pixels, page, notes)
        notes.append(Damage(note))
    followers = jpeg.find_followers(file)
    if followers != [jpeg.FURTHER] or not any("not kept" in note for note in notes):
        notes += map(meta.say_lost, followers)
    return photo


def _read_odd_jpeg(
    data: bytes, max_pixels: int, page: int | None, notes: list[str]
) -> Photo:  # fmt: skip
    """A JPEG that libjpeg does not read, such as 12-bit or lossless."""
    found = jpeg.find_frame(data)
    if found is None:
        raise ValueError("its header is damaged")
    kind, bits, size = found
    _check_size(size, max_pixels)
    _choose(1, page)
    try:
        import imagecodecs
    except ImportError:
        raise Unreadable(
            f"it is {kind}, which needs imagecodecs: {install_command('tiff')}"
        ) from None
    decode = imagecodecs.jpegls_decode if kind == "JPEG-LS" else imagecodecs.jpeg_decode
    try:
        samples = decode(data)
    except Exception as error:  # each codec has its own exception
        raise Unreadable(
            f"it is {kind}, which cannot be decoded here ({reason_of(error)}); convert it to JPEG"
            " or PNG"
        ) from None
    if samples.shape[:2] != size[::-1] or samples.ndim == 3 and samples.shape[2] != 3:
        raise Unreadable(f"it is {kind} of an unusual layout; convert it to JPEG or PNG")
    if samples.dtype != np.uint8:
        samples = np.rint(samples * (65_535 / (2**bits - 1))).astype(np.uint16)
    with open_image(io.BytesIO(jpeg.with_8_bits(data)), ("JPEG",)) as image:
        turn = orientation(image)
        profile = image.info.get("icc_profile", b"")
        metadata = read_metadata(image, io.BytesIO(data), turned=turn > 4, notes=notes)
    pixels = icc.array_to_srgb(samples, profile, notes)
    return Photo(*turn_upright(pixels, None, turn), replace(metadata, coding=meta.Coding()))


# ---- PNG


def _read_png(file: BinaryIO, max_pixels: int, page: int | None, notes: list[str]) -> Photo:
    """A PNG; decoders get only its pixel chunks."""
    file.seek(0)
    picture, annotations = png.split(file.read())
    others = io.BytesIO(annotations)
    if not picture.endswith(png.END):
        picture = png.mend(picture)
        notes.append(Damage("its file lacks the last bytes; no pixel is missing"))
    colours, info = png.read_colours(others), meta.read_blocks(others, notes)
    if colours.hdr:
        info.pop("icc_profile", None)
    elif colours.profile:
        info["icc_profile"] = colours.profile
    elif "icc_profile" in info:  # which counts more than gAMA and cHRM
        colours = png.Colours()
    bits, kind = picture[24:26]
    key = next((c[1] for c in png.read_chunks(io.BytesIO(picture), {b"tRNS"})), b"")
    if kind == 0 and bits in (2, 4) and len(key) >= 2:  # Pillow spreads the greys, not the key
        info["transparency"] = (key[1] & (1 << bits) - 1) * (255 // ((1 << bits) - 1))
    if colours.hdr:
        notes.append(HDR_NOTE)
    photo = _read_by_pillow(
        io.BytesIO(picture), max_pixels, page, notes, original=others, info=info
    )
    return replace(photo, pixels=_apply_gamma(photo.pixels, colours, notes))


def _apply_gamma(pixels: Pixels, colours: png.Colours, notes: list[str]) -> Pixels:
    """Convert pixels with a PNG's gAMA, cHRM or cICP to sRGB, if these differ from sRGB's."""
    points, gamma = colours.chromaticities, colours.gamma
    same = points is None or np.allclose(points, icc.SRGB_CHROMATICITIES, atol=0.01)
    if same and (gamma is None or abs(gamma * 2.2 - 1) < SAME_GAMMA):
        return pixels
    try:
        shaper = icc.gamma_shaper(colours.gamma, None if same else points)
    except icc.UNUSABLE:
        notes.append(Damage("its chromaticities are invalid and were ignored"))
        shaper = icc.gamma_shaper(colours.gamma, None)
    if pixels.dtype == np.uint16:
        return icc.apply_shaper(pixels, *shaper)
    return to_8_bits(icc.apply_shaper(pixels.astype(np.uint16) * 257, *shaper))


# ---- all that Pillow reads


def _read_by_pillow(
    file: BinaryIO, max_pixels: int, page: int | None, notes: list[str], *,
    original: BinaryIO | None = None, info: dict[str, Any] | None = None,
) -> Photo:  # fmt: skip
    """A photo by Pillow; `info` extends Pillow's, `original` is the file with the metadata."""
    file.seek(0)
    with open_image(file) as image:
        _check_size(image.size, max_pixels)
        frames = 1 if image.format in ONE_PHOTO else getattr(image, "n_frames", 1)
        chosen = _choose(frames, page)
        if frames > 1:
            image.seek(chosen)
        _check_size(image.size, max_pixels)
        if image.format == "JXL":
            image.info["xmp"] = jxl.read_xmp(file)
        image.info.update(info or {})
        turned = orientation(image) > 4
        metadata = read_metadata(image, original or file, turned=turned, notes=notes)
        pixels, alpha = _decode_pixels(image, file, notes)
        if image.format in ("HEIF", "AVIF") and _is_hdr(image, file):
            notes.append(HDR_NOTE)
        if image.format == "HEIF":
            notes += map(meta.say_lost, _find_auxiliaries(image))
    return Photo(pixels, alpha, metadata)


def _is_hdr(image: Image.Image, file: BinaryIO) -> bool:
    """Whether the transfer characteristics of a HEIC or AVIF are PQ or HLG (ITU-T H.273)."""
    if image.format == "HEIF":
        transfer = (image.info.get("nclx_profile") or {}).get("transfer_characteristics", 0)
    else:
        file.seek(0)
        head = file.read(1 << 16)
        at = head.find(b"colrnclx")
        transfer = int.from_bytes(head[at + 10 : at + 12], "big") if at >= 0 else 0
    return transfer in (16, 18)


def _find_auxiliaries(image: Image.Image) -> list[str]:
    """What a HEIC contains beside its picture, by name (ISO/IEC 23008-12, 6.5.8)."""
    kinds = list(image.info.get("aux", ()))
    maps = [kind for kind in kinds if "gainmap" in kind.lower() or "21496" in kind]
    found = ["HDR gain map"] if maps else []
    if image.info.get("depth_images"):
        found.append("depth map")
    if len(kinds) > len(maps):
        found.append("mattes")
    return found + [jpeg.FURTHER] * (getattr(image, "n_frames", 1) > 1)


# ---- photos as Python objects


def as_photo(picture: PhotoLike) -> Photo:
    """Convert a Python object to a Photo, decoded as `read_photo` decodes a file.

    A path, bytes and an open file are read. A Pillow image may have any mode; its orientation,
    profile and gamma are applied as for a file. An array is sRGB, (H,W), (H,W,1), (H,W,3) or, with
    transparency, (H,W,4), of uint8, uint16 or floating point in [0,1]. A Photo is returned
    unchanged. Raises ImageError for anything else.
    """
    if isinstance(picture, Photo):
        return picture
    if isinstance(picture, Image.Image):
        return _read_image(picture)
    if isinstance(picture, np.ndarray):
        return _read_array(picture)
    known = (str, os.PathLike, bytes, bytearray, memoryview)
    if isinstance(picture, known) or hasattr(picture, "read"):
        return read_photo(picture)
    raise ImageError(
        f"cannot take {type(picture).__name__} as a photo; give a path, bytes, a Pillow image, a"
        " NumPy array (H,W,3) or a Photo"
    )


def _read_image(image: Image.Image) -> Photo:
    """The photo in a Pillow image."""
    if isinstance(image.info.get("metadata"), Metadata):  # from `read_image`: it is sRGB, upright
        return Photo.from_image(image)
    name = str(getattr(image, "filename", "") or "an image of Pillow")
    notes: list[str] = []
    with _as_image_error(name):
        if file := _undecoded(image):
            place = file.tell()
            try:
                file.seek(0)
                return _read(file, name, max(MAX_PIXELS, math.prod(image.size)), 1, False)
            finally:
                file.seek(place)
        _check_size(image.size, math.prod(image.size))
        try:
            image.load()
        except ValueError as error:
            if "closed" not in str(error):
                raise
            raise Unreadable("it was closed; give it while it is open, or its path") from None
        if image.mode == "I" and _has_8_bits(image):
            image = image.convert("L")
        metadata = read_metadata(image, io.BytesIO(), turned=orientation(image) > 4, notes=notes)
        pixels, alpha = _decode_pixels(image, io.BytesIO(), notes)
        photo = Photo(_apply_info(pixels, image.info, notes), alpha, metadata)
    return _with_notes(photo, notes)


def _has_8_bits(image: Image.Image) -> bool:
    """Whether an image of 32 bits was probably made of 8: its whitest level is that of 8."""
    most = np.asarray(image).max(initial=0)
    return bool(64 <= most <= 255)


def _undecoded(image: Image.Image) -> BinaryIO | None:
    """The file of an opened image that was neither decoded nor changed.

    It contains more than Pillow decodes: 16 bits of colour, 12 of grey, the picture of a raw file.
    """
    file = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", ()) or image.tell():
        return None
    with suppress(OSError, ValueError, SyntaxError, AttributeError):
        place = file.tell()
        try:
            file.seek(0)
            with open_image(file) as fresh:
                same = (fresh.mode, fresh.size) == (image.mode, image.size)
                return file if same and fresh.info == image.info else None
        finally:
            file.seek(place)
    return None


def _apply_info(pixels: Pixels, info: dict[str | tuple[int, int], Any], notes: list[str]) -> Pixels:
    """Apply the gamma that Pillow read from a PNG, unless a profile or sRGB overrides it."""
    gamma = info.get("gamma")
    if not isinstance(gamma, float) or "icc_profile" in info or "srgb" in info:
        return pixels
    if not 0.1 <= gamma <= 10:
        return pixels
    points = info.get("chromaticity")
    return _apply_gamma(pixels, png.Colours(gamma=gamma, chromaticities=points), notes)


def _read_array(array: NDArray[Any]) -> Photo:
    """The photo in an sRGB array."""
    array = np.asarray(array)  # of a subclass, such as np.matrix
    _check_array(array)
    if array.dtype.kind == "f":
        pixels = np.rint(array.astype(np.float64).clip(0, 1) * 65_535).astype(np.uint16)
    else:
        pixels = array.astype(array.dtype.newbyteorder("="), copy=False)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    alpha = pixels[..., 3].copy() if pixels.shape[2] == 4 else None
    colour = pixels[..., :3] if pixels.shape[2] >= 3 else pixels.repeat(3, axis=2)
    return Photo(np.ascontiguousarray(colour), alpha)


def _check_array(array: NDArray[Any]) -> None:
    """Raise ImageError unless an array is a picture."""
    if array.ndim < 2 or array.shape[2:] not in ((), (1,), (3,), (4,)) or not array.size:
        raise ImageError(
            f"cannot take an array of the shape {array.shape} as a photo; it must be (H,W) or "
            "(H,W,1) or (H,W,3) or (H,W,4)"
        )
    if array.dtype.kind == "f":
        least, most = float(array.min()), float(array.max())
        if not (least >= -FLOAT_SLACK and most <= 1 + FLOAT_SLACK):
            raise ImageError(
                f"cannot take an array with values from {least:.4g} to {most:.4g} as a photo;"
                " floating point must be in [0,1], so scale it"
            )
    elif array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ImageError(
            f"cannot take an array of the type {array.dtype} as a photo; convert it to uint8, "
            "uint16 or floating point in [0,1]"
        )


# ---- folders


def list_images(root: Path) -> list[Path]:
    """Every photo below a folder, by suffix, sorted; hidden files and folders are left out."""
    if not root.is_dir():
        raise ImageError(f"cannot list {root}: there is no such folder; check the path")
    return sorted(
        path
        for path in root.rglob("*")
        if is_photo(path.name)
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    )


# ---- pixels


def orientation(image: Image.Image) -> int:
    """The EXIF orientation (1..8), 1 if none can be read."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1  # its own orientation was applied by the decoder
    with suppress(OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error):
        # PNG's own getexif would first decode the picture, in search of a late chunk.
        exif = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
        turn = exif.get(ExifTags.Base.Orientation, 1)
        return turn if turn in TURNS else 1
    return 1


def _decode_pixels(
    image: Image.Image, file: BinaryIO, notes: list[str]
) -> tuple[Pixels, Pixels | None]:
    """(H,W,3) sRGB and (H,W) alpha or None, upright; uint16 for deep files."""
    profile = image.info.get("icc_profile") or b""
    if decoded := decode_deep(image, file, notes):
        colour, alpha = decoded
        turn = orientation(image)
        pixels = icc.array_to_srgb(colour, profile, notes)
    else:
        image.load()
        turn = orientation(image)  # after loading, which turns some formats
        alpha = _alpha(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            grey = to_16_bits(_grey_values(image), deep=image.mode != "F", notes=notes)
            pixels = icc.array_to_srgb(grey, profile, notes)
            alpha = None if alpha is None else alpha.astype(np.uint16) * 257
        else:
            pixels = to_array(_to_rgb(image, profile, notes))
    return turn_upright(pixels, alpha, turn)


def _grey_values(image: Image.Image) -> NDArray[Any]:
    """(H,W) of a deep grey image; scales 12-bit TIFFs and inverts where zero is white."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if tags.get(258) == (12,):
        values = np.rint(values * (65_535 / 4095)).astype(np.uint16)
    if tags.get(262) == 0 and values.dtype.kind == "u":  # white is zero
        values = 65_535 - values
    return values


def _alpha(image: Image.Image) -> Pixels | None:
    """The transparency of an image as (H,W) uint8, None when its file has none."""
    key = image.info.get("transparency")
    if key is not None and (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return np.where(np.asarray(image) == key, 0, 255).astype(np.uint8)
    if not image.has_transparency_data:
        return None
    image = image.convert("LA") if image.mode == "La" else image
    return np.array(image.convert("RGBA").getchannel("A"))


def _to_rgb(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    """The colours of an image of any mode as sRGB in RGB or L, transparency aside."""
    if "transparency" in image.info:  # it would make convert("RGB") warn or blend
        image = image.copy()
        image.info = {}
    if image.mode in ("LA", "La"):
        image = image.convert("LA").getchannel("L")
    elif image.mode in ("RGBa", "PA"):
        image = image.convert("RGBA")
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    return icc.image_to_srgb(image, profile, notes)
