"""A user's edits of the colours of a photo or a drawing: hints, saturation, temperature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from condiff.arrays import Plane
from condiff.checks import check_kind, settle_fields
from condiff.color.album import AlbumStyle
from condiff.color.hint_propagation import propagate_hints
from condiff.color.hints import (
    Hint,
    Hints,
    Strokes,
    check_aspect,
    chroma_of,
    crop_hints,
    draw_strokes,
    to_cells,
)
from condiff.color.lab import lightness, upsample_chroma
from condiff.color.palette import Palette
from condiff.color.references import Guide, Reference
from condiff.color.scans import Frame
from condiff.errors import ConfigError, UsageError
from condiff.files import short_digest
from condiff.photos.metadata import Metadata
from condiff.photos.photo import Photo, flatten, invert
from condiff.photos.reading import PhotoLike, as_photo
from condiff.resize import resize

DAYLIGHT = 1e6 / 6504  # mired of D65, the white of sRGB
MAX_SATURATION = 5.0
OF_DRAWINGS = ("keep_lines", "flat")  # the edits that only drawings take
MIN_TEMPERATURE, MAX_TEMPERATURE = -100.0, 200.0  # mired: 18600 K and 2827 K


def _check_kinds(hints: object, mask: object) -> None:
    """Raise ConfigError for hints or a mask that are given as something else, such as a path."""
    listed = isinstance(hints, (list, tuple)) and all(isinstance(hint, Hint) for hint in hints)
    if not (listed or isinstance(hints, Image.Image)):
        parts = hints if isinstance(hints, (list, tuple)) else ()
        found = next((part for part in parts if not isinstance(part, Hint)), hints)
        raise ConfigError(
            f"hints are a list of Hint or a Pillow image, not {type(found).__name__}: "
            "give [Hint(0.5, 0.25, 'teal')], or open the picture of strokes with Image.open."
        )
    if not (mask is None or isinstance(mask, Image.Image)):
        raise ConfigError(
            f"The mask is a Pillow image, not {type(mask).__name__}: open it with Image.open, or "
            "make it with Image.fromarray."
        )


def _as_read(picture: Image.Image) -> Image.Image:
    """A picture as `read_image` returns its file: upright, in sRGB, 8 bits, RGB or RGBA."""
    known = isinstance(picture.info.get("metadata"), Metadata)
    return picture if known else as_photo(picture).to_image()


@dataclass(frozen=True)
class ColorEdits:
    """What a user changes in a photo before it is coloured, and in its colours.

    `hints` are a list of `Hint` or a transparent image of strokes of the photo's aspect.
    `saturation` multiplies chroma, 0 to 5; None is that of the look, or 1 without a look.
    `temperature` makes the white warmer by this many mired, -100 to 200. `mask` is a grey picture
    of the photo's aspect: white places are coloured, black ones stay grey, and in between chroma is
    reduced. `invert` makes a positive of a negative. `background`, #rrggbb or a CSS name, replaces
    transparency. `as_is` also colours the borders of a scan, and shows the model the photo's own
    levels; it leaves a drawing uncleaned. `keep_lines` draws a drawing's lines over its colours,
    and `flat` is how even these are inside closed lines: 0 unchanged, 1 one colour per region.
    `references` are colour photos, as `as_photo` takes them, whose colours go to the places of the
    photo that match; `strict_reference` refuses a photo that they hardly match. `palette`, colours
    or a colour photo, gives the automatic colours its mean and spread. `album` is the style of a
    set that the photo belongs to. Images of hints and masks may have any mode. Raises ConfigError
    for values of another type or out of range, UsageError for those that do not go together,
    ImageError for references without colours.
    """

    hints: Hints = ()
    saturation: float | None = None
    temperature: float = 0.0
    mask: Image.Image | None = None
    invert: bool = False
    background: str | None = None
    as_is: bool = False
    keep_lines: bool = True
    flat: float = 1.0
    references: Sequence[PhotoLike | Reference] = ()
    strict_reference: bool = False
    palette: Palette | Sequence[str] | PhotoLike | None = None
    album: AlbumStyle | None = None

    def __post_init__(self) -> None:
        settle_fields(self)
        _check_kinds(self.hints, self.mask)
        hints = self.hints  # a tuple, because the caller may change a list
        hints = _as_read(hints) if isinstance(hints, Image.Image) else tuple(hints)
        object.__setattr__(self, "hints", hints)
        if self.mask is not None:
            object.__setattr__(self, "mask", _as_read(self.mask))
        given = self.references
        photos = given if isinstance(given, (list, tuple)) else [given]
        object.__setattr__(self, "references", tuple(map(Reference.open, photos)))
        if self.strict_reference and not photos:
            raise UsageError("A strict reference needs a reference: give one, or leave strict out.")
        if self.palette is not None:
            object.__setattr__(self, "palette", Palette.open(self.palette))
        if self.album is not None:
            check_kind("album", self.album, AlbumStyle)
        saturation = 1.0 if self.saturation is None else self.saturation
        if not 0 <= saturation <= MAX_SATURATION:
            raise ConfigError(f"saturation is from 0 to {MAX_SATURATION:g}, not {saturation:g}.")
        if not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise ConfigError(
                f"temperature is from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g} mired, not "
                f"{self.temperature:g}; 0 changes nothing, 50 is clearly warmer."
            )
        if not 0 <= self.flat <= 1:
            raise ConfigError(f"flat is from 0 to 1, not {self.flat:g}.")
        if self.background is not None:
            try:
                ImageColor.getrgb(self.background)
            except ValueError:
                raise ConfigError(
                    f"The background {self.background!r} is not a colour: give #rrggbb, or a name "
                    "such as white."
                ) from None

    def changed(self) -> list[str]:
        """The names of the edits that differ from the defaults."""
        hinted = not isinstance(self.hints, (list, tuple)) or bool(self.hints)
        there = {
            "hints": hinted,
            "saturation": self.saturation not in (None, 1),
            "temperature": self.temperature != 0,
            "mask": self.mask is not None,
            "invert": self.invert,
            "background": self.background is not None,
            "as_is": self.as_is,
            "keep_lines": not self.keep_lines,
            "flat": self.flat != 1.0,
            "references": bool(self.references),
            "strict_reference": self.strict_reference,
            "palette": self.palette is not None,
            "album": self.album is not None,
        }
        return [name for name, wanted in there.items() if wanted]

    def with_saturation(self, saturation: float) -> "ColorEdits":
        """The edits with that saturation where they have none of their own."""
        return replace(self, saturation=saturation) if self.saturation is None else self

    @property
    def mask_digest(self) -> str:
        """16 hex digits of the mask's content; empty without one."""
        if self.mask is None:
            return ""
        mask = self.mask.convert("L")
        return short_digest(repr(mask.size).encode() + mask.tobytes())

    @property
    def reference_digests(self) -> list[str]:
        """16 hex digits of each reference's content."""
        return [reference.digest for reference in self.open_references()]

    @property
    def palette_note(self) -> str:
        """The palette's colours, or 16 hex digits of its photo's content; empty without one."""
        return "" if self.palette is None else Palette.open(self.palette).note

    @property
    def album_note(self) -> dict[str, float]:
        """The album's seed and means; empty without one."""
        return {} if self.album is None else self.album.note

    def open_references(self) -> tuple[Reference, ...]:
        """The references, which were read when the edits were made."""
        return tuple(map(Reference.open, self.references))

    def begin(self, photo: Photo) -> Photo:
        """The photo that is coloured: the user's, or the positive of a negative."""
        return invert(photo) if self.invert else photo

    def finish(self, result: Photo) -> Photo:
        """The final coloured photo, with the background in place of transparency."""
        return result if self.background is None else flatten(result, self.background)

    def prepare(
        self,
        *,
        photo: tuple[int, int],
        size: tuple[int, int],
        frame: Frame | None = None,
        values_of: Callable[[NDArray[np.uint8]], Plane] = chroma_of,
    ) -> "PreparedEdits":
        """The edits for a photo or drawing of (width, height) whose condition has the size (h,w).

        The condition shows what is within the `frame`, or all of the photo. `values_of` converts
        the colours of hints to values in the model's space.
        """
        hints, box = self.hints, None
        weight = None if self.mask is None else _fit_mask(self.mask, photo)
        if frame is not None:
            box, cover = frame.box, frame.cover()
            weight = weight if weight is None else weight[box]
            if cover is not None:
                weight = cover if weight is None else np.minimum(weight, cover)
            hints = crop_hints(hints, photo=photo, box=box)
            photo = (box[1].stop - box[1].start, box[0].stop - box[0].start)
        strokes = draw_strokes(hints, photo=photo, size=size, values_of=values_of)
        saturation = 1.0 if self.saturation is None else self.saturation
        adjust = build_adjustment(saturation, self.temperature)
        palette = None if self.palette is None else Palette.open(self.palette)
        return PreparedEdits(
            strokes=strokes,
            adjust=adjust,
            box=box,
            weight=weight,
            keep_lines=self.keep_lines,
            flat=self.flat,
            palette=palette,
            album=self.album,
        )


@dataclass(frozen=True, eq=False)
class PreparedEdits:
    """Strokes at the size of the condition, and the function that adjusts (H,W,3) Lab.

    Only the `box` of the photo, rows and columns, is coloured; None is all of it. `weight` (h,w) is
    how much of the chroma in the box is kept, of 255.
    """

    strokes: Strokes | None = None
    adjust: Callable[[Plane], Plane] | None = None
    box: tuple[slice, slice] | None = None
    weight: NDArray[np.uint8] | None = None
    keep_lines: bool = True
    flat: float = 1.0
    guide: Guide | None = None  # chroma of references
    palette: Palette | None = None
    album: AlbumStyle | None = None

    def recolor(self, chroma: Plane, pixels: NDArray[Any]) -> Plane:
        """The model's chroma (h,w,2) for a photo (H,W,3) with the palette, in the album's style.

        Without both it is unchanged.
        """
        if self.palette is not None:
            small = cv2.resize(pixels, chroma.shape[1::-1], interpolation=cv2.INTER_AREA)
            chroma = self.palette.apply(chroma, lightness(small))
        return chroma if self.album is None else self.album.apply(chroma)

    def keep_hints(self, chroma: Plane, pixels: NDArray[Any]) -> Plane:
        """Chroma (h,w,2) blended with the guide's and the strokes' chroma, at the strokes' size.

        Without both it is unchanged.
        """
        if self.guide is not None:
            chroma = self.guide.blend(chroma)
        if self.strokes is None:
            return chroma
        size = self.strokes.mask.shape[::-1]
        L = lightness(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
        fine = upsample_chroma(chroma, L)
        return propagate_hints(fine, L, target=self.strokes.values, mask=self.strokes.mask)

    def encode_hints(
        self,
        fit: Callable[[Plane], Plane],
        *,
        cell: int,
        scale: float,
        inside: tuple[int, int],
        size: tuple[int, int],
    ) -> Plane | None:
        """The model's hints (1,C+1,*size), or None; zero outside the rows and columns `inside`.

        `fit` limits values (h,w,C) at the condition's size to what the picture can show there.
        """
        strokes = self.strokes
        if self.guide is not None:
            strokes = self.guide.to_strokes(strokes, inside, cell)
        if strokes is None:
            return None
        shown = replace(strokes, values=fit(strokes.values))
        cells = to_cells(shown, cell=cell, scale=scale)
        hints = np.zeros((1, cells.shape[2], *size), np.float32)
        hints[0, :, : cells.shape[0], : cells.shape[1]] = cells.transpose(2, 0, 1)
        return hints


NO_EDITS = ColorEdits()
UNEDITED = PreparedEdits()


def _fit_mask(mask: Image.Image, photo: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask at the size of a photo of (width, height): (H,W)."""
    check_aspect(mask, photo, "The mask is")
    return resize(np.array(mask.convert("L")), photo[1], photo[0])


def build_adjustment(
    saturation: float = 1.0, temperature: float = 0.0
) -> Callable[[Plane], Plane] | None:
    """A function that changes a and b of (H,W,3) Lab, or None where nothing changes.

    First chroma is multiplied by `saturation`. Then the white becomes that of a black body
    `temperature` mired (a million by kelvin) warmer than daylight, or cooler if it is negative.
    """
    if saturation == 1 and temperature == 0:
        return None
    gains = white_gains(temperature)
    return partial(adjust, saturation=saturation, gains=gains)


def adjust(lab: Plane, *, saturation: float, gains: tuple[float, float]) -> Plane:
    """(H,W,3) Lab with a and b changed, L* the same; `gains` are of f(X) and of f(Z).

    Scaling X and Z and leaving Y, as a von Kries adaptation in XYZ, is affine in Lab, since
    a = 500 (f(X) - f(Y)), b = 200 (f(Y) - f(Z)) and f is a cube root.
    """
    f_y = (lab[..., 0] + 16) / 116
    a = (500 * f_y + saturation * lab[..., 1]) * gains[0] - 500 * f_y
    b = 200 * f_y - (200 * f_y - saturation * lab[..., 2]) * gains[1]
    return np.stack([lab[..., 0], a, b], axis=2).astype(np.float32)


def white_gains(temperature: float) -> tuple[float, float]:
    """Factors of f(X) and f(Z) that move the white `temperature` mired on the Planckian locus."""
    whites = [_black_body(1e6 / (DAYLIGHT + shift)) for shift in (0.0, temperature)]
    (x, z), (new_x, new_z) = whites
    return (new_x / x) ** (1 / 3), (new_z / z) ** (1 / 3)


def _black_body(kelvin: float) -> tuple[float, float]:
    """X/Y and Z/Y of a black body, by the cubics of Kim et al. (US patent 7024034, 2002)."""
    T = 1e3 / kelvin
    if kelvin < 4000:
        x = -0.2661239 * T**3 - 0.2343589 * T**2 + 0.8776956 * T + 0.179910
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        x = -3.0258469 * T**3 + 2.1070379 * T**2 + 0.2226347 * T + 0.240390
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    return x / y, (1 - x - y) / y
