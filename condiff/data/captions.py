"""Varies captions in training: parts are left out, colours named, and the photo's hues turned."""

import cv2
import numpy as np

from condiff.arrays import Pixels
from condiff.color.lab import lab_to_rgb, rgb_to_lab
from condiff.color.names import main_colors
from condiff.config import DataConfig
from condiff.resize import resize_square
from condiff.tasks import CAPTION_SETTINGS

NAMED_SIZE = 48  # side at which a picture's colours are named


def vary_caption(
    text: str, pixels: Pixels, rng: np.random.Generator, config: DataConfig
) -> tuple[str, Pixels]:
    """The caption of a view and its pixels (n,n,3) uint8 RGB, both varied by the settings.

    The parts of a caption are those between its commas. Hues are turned, all by one angle, only
    where the caption names the colours, so that a colour word outweighs the object's usual colour.
    Without any of these settings a caption is unchanged.
    """
    if not any(getattr(config, key) for key in CAPTION_SETTINGS):
        return text, pixels
    if rng.random() < config.caption_dropout:
        return "", pixels
    parts = [part.strip() for part in text.split(",")]
    parts = [part for part in parts if part and rng.random() >= config.tag_dropout]
    if rng.random() < config.color_words:
        if rng.random() < config.recolor:
            pixels = turn_hues(pixels, rng.uniform(0, 360))
        small = resize_square(pixels, min(NAMED_SIZE, len(pixels)))
        names = main_colors(small)
        parts = [*names[: int(rng.integers(1, 4))], *parts]
    return ", ".join(parts), pixels


def turn_hues(pixels: Pixels, angle: float) -> Pixels:
    """A picture (h,w,3) uint8 whose hues in CIE Lab are turned by `angle` degrees.

    L* is kept, and chroma as far as sRGB allows.
    """
    lab = rgb_to_lab(pixels)
    turn = np.radians(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], np.float32)
    lab[..., 1:] = cv2.transform(np.ascontiguousarray(lab[..., 1:]), matrix)
    return lab_to_rgb(lab)
