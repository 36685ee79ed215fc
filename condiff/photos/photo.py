"""A photo in memory: its pixels at their own depth, its transparency and metadata."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from condiff.arrays import Pixels, describe_array
from condiff.checks import check_kind
from condiff.errors import ImageError
from condiff.photos.metadata import Damage, Metadata


class Unreadable(Exception):
    """Why a photo cannot be read, and the way out; callers add the file's name."""


class SeveralPages(Unreadable):
    """The file has several pages or frames, and none was chosen."""


DEPTHS = (np.uint8, np.uint16)  # of a photo's channels
OVERSHOOT = 0.01  # of all values
STRIP_PIXELS = 1 << 22  # copies of a strip are small compared to the photo


@dataclass(frozen=True, eq=False)
class Photo:
    """(H,W,3) sRGB of 8 or 16 bits, upright; (H,W) alpha of the same depth, or None.

    `info` contains facts on a photo or result for the caller, such as the seed, and as "warnings" a
    tuple of sentences on what was not read. It is not written to files. Raises ImageError for
    arrays of another type or shape.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    metadata: Metadata = field(default_factory=Metadata)
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pixels, alpha = self.pixels, self.alpha
        given = isinstance(pixels, np.ndarray) and pixels.size > 0
        if not (given and pixels.dtype in DEPTHS and pixels.ndim == 3 and pixels.shape[2] == 3):
            raise ImageError(
                f"a photo's pixels are (H,W,3) of uint8 or uint16, not {describe_array(pixels)}"
            )
        same = isinstance(alpha, np.ndarray) and alpha.dtype == pixels.dtype
        if alpha is not None and not (same and alpha.shape == pixels.shape[:2]):
            raise ImageError(
                f"the alpha of a photo of {describe_array(pixels)} has its height, width and type, "
                f"not {describe_array(alpha)}"
            )
        check_kind("metadata", self.metadata, Metadata)
        check_kind("info", self.info, Mapping)

    def __repr__(self) -> str:
        """Size, depth and format; the pixels would fill a notebook's page."""
        (width, height), alpha = self.size, ", alpha" if self.alpha is not None else ""
        size = f"{width}x{height}, {16 if self.is_deep else 8} bits{alpha}"
        return f"<Photo {size}, {self.metadata.format or 'no format'}, info {dict(self.info)}>"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def is_deep(self) -> bool:
        """Whether it has 16 bits a channel."""
        return self.pixels.dtype == np.uint16

    @classmethod
    def from_image(cls, image: Image.Image) -> Self:
        """The photo in a Pillow image, with the metadata that `read_image` puts into its `info`."""
        alpha = None
        if image.has_transparency_data:
            image, info = image.convert("RGBA"), image.info
            image.info, alpha = info, np.array(image.getchannel("A"))
        metadata = image.info.get("metadata") or Metadata(format=image.info.get("format"))
        metadata = replace(
            metadata,
            exif=image.info.get("exif", metadata.exif),
            dpi=image.info.get("dpi", metadata.dpi),
        )
        return cls(to_array(image.convert("RGB")), alpha, metadata)

    def to_image(self) -> Image.Image:
        """The photo in 8 bits: mode RGB, or RGBA when it has transparency."""
        image = Image.fromarray(to_8_bits(self.pixels))
        if self.alpha is not None:
            image.putalpha(Image.fromarray(to_8_bits(self.alpha)))
        metadata = self.metadata
        image.info = {"format": metadata.format, "metadata": metadata}
        image.info.update(self.info)
        if metadata.exif:
            image.info["exif"] = metadata.exif
        if metadata.dpi:
            image.info["dpi"] = metadata.dpi
        return image


def with_pixels(photo: Photo, pixels: Pixels, **info: Any) -> Photo:
    """The photo with new pixels of the same size and more `info`; alpha and metadata stay."""
    return replace(photo, pixels=pixels, info={**photo.info, **info})


def invert(photo: Photo) -> Photo:
    """The positive of a negative, or the reverse: black is white. Its alpha stays."""
    white = np.iinfo(photo.pixels.dtype).max
    return replace(photo, pixels=white - photo.pixels)


def flatten(photo: Photo, background: str) -> Photo:
    """The photo on a background of one colour, without alpha; unchanged if it has no alpha.

    `background` is #rrggbb or a CSS name. Raises ValueError otherwise.
    """
    color = np.array(ImageColor.getrgb(background)[:3], np.float32)
    if photo.alpha is None:
        return photo
    white = np.iinfo(photo.pixels.dtype).max
    ground = color * (white / 255)
    flat = photo.pixels.copy()
    for strip in strips(*photo.pixels.shape[:2]):
        cover = photo.alpha[strip, :, None] / np.float32(white)
        mixed = ground + cover * (photo.pixels[strip] - ground)
        flat[strip] = np.rint(mixed).astype(flat.dtype)
    return replace(photo, pixels=flat, alpha=None)


def strips(height: int, width: int, *, pixels: int = STRIP_PIXELS) -> Iterator[slice]:
    """Row ranges that cover a picture, each of about `pixels` pixels."""
    rows = max(1, pixels // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def to_array(image: Image.Image) -> Pixels:
    """An image in RGB or L as (H,W,3) uint8, in strips: np.asarray would need more memory."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for rows in strips(height, width):
        strip = np.asarray(image.crop((0, rows.start, width, rows.stop)))
        pixels[rows] = cv2.merge([strip] * 3) if strip.ndim == 2 else strip
    return pixels


def to_16_bits(values: NDArray, *, deep: bool, notes: list[str]) -> Pixels:
    """Values as uint16: from [0,65535] if `deep`, else from [0,1]; others scaled by their range.

    If less than 1 % of floating-point values exceed [0,1], as after lossy coding, resizing or by
    highlights, they are clipped. Floating point up to 255 or 65,535 is read as levels. Integers
    above 16 bits are scaled by the range of their type if none is negative. NaN becomes black,
    infinity the largest finite value or black; `notes` gets a sentence on it. Raises Unreadable if
    no value is finite.
    """
    if values.dtype.itemsize == 2 and values.dtype.kind == "u":
        return values.astype(np.uint16)
    finite = _make_finite(values, notes)
    least, most = float(finite.min()), float(finite.max())
    white = 65_535.0 if deep else 1.0
    if values.dtype.kind in "ui" and least >= 0 and most > white:
        white = float(np.iinfo(values.dtype).max)
    elif values.dtype.kind == "f" and ((finite < 0) | (finite > white)).mean() < OVERSHOOT:
        finite = finite.clip(0, white)
    elif values.dtype.kind == "f" and least >= 0 and (usual := _usual_white(most)):
        white = usual
    elif least < 0 or most > white:
        finite, white = finite - least, max(most - least, 1e-12)
    return np.rint(finite * (65_535 / white)).astype(np.uint16)


def _percent(where: NDArray[np.bool_]) -> str:
    """The share of a mask that is set, in percent, also where it is tiny."""
    return f"{100 * where.mean():.2g}%"


def _make_finite(values: NDArray, notes: list[str]) -> NDArray[np.float64]:
    """Values with NaN and infinity replaced."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        finite = values.astype(np.float64)
    there = np.isfinite(finite)
    if there.all():
        return finite
    if not there.any():
        raise Unreadable("none of its values is a number (NaN or infinite); get a whole copy")
    lost = np.isnan(finite)
    if lost.any():
        notes.append(Damage(f"{_percent(lost)} of its values are not numbers (NaN), now black"))
    infinite = ~there & ~lost
    if infinite.any():
        notes.append(Damage(f"{_percent(infinite)} of its values are infinite, now white or black"))
    black, white = min(0.0, float(finite[there].min())), float(finite[there].max())
    return np.nan_to_num(finite, copy=False, nan=black, posinf=white, neginf=black)


def _usual_white(most: float) -> float:
    """255 or 65,535 if floating point up to `most` probably has that many levels; else 0."""
    return next((white for white in (255.0, 65_535.0) if white / 4 < most <= white), 0.0)


def to_8_bits(pixels: Pixels) -> Pixels:
    """uint16 -> the nearest uint8; uint8 is returned unchanged."""
    if pixels.dtype == np.uint8:
        return pixels
    return cv2.convertScaleAbs(pixels, alpha=1 / 257).reshape(pixels.shape)


# EXIF orientation -> the transform that makes the pixels upright.
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda p: cv2.flip(p, 1),
    3: lambda p: cv2.rotate(p, cv2.ROTATE_180),
    4: lambda p: cv2.flip(p, 0),
    5: cv2.transpose,
    6: lambda p: cv2.rotate(p, cv2.ROTATE_90_CLOCKWISE),
    7: lambda p: cv2.flip(cv2.transpose(p), -1),
    8: lambda p: cv2.rotate(p, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def turn_upright(
    pixels: Pixels, alpha: Pixels | None, orientation: int
) -> tuple[Pixels, Pixels | None]:
    """Colours and transparency, turned by EXIF's orientation (1..8)."""
    if turn := TURNS.get(orientation):
        return turn(pixels), None if alpha is None else turn(alpha)
    return pixels, alpha


@contextmanager
def as_memory_error() -> Iterator[None]:
    """Raise MemoryError where OpenCV could not allocate; its other errors pass through."""
    try:
        yield
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from error
        raise
