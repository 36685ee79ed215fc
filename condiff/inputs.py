"""The parts of a condition: made from photos in training, from a user's file in sampling."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from PIL import Image

from condiff.arrays import Pixels, Plane
from condiff.color.degradation import degrade
from condiff.color.lab import lab_to_rgb_batch, lightness, rgb_to_lab
from condiff.color.scans import Frame, fill_border, find_frame, normalise_levels
from condiff.conditions.drawing_cleanup import Drawing, clean_drawing, limit_ink, shrink_ink
from condiff.conditions.filters import to_gray
from condiff.conditions.line_augmentation import augment_lines
from condiff.conditions.table import (
    CONDITIONS,
    HELD_OUT,
    LINE_KINDS,
    apply,
    draw_line_condition,
    to_ink,
)
from condiff.errors import ConfigError, DataError, ImageError
from condiff.photos.photo import to_8_bits
from condiff.photos.reading import PhotoLike, as_photo
from condiff.resize import MAX_STRIP, fit_size, have_one_aspect, resize, resize_square, shrink_to

if TYPE_CHECKING:
    from torch import Tensor

UserPicture = PhotoLike | Drawing
# Where an input enters the U-Net: beside x_t, by pixel-unshuffle of a picture that is larger than
# x_t ("picture") or at the size of x_t ("cells"); or words, by a text encoder ("text").
Enters = Literal["picture", "cells", "text"]


@dataclass(frozen=True, eq=False)
class View:
    """A square of a photo for training, at the photo's own resolution.

    `stored` are the kinds of the condition images that come with the photo; read(kind) returns one
    of them, cut like the square, (n,n,C) uint8.
    """

    pixels: Pixels  # (n,n,3) uint8 RGB
    stored: tuple[str, ...]
    read: Callable[[str], Pixels]


class Input(ABC):
    """One part of a condition, with `channels` channels."""

    name: ClassVar[str]
    channels: int
    enters: ClassVar[Enters]


class PictureInput(Input):
    """An input that is a picture: made from the photo in training, given by the user later."""

    enters = "picture"
    what: ClassVar[str]  # what the user gives, with its article
    draws: tuple[str, ...] = ()  # rows of the conditions table that training draws or reads
    # Whether it is the photo itself. Then training draws and reads no other picture, and guidance
    # leaves out only the backbone's features of it.
    is_photo: ClassVar[bool] = False
    is_ink: ClassVar[bool] = False  # 1 where lines are, -1 on paper

    @abstractmethod
    def from_photo(
        self, view: View, size: int, rng: np.random.Generator, *, degrade_prob: float = 0.0
    ) -> Plane:
        """The condition (size,size,N) in [-1,1] of a view."""

    @abstractmethod
    def open(self, picture: UserPicture, *, as_is: bool = False) -> "Opened":
        """A user's picture, cleaned where needed; ConfigError or ImageError for another kind."""

    def show(self, condition: "Tensor") -> "Tensor":
        """The condition (B,N,H,W) as RGB pictures (B,3,H,W) in [-1,1]."""
        return condition[:, -1:].expand(-1, 3, -1, -1)

    def decode_stored(self, pixels: Pixels, kind: str, where: str) -> Pixels:
        """A stored condition image (H,W,3) uint8 RGB -> (H,W,N) uint8; `kind` may be ""."""
        raise DataError(f"The input {self.name} is not read from columns of a data set.")


@dataclass(frozen=True, eq=False)
class Opened:
    """A user's picture as a model takes it."""

    picture: Pixels | Drawing  # RGB or grey (H,W,C), or a drawing's ink
    to_condition: Callable[[int, int], Plane]  # (size, cell) -> (h,w,N) in [-1,1]
    photo: Pixels | None = None  # (H,W,3) that a result is joined to
    done: tuple[str, ...] = ()  # what was cleaned, in words
    frame: Frame | None = None  # the border around what the condition shows

    @property
    def source(self) -> Pixels | None:
        """What a result is joined to or finished along: RGB (H,W,3), ink (H,W) or None.

        Ink is limited to `drawing_cleanup.LARGEST` pixels a side.
        """
        return limit_ink(self.picture.ink) if isinstance(self.picture, Drawing) else self.photo

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        picture = self.picture.ink if isinstance(self.picture, Drawing) else self.picture
        return picture.shape[1], picture.shape[0]

    def show(self, width: int, height: int) -> Image.Image:
        """The picture at that size, for a contact sheet."""
        if isinstance(self.picture, Drawing):
            return Image.fromarray(255 - shrink_ink(self.picture.ink, width, height))
        small = to_8_bits(resize(self.picture, height, width))
        return Image.fromarray(small.squeeze())


class Lightness(PictureInput):
    """L* of a photo; in training often degraded like old prints and scans."""

    name, channels, what, is_photo = "lightness", 1, "a photo", True

    def from_photo(
        self, view: View, size: int, rng: np.random.Generator, *, degrade_prob: float = 0.0
    ) -> Plane:
        L = rgb_to_lab(resize_square(view.pixels, size))[..., 0]
        if rng.random() < degrade_prob:
            L = degrade(L, rng)
        return L[..., None] / 50 - 1

    def show(self, condition: "Tensor") -> "Tensor":
        """The grey picture, in sRGB, of that L*."""
        import torch

        lightness = 50 * (condition[:, :1] + 1)
        nothing = torch.zeros_like(lightness)
        return 2 * lab_to_rgb_batch(torch.cat([lightness, nothing, nothing], dim=1)) - 1

    def open(self, picture: UserPicture, *, as_is: bool = False) -> Opened:
        if isinstance(picture, Drawing):
            raise ConfigError("This model takes a photo, not a drawing.")
        pixels = as_photo(picture).pixels

        frame = None if as_is else find_frame(pixels)

        def to_condition(size: int, cell: int) -> Plane:
            inside = pixels if frame is None else pixels[frame.box]
            L = lightness(shrink_to(inside, size=size, cell=cell, longest=MAX_STRIP))
            if frame is not None:
                L = fill_border(L, frame)
            if not as_is:
                L = normalise_levels(L)
            return L[..., None] / 50 - 1

        return Opened(pixels, to_condition, photo=pixels, frame=frame)


@dataclass(frozen=True)
class Lines(PictureInput):
    """Lines: ink 1 on paper -1, drawn from the photo by one of the kinds `draws` at random."""

    draws: tuple[str, ...] = LINE_KINDS
    augments: bool = True  # varied like hand drawings and scans
    name: ClassVar[str] = "lines"
    what: ClassVar[str] = "a drawing"
    channels: ClassVar[int] = 1  # type: ignore[misc]
    is_ink: ClassVar[bool] = True

    def from_photo(
        self, view: View, size: int, rng: np.random.Generator, *, degrade_prob: float = 0.0
    ) -> Plane:
        return self.draw(view, resize_square, size, rng) / np.float32(127.5) - 1

    def draw(
        self,
        view: View,
        place: Callable[[Pixels, int], Pixels],
        size: int,
        rng: np.random.Generator,
    ) -> Pixels:
        """Ink (s,s,1) uint8 of a view; `place` brings its pictures to their size."""
        if view.stored:
            drawing = place(view.read(view.stored[int(rng.integers(len(view.stored)))]), size)
        else:
            drawing = draw_line_condition(place(view.pixels, size), rng, kinds=self.draws)
        return augment_lines(drawing, rng) if self.augments else drawing

    def show(self, condition: "Tensor") -> "Tensor":
        return -condition[:, -1:].expand(-1, 3, -1, -1)  # ink on paper

    def open(self, picture: UserPicture, *, as_is: bool = False) -> Opened:
        if isinstance(picture, Drawing):
            drawing = picture
        else:
            photo = as_photo(picture)
            drawing = clean_drawing(photo.pixels, photo.alpha, as_is=as_is)
        if drawing.doubt:
            raise ImageError(drawing.doubt)
        ink = drawing.ink

        def to_condition(size: int, cell: int) -> Plane:
            width, height = fit_size((ink.shape[1], ink.shape[0]), size=size, cell=cell)
            return shrink_ink(ink, width, height)[..., None] / np.float32(127.5) - 1

        return Opened(drawing, to_condition, done=drawing.done)

    def decode_stored(self, pixels: Pixels, kind: str, where: str) -> Pixels:
        if kind in HELD_OUT:
            raise DataError(
                f"{where} has a drawing of the kind {kind}, which is held out for testing: prepare "
                "other kinds, or set data.conditions to online."
            )
        if kind and CONDITIONS[kind].ink is None:
            raise DataError(
                f"{where} has {kind} as its condition, which is not a drawing: prepare the data "
                "for a line task, or set data.conditions to online."
            )
        return to_ink(pixels, ink=CONDITIONS[kind].ink if kind else None)


@dataclass(frozen=True)
class Aligned(PictureInput):
    """Any picture that is aligned with the photo pixel for pixel, such as a depth map.

    Training reads it from the data's columns, or draws it by one of the kinds `draws`. Grey has one
    channel, colour three.
    """

    channels: int = 3
    draws: tuple[str, ...] = ()
    what: str = "a picture"  # type: ignore[misc]
    name: ClassVar[str] = "image"

    def from_photo(
        self, view: View, size: int, rng: np.random.Generator, *, degrade_prob: float = 0.0
    ) -> Plane:
        if view.stored:
            drawn = view.read(view.stored[int(rng.integers(len(view.stored)))])
            return resize_square(drawn, size) / np.float32(127.5) - 1
        if not self.draws:
            raise DataError(
                "This task learns from pairs: give a data set with the columns image and "
                "conditioning_image, and set data.conditions to prepared."
            )
        kind = self.draws[int(rng.integers(len(self.draws)))]
        drawn = self._with_channels(apply(kind, resize_square(view.pixels, size), seed=rng))
        return drawn / np.float32(127.5) - 1

    def open(self, picture: UserPicture, *, as_is: bool = False) -> Opened:
        if isinstance(picture, Drawing):
            pixels = 255 - picture.ink[..., None].repeat(3, axis=2)
        else:
            pixels = to_8_bits(as_photo(picture).pixels)
        pixels = self._with_channels(pixels)

        def to_condition(size: int, cell: int) -> Plane:
            small = shrink_to(pixels, size=size, cell=cell)
            return small.reshape(*small.shape[:2], -1) / np.float32(127.5) - 1

        return Opened(pixels, to_condition)

    def show(self, condition: "Tensor") -> "Tensor":
        return condition.expand(-1, 3, -1, -1)

    def decode_stored(self, pixels: Pixels, kind: str, where: str) -> Pixels:
        return self._with_channels(pixels)

    def _with_channels(self, pixels: Pixels) -> Pixels:
        """(H,W,1 or 3) uint8 -> (H,W,channels)."""
        if pixels.shape[2] == self.channels:
            return pixels
        if self.channels == 1:
            return to_gray(pixels)[..., None]
        return pixels.repeat(3, axis=2)


class Hints(Input):
    """x_0 that the user gives for some places, and the mask of these: (a, b, mask) for chroma."""

    name, enters = "hints", "cells"

    def __init__(self, space_channels: int):
        self.channels = space_channels + 1


class Text(Input):
    """Words: the caption of a photo in training, the user's prompt later; "" is no words.

    A base's U-Net attends to them; condiff's own U-Net adds their embedding to that of t.
    """

    name, channels, enters = "text", 0, "text"


class SmallPicture(Input):
    """The small picture that is enlarged, resized to the size of x_0: RGB in [-1,1]."""

    name, channels, enters = "small_picture", 3, "picture"


def fit_stored(drawing: Pixels, pixels: Pixels, *, where: str) -> Pixels:
    """A stored condition image (h,w,C) resized to its photo.

    Raises DataError if its aspect differs; `where` names the photo.
    """
    (h, w), (height, width) = drawing.shape[:2], pixels.shape[:2]
    if not have_one_aspect((h, w), (height, width)):
        raise DataError(
            f"{where}, a photo of {width}x{height}, has a condition image of {w}x{h}: they must "
            "show the same view. Correct the pair, or make the data set again with condiff prep."
        )
    return resize(drawing, height, width).reshape(height, width, -1)
