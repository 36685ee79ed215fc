"""Photos degraded like old prints and scans."""

import cv2
import numpy as np

from condiff.arrays import Pixels, Plane
from condiff.color.lab import LUMINANCE, lab_to_rgb, to_linear_light

# The weights of linear red, green and blue. Plates and films that saw only blue, or no red, were
# usual until the 1930s: skies are white, lips and freckles dark. An orange filter darkens skies.
EMULSIONS: dict[str, Plane] = {
    "blue-sensitive": np.array([0, 0.12, 0.88], np.float32),
    "orthochromatic": np.array([0.02, 0.53, 0.45], np.float32),
    "orange-filter": np.array([0.6, 0.35, 0.05], np.float32),
}
LEAST_EMULSION = 0.3  # share of such weights in a random emulsion; the rest is luminance
FRAME_LEVELS = (0.0, 3.0, 90.0, 97.0, 100.0)  # L*: film's base, album's paper
DUST_LEVELS = (10.0, 92.0, 100.0)


def expose(pixels: Pixels, weights: Plane) -> Pixels:
    """(H,W,3) uint8 sRGB in grey, from the `weights` (3,) of linear light."""
    grey = cv2.transform(to_linear_light(pixels), np.tile(weights, (3, 1)))
    return lab_to_rgb(cv2.cvtColor(grey, cv2.COLOR_LRGB2Lab))


def sample_emulsion(rng: np.random.Generator) -> Plane:
    """The weights (3,) of linear light of a random emulsion, between luminance and EMULSIONS."""
    weights = list(EMULSIONS.values())[rng.integers(len(EMULSIONS))]
    share = np.float32(rng.uniform(LEAST_EMULSION, 1))
    return share * weights + (1 - share) * LUMINANCE


def degrade(lightness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """L* (H,W) degraded like an old print: contrast, blur, grain, JPEG blocks, each at random."""
    if rng.random() < 0.5:
        gamma, low, high = rng.uniform(0.7, 1.4), rng.uniform(0, 12), rng.uniform(88, 100)
        lightness = low + (high - low) * (lightness / 100) ** gamma
    if rng.random() < 0.4:
        lightness = cv2.GaussianBlur(lightness, (0, 0), float(rng.uniform(0.4, 1.8)))
    if rng.random() < 0.4:
        grain = rng.standard_normal(lightness.shape, dtype=np.float32)
        lightness = lightness + rng.uniform(0.5, 5) * cv2.GaussianBlur(grain, (0, 0), 0.6)
    lightness = lightness.clip(0, 100).astype(np.float32)
    if rng.random() < 0.3:
        coded = cv2.imencode(
            ".jpg",
            (lightness * 2.55).round().astype(np.uint8),
            [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))],
        )[1]
        decoded = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)
        assert decoded is not None  # our own JPEG
        lightness = decoded.astype(np.float32) / 2.55
    return lightness


def narrow_levels(lightness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """L* (H,W) within a random part of 0 to 100: faded, dark or overexposed."""
    low = rng.uniform(0, 30)
    high = rng.uniform(max(low + 25, 40), 100)
    return (low + (high - low) / 100 * lightness).astype(np.float32)


def add_dust(lightness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """L* (H,W) with up to 11 specks and scratches of one lightness."""
    height, width = lightness.shape
    mask = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 12)):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        if rng.random() < 0.7:
            cv2.circle(mask, (x, y), int(rng.integers(1, 3)), 1, -1)
        else:
            ahead = (x + int(rng.integers(-40, 40)), y + int(rng.integers(-40, 40)))
            cv2.line(mask, (x, y), ahead, 1, 1)
    return np.where(mask > 0, np.float32(rng.choice(DUST_LEVELS)), lightness)


def add_frame(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H,W,3) uint8 sRGB with a grey border, 3 to 11 % of the short side wide at each edge."""
    widths = (rng.uniform(0.03, 0.11, 4) * min(pixels.shape[:2])).astype(int)
    level = np.array([[[rng.choice(FRAME_LEVELS), 0, 0]]], np.float32)
    top, bottom, left, right = widths
    framed = np.empty_like(pixels)
    framed[:] = lab_to_rgb(level)
    inside = slice(top, len(pixels) - bottom), slice(left, pixels.shape[1] - right)
    framed[inside] = pixels[inside]
    return framed
