"""Plain names of colours: what a caption calls a picture's main colours."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from condiff.color.lab import rgb_to_lab

NAMES = (
    "black", "white", "grey", "beige", "brown", "red", "orange", "yellow", "green", "cyan", "blue",
    "purple", "pink",
)  # fmt: skip
MIN_SHARE = 0.1  # of a picture's pixels, paper left out, that a colour needs to be named
PAPER = 96.0  # L* from which white that touches the border is paper


def name_colors(lab: NDArray[Any]) -> NDArray[np.uint8]:
    """CIE Lab (…,3) -> places in NAMES (…).

    The bounds of hue are those between the CSS colours of these names, in degrees of Lab's hue
    angle; dark orange is brown, light red pink, and pale orange beige, as people call them (Berlin
    and Kay 1969, "Basic Color Terms").
    """
    L, a, b = (lab[..., i].astype(np.float32) for i in range(3))
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    bounds = [12.0, 45.0, 84.0, 111.0, 172.0, 235.0, 307.0, 335.0]
    wheel = ["pink", "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]
    found = np.array([NAMES.index(each) for each in wheel], np.uint8)[np.digitize(hue, bounds)]

    def call(name: str, where: NDArray[np.bool_]) -> None:
        found[where] = NAMES.index(name)

    warm = (hue >= 40) & (hue < 112)
    call("red", ((hue < 12) | (hue >= 350)) & (L < 50))
    call("pink", (hue >= 12) & (hue < 45) & (L > 66) & (chroma < 60))
    call("pink", (hue >= 307) & (hue < 335) & (L > 78) & (chroma > 25))
    call("brown", (hue >= 30) & (hue < 84) & (L < 58) & (chroma < 58))
    call("brown", (hue >= 84) & (hue < 100) & (L < 45))
    call("green", (hue >= 100) & (hue < 111) & (L < 60))
    call("beige", warm & (L > 70) & (chroma < 38))
    call("grey", chroma < np.where(warm & (L > 80), 9, 12))
    call("black", (L < 22) & (chroma < 24))
    call("white", (L > 88) & (chroma < 10))
    return found


def main_colors(rgb: NDArray[Any], *, most: int = 3) -> list[str]:
    """The names of the colours that cover most of a picture (H,W,3) uint8, the largest first.

    White that touches the picture's border is paper, and is left out; so are colours of a share
    below MIN_SHARE of the rest.
    """
    lab = rgb_to_lab(rgb)
    names = name_colors(lab)
    counts = np.bincount(names[~find_paper(lab)], minlength=len(NAMES))
    order = np.argsort(-counts, kind="stable")[:most]
    return [NAMES[i] for i in order if counts[i] >= max(1, MIN_SHARE * counts.sum())]


def find_paper(lab: NDArray[Any]) -> NDArray[np.bool_]:
    """Where (H,W) a picture in CIE Lab (H,W,3) is white, and joined to its border by white."""
    white = (lab[..., 0] > PAPER) & (np.hypot(lab[..., 1], lab[..., 2]) < 4)
    _, parts = cv2.connectedComponents(white.astype(np.uint8), connectivity=4)
    outer = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    return white & np.isin(parts, outer)
