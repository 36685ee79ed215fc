"""A photo in memory: its pixels at their own depth, its transparency and metadata."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from condiff.photos.metadata import Metadata
from condiff.photos.reading import to_8_bits, to_array

Pixels = NDArray[Any]  # uint8 or uint16


@dataclass(frozen=True)
class Photo:
    """(H,W,3) sRGB of 8 or 16 bits, upright; (H,W) alpha of the same depth, or None.

    `info` holds what a caller may want to know of a result, such as its seed; it is not written.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    metadata: Metadata = field(default_factory=Metadata)
    info: Mapping[str, Any] = field(default_factory=dict)

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


Picture = TypeVar("Picture", Image.Image, Photo)


def pixels_of(picture: Image.Image | Photo) -> Pixels:
    """(H,W,3) of an image in 8 bits, or of a photo at its own depth."""
    if isinstance(picture, Photo):
        return picture.pixels
    return to_array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def with_pixels(picture: Picture, pixels: Pixels, *, seed: int) -> Picture:
    """The picture with other pixels of the same size; its type, alpha and metadata stay."""
    if isinstance(picture, Photo):
        return replace(picture, pixels=pixels, info={**picture.info, "seed": seed})
    result = Image.fromarray(pixels)
    if picture.mode == "RGBA":
        result.putalpha(picture.getchannel("A"))
    result.info = {**picture.info, "seed": seed}
    return result
