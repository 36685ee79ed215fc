"""What x_0 is: how training makes it from a photo, and how a sample becomes a picture."""

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from condiff.arrays import Pixels, Plane
from condiff.color.edits import UNEDITED, PreparedEdits
from condiff.color.hints import chroma_of, fit_chroma
from condiff.color.lab import (
    build_tables,
    join_chroma,
    lab_to_rgb,
    rgb_to_lab,
    rgb_to_lab_batch,
    to_grey,
)
from condiff.conditions.drawing_finish import finish_along_lines
from condiff.resize import resize_square

if TYPE_CHECKING:
    from torch import Tensor


class Space(ABC):
    """A kind of x_0, with `channels` channels; sampling clips it to ±clip."""

    name: ClassVar[str]
    channels: ClassVar[int]
    clip: ClassVar[float] = 1.0
    scale: float = 1.0  # units of the picture that 1 stands for
    # Whether a sample is joined to the user's photo: the result has its size, and takes edits.
    keeps_photo: bool = False
    # Whether x_0 is made of a picture by a VAE: `encode` and `to_cells` are of the picture.
    is_latent: ClassVar[bool] = False

    @abstractmethod
    def encode(self, crop: Pixels, size: int) -> Plane:
        """A photo's square (n,n,3) uint8 RGB -> x_0 (size,size,C) float32."""

    @abstractmethod
    def encode_batch(self, rgb: "Tensor") -> "Tensor":
        """The same for photos (B,3,s,s) in [0,1] that have the size of x_0: (B,C,s,s)."""

    @abstractmethod
    def decode(
        self, x_0: Plane, source: Pixels | None = None, edits: PreparedEdits = UNEDITED
    ) -> Pixels:
        """x_0 (h,w,C) -> RGB (H,W,3) of the size of `source`, and of x_0 without one.

        `source` is the photo (H,W,3), of 8 or 16 bits, where the space keeps it; otherwise the ink
        (H,W) of the drawing.
        """

    def build_tables(self) -> None:
        """Compute what `decode` needs for every picture, so that the first one is not slower."""
        return None

    def to_cells(self, planes: Plane) -> Plane:
        """A backend's decoded x_0 (h,w,C) in the form that `decode` takes; here unchanged."""
        return planes

    def noise_patch(self, patch_size: int) -> int:
        """Side of the squares in which x_T is constant: the patch size where a photo is kept."""
        return patch_size if self.keeps_photo else 1

    def saturate(self, x_0: Any, factor: float) -> Any:
        """x_0 (B,C,h,w), of NumPy or torch, with its colours moved away from grey by a factor."""
        return x_0 * factor

    @abstractmethod
    def from_picture(self, picture: Plane) -> Plane:
        """A picture (h,w,3) in [-1,1] as `decode` takes it: (h,w,C)."""

    @abstractmethod
    def hint_values(self, rgb: Pixels) -> Plane:
        """Colours of hints, (h,w,3) uint8 RGB -> (h,w,C) in the units of x_0 times `scale`."""

    def fit_hints(self, values: Plane, condition: Plane) -> Plane:
        """Values of hints (h,w,C) as the picture of a condition (h,w,N) can show them."""
        return values

    @abstractmethod
    def decode_batch(self, x_0: "Tensor", condition: "Tensor") -> list[Pixels]:
        """x_0 (B,C,h,w) -> RGB (H,W,3) uint8 each, for the condition images (B,N,H,W)."""


class RGB(Space):
    """x_0 is a picture in [-1,1]."""

    name, channels = "rgb", 3

    def encode(self, crop: Pixels, size: int) -> Plane:
        return resize_square(crop, size) / np.float32(127.5) - 1

    def encode_batch(self, rgb: "Tensor") -> "Tensor":
        return 2 * rgb - 1

    def decode(
        self, x_0: Plane, source: Pixels | None = None, edits: PreparedEdits = UNEDITED
    ) -> Pixels:
        picture = (x_0.clip(-1, 1) + 1) / 2
        if source is not None:
            strokes = edits.strokes
            hints = None if strokes is None else ((strokes.values + 1) / 2, strokes.mask)
            picture = finish_along_lines(
                picture, source, keep_lines=edits.keep_lines, flat=edits.flat, hints=hints
            )
        return np.asarray(picture * 255 + 0.5, np.uint8)

    def saturate(self, x_0: Any, factor: float) -> Any:
        grey = x_0.mean(1)[:, None]
        return grey + factor * (x_0 - grey)

    def from_picture(self, picture: Plane) -> Plane:
        return picture

    def hint_values(self, rgb: Pixels) -> Plane:
        return rgb / np.float32(127.5) - 1

    def decode_batch(self, x_0: "Tensor", condition: "Tensor") -> list[Pixels]:
        pixels = (x_0.clamp(-1, 1) + 1) * 127.5
        return [image.permute(1, 2, 0).round().byte().cpu().numpy() for image in pixels]


class Chroma(Space):
    """x_0 is Lab (a,b) / 50 at a fraction of the photo's size; L* stays the photo's.

    sRGB reaches ±110 of a and b, so ±2.2; most photos stay within ±1.
    """

    name, channels, clip, keeps_photo = "chroma", 2, 2.2, True
    scale = 50.0

    def build_tables(self) -> None:
        build_tables()

    def encode(self, crop: Pixels, size: int) -> Plane:
        return rgb_to_lab(resize_square(crop, size))[..., 1:] / self.scale

    def encode_batch(self, rgb: "Tensor") -> "Tensor":
        return rgb_to_lab_batch(rgb)[:, 1:] / self.scale

    def decode(
        self, x_0: Plane, source: Pixels | None = None, edits: PreparedEdits = UNEDITED
    ) -> Pixels:
        assert source is not None, "chroma is joined to a photo"
        inside = source if edits.box is None else source[edits.box]
        chroma = edits.recolor(x_0 * self.scale, inside)
        chroma = edits.keep_hints(chroma, inside)
        joined = join_chroma(inside, chroma, adjust=edits.adjust, weight=edits.weight)
        if edits.box is None:
            return joined
        result = to_grey(source)
        result[edits.box] = joined
        return result

    def from_picture(self, picture: Plane) -> Plane:
        deep = np.asarray((picture.clip(-1, 1) + 1) * 32767.5 + 0.5, np.uint16)
        return rgb_to_lab(deep)[..., 1:] / self.scale

    def hint_values(self, rgb: Pixels) -> Plane:
        return chroma_of(rgb)

    def fit_hints(self, values: Plane, condition: Plane) -> Plane:
        return fit_chroma(values, (condition[..., 0] + 1) * 50)

    def decode_batch(self, x_0: "Tensor", condition: "Tensor") -> list[Pixels]:
        import torch
        import torch.nn.functional as F

        side = condition.shape[-2:]
        chroma = F.interpolate(x_0 * self.scale, side, mode="bilinear", align_corners=False)
        labs = torch.cat([(condition + 1) * 50, chroma], dim=1).permute(0, 2, 3, 1).cpu().numpy()
        return [lab_to_rgb(np.ascontiguousarray(lab)) for lab in labs]


class Latents(RGB):
    """x_0 is a picture's latents by the VAE of a Stable Diffusion base, `channels` at an eighth.

    The VAE belongs to the model. This class handles the pictures outside of it: the RGB picture
    that is encoded, and the decoded one, which `pictures` finishes. For a colorizer, `pictures`
    takes only its chroma and joins it to the photo's L*, so that the lightness that the VAE loses
    does not matter.
    """

    name, channels, clip, is_latent = "latents", 4, math.inf, True

    def __init__(self, pictures: Space):
        self.pictures, self.keeps_photo = pictures, pictures.keeps_photo
        self.scale = pictures.scale

    def decode(
        self, x_0: Plane, source: Pixels | None = None, edits: PreparedEdits = UNEDITED
    ) -> Pixels:
        """The cells of a decoded picture -> RGB (H,W,3)."""
        return self.pictures.decode(x_0, source, edits)

    def to_cells(self, planes: Plane) -> Plane:
        """The VAE's decoded picture (h,w,3) in the form of `pictures`."""
        return self.from_picture(planes)

    def from_picture(self, picture: Plane) -> Plane:
        return self.pictures.from_picture(picture)

    def hint_values(self, rgb: Pixels) -> Plane:
        return self.pictures.hint_values(rgb)


SPACES: dict[str, Space] = {space.name: space for space in (RGB(), Chroma())}
