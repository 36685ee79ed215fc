"""Photo files: read upright in sRGB whatever the format and mode, written whole or not at all."""

import errno
import io
import math
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from condiff.errors import ImageError

# What is written: the suffixes, and the format that each one means.
FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".png": "PNG", ".webp": "WEBP",
    ".avif": "AVIF", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".jp2": "JPEG2000",
    ".ppm": "PPM",
}  # fmt: skip
# What is read besides. A HEIC file opens only where a Pillow plug-in is at hand, but a folder's
# listing names it all the same: a failure that is counted beats a photo silently left out.
READ_ONLY = {".gif", ".jfif", ".heic", ".heif", ".pgm", ".pbm", ".tga", ".j2k", ".dng"}

SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 90},
    "TIFF": {"compression": "tiff_lzw"},
}
TAKES_ALPHA = {"PNG", "WEBP", "AVIF", "TIFF", "JPEG2000"}
TAKES_EXIF = {"JPEG", "PNG", "WEBP", "AVIF", "TIFF"}
TAKES_DPI = {"JPEG", "PNG", "TIFF", "BMP"}
EXISTS = "it already exists; use --force to replace it"
MAX_JPEG_EXIF = 65_533  # one segment; the other formats have room for more

# What Pillow's decoders raise on damaged files.
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError,
    RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
NOT_OPENED: dict[type, str] = {
    FileNotFoundError: "there is no such file; check the path",
    IsADirectoryError: "it is a folder; give a photo, or use `condiff batch`",
    PermissionError: "no permission; make the file readable",
}

_pillow_limit = threading.Lock()


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Pillow's own pixel limit off: it would warn, or refuse, below the limit asked for here."""
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def read_image(source: Path | BinaryIO, *, max_pixels: int = 200_000_000) -> Image.Image:
    """A photo, upright and in sRGB: mode RGB, or RGBA when the file has transparency.

    `.info` holds the source's "format" and, where present, its "exif" (orientation 1) and "dpi".
    """
    if not isinstance(source, Path):
        return _decode(io.BytesIO(source.read()), "standard input", max_pixels)
    name = str(source)
    try:
        with open(source, "rb") as file:  # a pipe given by its path cannot seek, as Pillow must
            return _decode(file if file.seekable() else io.BytesIO(file.read()), name, max_pixels)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = NOT_OPENED.get(type(error), f"{_reason(error)}; check the path and the disk")
        raise ImageError(f"cannot read {name}: {why}") from None


def _decode(file: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """The photo in an open, seekable file."""
    if not file.read(1):
        raise ImageError(f"cannot read {name}: it is empty; get the photo again from its source")
    file.seek(0)
    try:
        with _without_pillow_limit():
            image = Image.open(file)
        with image:
            megapixels = math.prod(image.size) / 1e6  # from the header: nothing is decoded yet
            if megapixels * 1e6 > max_pixels:
                raise ImageError(
                    f"cannot read {name}: it has {megapixels:.4g} megapixels, above the limit of"
                    f" {max_pixels / 1e6:.4g}; scale it down first"
                )
            if min(image.size) < 1:
                raise ImageError(f"cannot read {name}: it has no pixels; get a whole copy")
            image.load()
            return _normalise(image)
    except UnidentifiedImageError:
        raise ImageError(
            f"cannot read {name}: it is not a photo in a known format; convert it to JPEG or PNG"
        ) from None
    except BROKEN as error:
        raise ImageError(
            f"cannot read {name}: it is damaged or cut short ({_reason(error)}); get a whole copy"
        ) from None


def _reason(error: BaseException) -> str:
    """What the system or Pillow says of a failure, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def _normalise(image: Image.Image) -> Image.Image:
    """A loaded image of any mode -> upright sRGB, RGB or RGBA, with the `info` worth keeping."""
    info: dict[str | tuple[int, int], Any] = {"format": image.format}
    upright = image
    with suppress(*BROKEN):  # unreadable metadata is no reason to lose the photo
        exif = image.getexif()
        turn = TURNS.get(exif.get(ExifTags.Base.Orientation, 1))
        upright = image if turn is None else image.transpose(turn)
        if image.info.get("exif"):
            exif[ExifTags.Base.Orientation] = 1
            info["exif"] = exif.tobytes()
    dpi = image.info.get("dpi", ())  # a TIFF without a unit says 1
    if len(dpi) == 2 and all(math.isfinite(d) and 1 < d < 65_536 for d in dpi):
        info["dpi"] = tuple(float(d) for d in dpi)
    alpha = _alpha(upright)
    plain = _to_rgb(upright)
    if alpha is not None:
        plain.putalpha(alpha)
    plain.info = info
    return plain


def _alpha(image: Image.Image) -> Image.Image | None:
    """The transparency of an image as mode L, None when its file has none."""
    key = image.info.get("transparency")
    if key is not None and (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return None
    return image.convert("RGBA").getchannel("A")


def _to_rgb(image: Image.Image) -> Image.Image:
    """The colours of an image of any mode as a new sRGB image, transparency aside."""
    profile = image.info.get("icc_profile")
    image = image.copy()
    image.info.clear()  # a tRNS key here would make convert("RGB") warn or blend
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_to_8_bits(np.asarray(image), deep=image.mode != "F"))
    elif image.mode in ("LA", "La"):
        image = image.convert("LA").getchannel("L")
    elif image.mode in ("RGBa", "PA"):
        image = image.convert("RGBA")
    if image.mode == "LAB":
        image = _apply_profile(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    elif profile:
        # A broken profile, or one of another mode, is ignored: sRGB is the best guess.
        with suppress(ImageCms.PyCMSError, OSError, TypeError, ValueError):
            image = _apply_profile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    return image.convert("RGB")


def _apply_profile(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """An image in its profile's colours -> RGB in sRGB."""
    if (profile.profile.profile_description or "").startswith(("sRGB IEC61966-2", "sRGB built")):
        return image  # already there: no need of a pass over all pixels
    mode = {"RGB": "RGB", "GRAY": "L"}.get(profile.profile.xcolor_space.strip(), image.mode)
    if mode == "RGB" or image.mode == "1":
        image = image.convert(mode)
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB") or image


def _to_8_bits(values: np.ndarray, *, deep: bool) -> np.ndarray:
    """Grey of 16 bits (deep), or of 0..1, as uint8; anything wider by its own range."""
    finite = np.nan_to_num(values.astype(np.float32), nan=0, posinf=0, neginf=0)
    least, most = float(finite.min()), float(finite.max())
    white = 65_535.0 if deep else 1.0
    if least < 0 or most > white:
        finite, white = finite - least, max(most - least, 1e-12)
    return np.rint(finite * (255 / white)).astype(np.uint8)


def check_target(target: Path, force: bool = False, *, format: str | None = None) -> None:
    """Raise ImageError if a photo could not be written there, so that no work is done in vain."""
    why = None
    try:
        if format is None and target.suffix.lower() not in FORMATS:
            ending = f"the suffix {target.suffix}" if target.suffix else "a name without a suffix"
            why = f"{ending} means no known format; use .jpg, .png, .webp, .avif or .tif"
        elif target.is_dir():
            why = "it is a folder; give a file name"
        elif os.path.lexists(target) and not force:
            why = EXISTS
        elif target.exists() and not target.is_file():  # /dev/null must not become a photo
            why = "it is no regular file; give another name"
        elif not target.parent.is_dir():
            why = "its folder is missing; create it first"
        elif not os.access(target.parent, os.W_OK | os.X_OK):
            why = "no permission in its folder; give another one"
    except (OSError, ValueError) as error:  # a name too long, a NUL in it
        raise _unwritten(str(target), error) from None
    if why:
        raise ImageError(f"cannot write {target}: {why}")


def _unwritten(name: str, error: BaseException) -> ImageError:
    if isinstance(error, FileExistsError):
        return ImageError(f"cannot write {name}: {EXISTS}")
    return ImageError(f"cannot write {name}: {_reason(error)}; try another place or format")


def write_image(
    image: Image.Image, target: Path | BinaryIO, *, format: str | None = None, force: bool = False
) -> None:
    """Write a photo whole or not at all; the format is by name, by suffix, or PNG to a stream."""
    path = target if isinstance(target, Path) else None
    name = str(path or "standard output")
    if path:
        check_target(path, force, format=format)
    format = format or (path.suffix.lstrip(".") if path else "png")
    format = FORMATS.get(f".{format.lower()}", format.upper())
    options = dict(SAVE_OPTIONS.get(format, {}))
    exif = image.info.get("exif", b"")
    if format in TAKES_EXIF and exif and not (format == "JPEG" and len(exif) > MAX_JPEG_EXIF):
        options["exif"] = exif
    if format in TAKES_DPI and "dpi" in image.info:
        options["dpi"] = image.info["dpi"]
    image = _to_writable(image, format, name)
    try:
        if isinstance(target, Path):
            with _publish(target, force) as file:
                image.save(file, format, **options)
        else:
            encoded = io.BytesIO()  # some encoders seek, and a pipe cannot
            image.save(encoded, format, **options)
            target.write(encoded.getbuffer())
    except (OSError, ValueError, KeyError, struct.error, MemoryError) as error:
        raise _unwritten(name, error) from None


def _to_writable(image: Image.Image, format: str, name: str) -> Image.Image:
    """The image in a mode that the format takes, never dropping transparency that is in use."""
    if image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode == "RGBA" and format not in TAKES_ALPHA:
        if image.getchannel("A").getextrema() != (255, 255):
            raise ImageError(
                f"cannot write {name}: {format} has no transparency, and this photo has;"
                " use .png or .webp (PNG or WebP)"
            )
        image = image.convert("RGB")
    return image


@contextmanager
def _publish(target: Path, force: bool) -> Iterator[BinaryIO]:
    """A file beside the target that takes its name at the end, and is gone if anything fails."""
    target = target.resolve() if target.is_symlink() else target
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)  # left by a killed process that had the same number
    try:
        with open(part, "xb") as file:
            yield file
        if force:
            part.replace(target)
        else:
            _link(part, target)
    finally:
        part.unlink(missing_ok=True)


def _link(part: Path, target: Path) -> None:
    """Publish `part` as `target`, or raise FileExistsError even if that came this instant."""
    try:
        os.link(part, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL))  # no hard links here (FAT): claim it
        part.replace(target)


def default_target(source: Path, suffix: str) -> Path:
    """photo.jpg, "color" -> photo.color.jpg beside it; .png where its format is not written."""
    ending = source.suffix if source.suffix.lower() in FORMATS else ".png"
    return source.with_name(f"{source.stem}.{suffix}{ending}")


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
