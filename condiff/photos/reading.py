"""Reads photo files of any format: upright, in sRGB, at 8 or 16 bits a channel."""

import io
import math
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin, UnidentifiedImageError

from condiff.errors import ImageError
from condiff.files import reason_of
from condiff.photos import ifd, png
from condiff.photos.formats import FORMATS, READ_ONLY
from condiff.photos.icc import UNUSABLE, deep_to_srgb, to_srgb
from condiff.photos.metadata import Metadata, add_tags, read_metadata
from condiff.photos.photo import Photo, Pixels, as_memory_error, to_16_bits, to_array

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


TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda p: cv2.flip(p, 1),
    3: lambda p: cv2.rotate(p, cv2.ROTATE_180),
    4: lambda p: cv2.flip(p, 0),
    5: cv2.transpose,
    6: lambda p: cv2.rotate(p, cv2.ROTATE_90_CLOCKWISE),
    7: lambda p: cv2.flip(cv2.transpose(p), -1),
    8: lambda p: cv2.rotate(p, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def orientation(image: Image.Image) -> int:
    """The EXIF orientation (1..8), 1 where there is none that can be read."""
    with suppress(OSError, SyntaxError, ValueError, LookupError, TypeError):
        # PNG's own getexif would first decode the picture, in search of a late chunk.
        exif = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
        turn = exif.get(ExifTags.Base.Orientation, 1)
        return turn if turn in TURNS else 1
    return 1


def decode_pixels(image: Image.Image, file: BinaryIO) -> tuple[Pixels, Pixels | None]:
    """(H,W,3) sRGB and (H,W) alpha or None, upright; uint16 for deep files."""
    profile = image.info.get("icc_profile")
    if _is_deep_colour(image):
        turn = orientation(image) if image.format == "PNG" else 1  # cv2 has turned a TIFF
        pixels, alpha = _decode_deep(image, file)
    else:
        image.load()
        turn = orientation(image)  # after loading: Pillow has turned a TIFF by then
        pixels, alpha = _decode_by_pillow(image)
    if profile and pixels.dtype == np.uint16:
        pixels = deep_to_srgb(pixels, profile)
    if turn != 1:
        pixels = TURNS[turn](pixels)
        alpha = None if alpha is None else TURNS[turn](alpha)
    return pixels, alpha


def _decode_by_pillow(image: Image.Image) -> tuple[Pixels, Pixels | None]:
    """Colours and alpha of a loaded image; its profile is applied at 8 bits only."""
    alpha = _alpha(image)
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return to_array(_to_rgb(image)), alpha
    grey = to_16_bits(np.asarray(image), deep=image.mode != "F")
    if getattr(image, "tag_v2", {}).get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        grey = 65_535 - grey  # white is zero; Pillow inverts this at 8 bits only
    if alpha is not None:
        alpha = alpha.astype(np.uint16) * 257
    return cv2.merge([grey] * 3).reshape(*grey.shape, 3), alpha


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether a file holds 16 bits a channel that Pillow would cut to 8."""
    if image.format == "PNG":
        return (
            any(str(tile[3]).endswith(";16B") for tile in getattr(image, "tile", ()))
            and image.mode != "I;16"
        )
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    return bool(
        image.format == "TIFF"
        and image.mode in ("RGB", "RGBA", "RGBX", "RGBa", "LA")
        and set(bits) == {16}
        and tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] == 1
    )


def _decode_deep(image: Image.Image, file: BinaryIO) -> tuple[Pixels, Pixels | None]:
    """(H,W,3) and alpha of a PNG or TIFF of 16 bits a channel, by cv2."""
    page = image.tell() if image.format == "TIFF" else 0
    tags = getattr(image, "tag_v2", {})
    extra = tags.get(TiffImagePlugin.EXTRASAMPLES, (0,))
    if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2:
        pixels = _decode_planes(file, page)
    else:
        pixels = decode_by_cv2(file, page)
    if pixels.ndim == 2 or pixels.dtype != np.uint16:
        raise ValueError("its channels cannot be read")
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), None
    alpha = np.ascontiguousarray(pixels[..., 3])
    colour = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB)
    if image.format == "TIFF" and image.mode == "RGBX":
        return colour, None
    if image.format == "TIFF" and extra[0] == 1:  # the colours were multiplied by alpha
        scale = 65_535 / np.maximum(alpha, 1).astype(np.float32)
        colour = np.rint(np.minimum(colour * scale[..., None], 65_535)).astype(np.uint16)
    return colour, alpha


def _decode_planes(file: BinaryIO, page: int) -> Pixels:
    """A TIFF with separate channel planes, which cv2 mixes up: reads each as a grey TIFF."""
    order, big, offset = ifd.read_header(file)
    if big or page:
        raise ValueError("its channels lie apart; save them interleaved")
    tags = ifd.read_directory(file, offset, order=order)
    channels = ifd.read_number(tags[TiffImagePlugin.SAMPLESPERPIXEL], order)
    shape = {tag: tags[tag] for tag in ifd.GRID if tag in tags}
    shape |= {262: ifd.short(1, order=order), 277: ifd.short(1, order=order)}  # grey
    file.seek(0)
    whole = file.read()
    planes = []
    for channel in range(channels):
        own = {tag: ifd.part(tags[tag], channel, channels) for tag in ifd.PIECES if tag in tags}
        at = len(whole) + len(whole) % 2
        head = whole[:4] + struct.pack(f"{order}I", at)
        directory = ifd.pack_directory(shape | own, order=order, start=at)
        data = head + whole[8:] + bytes(len(whole) % 2) + directory
        planes.append(decode_by_cv2(io.BytesIO(data)))
    red, green, blue, *alpha = planes
    return cv2.merge([blue, green, red, *alpha[:1]])


def decode_by_cv2(file: BinaryIO, page: int = 0) -> Pixels:
    """A file's pixels in cv2's channel order and at their own depth; cv2 turns TIFFs upright."""
    file.seek(0)
    data = np.frombuffer(file.read(), np.uint8)
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        with as_memory_error():
            if page:
                _, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED, None, (page, page + 1))
                decoded = pages[0] if pages else None
            else:
                decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"cv2 says: {error.err}") from None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if decoded is None:
        raise ValueError("its pixels cannot be decoded")
    return decoded


def _alpha(image: Image.Image) -> Pixels | None:
    """The transparency of an image as (H,W) uint8, None when its file has none."""
    key = image.info.get("transparency")
    if key is not None and (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return np.where(np.asarray(image) == key, 0, 255).astype(np.uint8)
    if not image.has_transparency_data:
        return None
    return np.array(image.convert("RGBA").getchannel("A"))


def _to_rgb(image: Image.Image) -> Image.Image:
    """The colours of an image of any mode as an sRGB image, transparency aside."""
    profile = image.info.get("icc_profile")
    image.info = {}  # a tRNS key here would make convert("RGB") warn or blend
    if image.mode in ("LA", "La"):
        image = image.convert("LA").getchannel("L")
    elif image.mode in ("RGBa", "PA"):
        image = image.convert("RGBA")
    if image.mode == "LAB":
        image = to_srgb(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    elif profile:
        # A broken profile, or one of another mode, is ignored: sRGB is the best guess.
        with suppress(*UNUSABLE):
            image = to_srgb(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    return image if image.mode == "RGB" else image.convert("RGB")
