"""The overall palette of a photo or a list of colours, given to the automatic colours of another.

The map is the linear one of optimal transport between two normal distributions, Monge-Kantorovich
(Pitié and Kokaram 2007, doi:10.1049/cp:20070055): of all linear maps that give colours the mean and
covariance of the palette, it moves them the least. It works on chroma together with L*, so that
highlights and shadows get the tints of the palette's; only the chroma of its result is used.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from condiff.arrays import Plane
from condiff.color.lab import rgb_to_lab
from condiff.color.references import MIN_CHROMA, Reference
from condiff.errors import ConfigError, UsageError
from condiff.photos.reading import PhotoLike
from condiff.resize import resize

SAMPLE_SIDE = 64  # a palette is that of a photo shrunk to a square of this side
NOISE = 3.0  # Lab units, added to both spreads: what varies less is not stretched
MAX_GAIN = 2.5  # of any direction of colour


@dataclass(frozen=True, eq=False)
class Palette:
    """Mean (3,) and covariance (3,3) of Lab colours, and their note for a result.

    `note` is the colours, or 16 hex digits of the photo's content.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    note: str

    @classmethod
    def open(cls, given: "Palette | Sequence[str] | PhotoLike") -> "Palette":
        """The palette of a list of colours, #rrggbb or CSS names, or of a colour photo.

        Raises ConfigError for an invalid colour, ImageError for a photo without colours.
        """
        if isinstance(given, Palette):
            return given
        if isinstance(given, (list, tuple)):
            return cls.of_colors(given)
        reference = Reference.open(given)  # type: ignore[arg-type]
        lab = rgb_to_lab(resize(reference.pixels, SAMPLE_SIDE, SAMPLE_SIDE))
        return cls(*_measure(lab.reshape(-1, 3)), reference.digest)

    @classmethod
    def of_colors(cls, colors: Sequence[str]) -> "Palette":
        """The palette of colours that are equally frequent."""
        try:
            rgb = [ImageColor.getrgb(color.strip())[:3] for color in colors]
        except (ValueError, TypeError, AttributeError):  # the last two if it is not text
            raise ConfigError(
                f"The palette {','.join(map(str, colors))} has a part that is not a colour: give "
                "#rrggbb,#rrggbb,… or a photo."
            ) from None
        lab = (
            rgb_to_lab(np.array([rgb], np.uint8).reshape(1, -1, 3))[0] if rgb else np.empty((0, 3))
        )
        if not rgb or np.linalg.norm(lab[:, 1:], axis=1).max() < MIN_CHROMA:
            raise ConfigError(
                "The palette has no colour in it: give at least one that is not grey."
            )
        return cls(*_measure(lab), ",".join(color.strip() for color in colors))

    def apply(self, chroma: Plane, L: Plane) -> Plane:
        """Chroma (h,w,2) of a photo with L* (h,w), moved to the palette."""
        lab = np.dstack([L, chroma]).reshape(-1, 3).astype(np.float64)
        mean, covariance = _measure(lab)
        target = self.covariance.copy()
        # The photo's own range of L* stands for the palette's: its exposure does not count.
        scale = np.sqrt((covariance[0, 0] + NOISE**2) / (target[0, 0] + NOISE**2))
        target[0] *= scale
        target[:, 0] *= scale
        moved = (lab - mean) @ transport(covariance, target)[:, 1:] + self.mean[1:]
        return moved.reshape(chroma.shape).astype(np.float32)


def parse_palette(text: str) -> list[str] | str:
    """A command's text as `Palette.open` takes it: an existing path, or colours."""
    if os.path.exists(text):
        return text
    colors = text.split(",")
    try:
        for color in colors:
            ImageColor.getrgb(color.strip())
    except ValueError:
        raise UsageError(
            f"The palette {text!r} is neither an existing photo nor colours such as "
            "#aa5533,#225577: check it."
        ) from None
    return colors


def transport(source: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
    """The symmetric (n,n) matrix that takes the covariance `source` to `target`, both with NOISE.

    No direction is stretched by more than MAX_GAIN.
    """
    noise = NOISE**2 * np.eye(len(source))
    root = _power(source + noise, 0.5)
    inverse = _power(source + noise, -0.5)
    matrix = inverse @ _power(root @ (target + noise) @ root, 0.5) @ inverse
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clip(0, MAX_GAIN)) @ vectors.T


def _measure(lab: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (3,) and covariance (3,3) of colours (n,3)."""
    lab = lab.astype(np.float64)
    mean = lab.mean(axis=0)
    return mean, (lab - mean).T @ (lab - mean) / len(lab)


def _power(matrix: NDArray[Any], exponent: float) -> NDArray[np.float64]:
    """A power of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values.clip(1e-12) ** exponent) @ vectors.T
