"""Colour hints: colours that the user gives for some places of a photo or a drawing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from condiff.arrays import Plane
from condiff.color.lab import reduce_chroma, rgb_to_lab
from condiff.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


DAB_RADIUS = 1 / 64  # as a share of the short side; a dab is about as wide as a cell of x_t
MAX_ASPECT_ERROR = 0.02  # how far the aspect of strokes or a mask may be off the photo's
MAX_COLOR_ERROR = 8.0  # in ab; hints that sRGB misses by more are reported


@dataclass(frozen=True)
class Hint:
    """A dab of colour at a point: x to the right and y down, two ints or two floats.

    Ints are pixels of the upright photo, from 0; floats are shares of its width and height, 0 to 1.
    `color` is #rrggbb or a CSS name. In a photo only its hue and chroma count, lightness stays the
    photo's; in a drawing all of it counts. Raises ConfigError for an invalid point or colour.
    """

    x: int | float
    y: int | float
    color: str

    def __post_init__(self) -> None:
        for axis in ("x", "y"):
            value = getattr(self, axis)  # NumPy's numbers are accepted
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ConfigError(f"{axis} of a hint is an int or a float, not {value!r}.")
            number = int(value) if isinstance(value, Integral) else float(value)
            if not math.isfinite(number):
                raise ConfigError(f"{axis} of a hint is a place in the picture, not {number}.")
            object.__setattr__(self, axis, number)
        if isinstance(self.x, float) != isinstance(self.y, float):
            raise ConfigError(
                f"The hint at {self.x},{self.y} mixes a share and pixels: give 0.5,0.25 or 300,200."
            )
        _rgb_of(self.color)

    def locate(self, width: int, height: int) -> tuple[float, float]:
        """The point in pixels of a photo of that size; ConfigError if it is outside."""
        relative = isinstance(self.x, float)
        limits = (1.0, 1.0) if relative else (width - 1, height - 1)
        if not (0 <= self.x <= limits[0] and 0 <= self.y <= limits[1]):
            raise ConfigError(
                f"The hint at {self.x},{self.y} is outside the photo, which ends at"
                f" {limits[0]},{limits[1]}; numbers with a decimal point are shares from 0 to 1."
            )
        if relative:
            return self.x * width, self.y * height
        return self.x + 0.5, self.y + 0.5


Hints = Sequence[Hint] | Image.Image


@dataclass(frozen=True, eq=False)
class Strokes:
    """Hints as arrays: values (h,w,C), valid where the mask (h,w) is one; both float32.

    The values are chroma, (a,b), for a photo, and RGB in [-1,1] for a drawing.
    """

    values: Plane
    mask: Plane


def parse_hint(text: str) -> Hint:
    """The hint in `x,y,colour`: numbers with a decimal point are shares, whole numbers pixels."""
    try:
        x, y, color = text.split(",", 2)
        point_x, point_y = (float(n) if "." in n else int(n) for n in (x, y))
        ImageColor.getrgb(color.strip())
    except ValueError:
        raise ConfigError(
            f"The hint {text!r} is not x,y,#rrggbb: give 0.5,0.25,#3c5ac8 (shares of width and"
            " height) or 300,200,#3c5ac8 (pixels)."
        ) from None
    return Hint(point_x, point_y, color.strip())


def chroma_of(rgb: NDArray[np.uint8]) -> Plane:
    """The values of hints for a photo: (h,w,3) uint8 -> (a,b) (h,w,2)."""
    return rgb_to_lab(rgb)[..., 1:]


def draw_strokes(
    hints: Hints,
    *,
    photo: tuple[int, int],
    size: tuple[int, int],
    values_of: Callable[[NDArray[np.uint8]], Plane] = chroma_of,
) -> Strokes | None:
    """Hints for a photo of (width, height) as strokes of `size` (h,w); None if there is none.

    `values_of` converts colours, RGB (h,w,3) uint8, to the values of the strokes.
    """
    if isinstance(hints, Image.Image):
        strokes = _draw_picture(hints, photo=photo, size=size, values_of=values_of)
    else:
        strokes = _draw_dabs(hints, photo=photo, size=size, values_of=values_of)
    return strokes if strokes.mask.any() else None


def crop_hints(hints: Hints, *, photo: tuple[int, int], box: tuple[slice, slice]) -> Hints:
    """Hints for a photo of (width, height) as hints for the rows and columns `box` of it.

    Dabs outside are left out.
    """
    rows, columns = box
    if isinstance(hints, Image.Image):
        _check_strokes(hints, photo)
        across, down = hints.width / photo[0], hints.height / photo[1]
        place = (columns.start * across, rows.start * down, columns.stop * across, rows.stop * down)
        wide, tall = max(1, round(place[2] - place[0])), max(1, round(place[3] - place[1]))
        # Strokes do not blend with what is transparent.
        return hints.convert("RGBA").resize((wide, tall), Image.Resampling.NEAREST, box=place)
    kept = []
    for hint in hints:
        x, y = hint.locate(*photo)
        x = (x - columns.start) / (columns.stop - columns.start)
        y = (y - rows.start) / (rows.stop - rows.start)
        if 0 <= x <= 1 and 0 <= y <= 1:
            kept.append(Hint(float(x), float(y), hint.color))
    return kept


def _draw_dabs(
    hints: Sequence[Hint],
    *,
    photo: tuple[int, int],
    size: tuple[int, int],
    values_of: Callable[[NDArray[np.uint8]], Plane],
) -> Strokes:
    height, width = size
    channels = values_of(np.zeros((1, 1, 3), np.uint8)).shape[2]
    values, mask = np.zeros((*size, channels), np.float32), np.zeros(size, np.float32)
    for hint in hints:
        x, y = hint.locate(*photo)
        inside = cover_dab(x * width / photo[0], y * height / photo[1], size, least=1)
        values[inside] = values_of(np.array([[_rgb_of(hint.color)]], np.uint8))[0, 0]
        mask[inside] = 1
    return Strokes(values, mask)


def cover_dab(x: float, y: float, size: tuple[int, int], *, least: float) -> NDArray[np.bool_]:
    """Where the disc of a hint is in a picture of `size` (h,w): (h,w).

    Its centre is at x and y, and its radius is at least `least`, in pixels of that picture.
    """
    height, width = size
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    return np.hypot(columns - x, rows - y) <= max(least, DAB_RADIUS * min(size))


def _rgb_of(color: str) -> tuple[int, ...]:
    """The RGB of a colour by its name; ConfigError if there is none."""
    try:
        return ImageColor.getrgb(color)[:3]
    except (ValueError, TypeError, AttributeError):  # the last two if it is not text
        raise ConfigError(
            f"{color!r} is not a colour: give #rrggbb, or a name such as teal."
        ) from None


def _draw_picture(
    picture: Image.Image,
    *,
    photo: tuple[int, int],
    size: tuple[int, int],
    values_of: Callable[[NDArray[np.uint8]], Plane],
) -> Strokes:
    """Strokes are where a transparent picture is at least half opaque."""
    _check_strokes(picture, photo)
    pixels = np.array(picture.convert("RGBA"))
    given = (pixels[..., 3] >= 128).astype(np.float32)
    values = values_of(np.ascontiguousarray(pixels[..., :3]))
    values, cover = _resize_masked(values, given, size)
    return Strokes(values, (cover > 1e-3).astype(np.float32))


def _check_strokes(picture: Image.Image, photo: tuple[int, int]) -> None:
    """Raise ConfigError for a picture that is opaque, or has another aspect than the photo."""
    if not picture.has_transparency_data:
        raise ConfigError(
            "The hints have no transparency: give a PNG that is transparent but for the strokes."
        )
    check_aspect(picture, photo, "The hints are")


def check_aspect(picture: Image.Image, photo: tuple[int, int], what: str) -> None:
    """Raise ConfigError for a picture that has another aspect than a photo of (width, height)."""
    stretch = picture.width * photo[1] / (picture.height * photo[0])
    if abs(stretch - 1) > MAX_ASPECT_ERROR:
        raise ConfigError(
            f"{what} {picture.width}x{picture.height} and the photo {photo[0]}x{photo[1]}: give a "
            "picture of the photo's aspect."
        )


def _resize_masked(values: Plane, mask: Plane, size: tuple[int, int]) -> tuple[Plane, Plane]:
    """For each cell of `size` (h,w), the mean values under the mask, and the share it covers.

    So a line that is thinner than a cell keeps its colour.
    """
    target = size[::-1]
    cover = cv2.resize(mask, target, interpolation=cv2.INTER_AREA)
    total = cv2.resize(values * mask[..., None], target, interpolation=cv2.INTER_AREA)
    return total / np.maximum(cover, 1e-6)[..., None], cover


def fit_chroma(chroma: Plane, L: Plane) -> Plane:
    """(a,b) (h,w,2) reduced to what sRGB can show at L* (h,w), as in training."""
    return reduce_chroma(np.dstack([L, chroma]).astype(np.float32))[..., 1:]


def to_cells(strokes: Strokes, *, cell: int, scale: float) -> Plane:
    """Strokes (h,w) as the model takes them: (h/cell,w/cell,C+1) of values/scale and the mask."""
    size = (strokes.mask.shape[0] // cell, strokes.mask.shape[1] // cell)
    values, cover = _resize_masked(strokes.values, strokes.mask, size)
    mask = (cover > 0).astype(np.float32)[..., None]
    return np.concatenate([values / scale * mask, mask], axis=2).astype(np.float32)


def find_shortfall(strokes: Strokes, L: Plane) -> float:
    """The share of the strokes (h,w) whose colour sRGB cannot show at the photo's L* (h,w)."""
    shown = fit_chroma(strokes.values, L)
    lost = np.linalg.norm(strokes.values - shown, axis=2)[strokes.mask > 0]
    return float((lost > MAX_COLOR_ERROR).mean())


def hints_from_mask(x_0: "Tensor", mask: "Tensor") -> "Tensor":
    """Hints (B,C+1,h,w): x_0 (B,C,h,w) where the mask (B,1,h,w) is one, and the mask itself."""
    import torch

    mask = mask.to(x_0.dtype)
    return torch.cat([x_0 * mask, mask], dim=1)


def sample_hint_mask(
    shape: tuple[int, int, int],
    *,
    hint_prob: float,
    max_hints: int,
    generator: "torch.Generator | None" = None,
    device: "torch.device | str" = "cpu",
) -> "Tensor":
    """Where hints are: a mask (B,1,h,w) of zeros and ones for the shape (B,h,w).

    With probability `hint_prob` a photo shows 1 to `max_hints` square patches of 1 to 9 cells'
    side, mostly few and small ones; otherwise the mask is zero: no hint.
    """
    import torch

    batch, height, width = shape

    def draw(*shape: int) -> "Tensor":
        return torch.rand(shape, generator=generator, device=device)

    hinted = draw(batch, 1) < hint_prob
    # Squared uniforms: two hints are more common than thirty, small patches than large ones.
    count = (1 + draw(batch, 1).square() * max_hints).clamp(max=max_hints)
    shown = (torch.arange(max_hints, device=device) < count) & hinted  # (B,N)
    half = draw(batch, max_hints).square() * 4.5
    rows, columns = draw(batch, max_hints) * height, draw(batch, max_hints) * width
    y = torch.arange(height, device=device).view(1, 1, -1, 1) + 0.5
    x = torch.arange(width, device=device).view(1, 1, 1, -1) + 0.5
    half = half[..., None, None].clamp(min=0.5)
    inside = ((y - rows[..., None, None]).abs() <= half) & (
        (x - columns[..., None, None]).abs() <= half
    )
    return (inside & shown[..., None, None]).any(dim=1, keepdim=True).float()
