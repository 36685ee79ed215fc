"""L* made worse, as old prints and scans are."""

import cv2
import numpy as np


def degrade(lightness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """L* (H,W) made like an old print's: contrast, blur, grain and JPEG blocks, each at random."""
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
