"""Lines and colours drawn from a photo by plain image processing: (H,W,3) uint8 RGB -> uint8."""

import cv2
import numpy as np

from condiff.resize import resize


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """Luma."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def draw_canny(pixels: np.ndarray, *, low: float, high: float, blur: float) -> np.ndarray:
    """OpenCV's Canny on the three colours, as ControlNet runs it, perhaps on a softened photo."""
    smooth = cv2.GaussianBlur(pixels, (0, 0), blur) if blur > 0 else pixels
    return cv2.Canny(smooth, low, high)


def draw_sketch(pixels: np.ndarray, *, sigma: float, threshold: float, slope: float) -> np.ndarray:
    """XDoG (Winnemöller et al., 2012) with equal weights: a dark line on the dark side of edges.

    Equal weights leave flat areas white, however dark: lines only, no filled shadows.
    """
    gray = to_gray(pixels).astype(np.float32) / 255
    difference = cv2.GaussianBlur(gray, (0, 0), sigma) - cv2.GaussianBlur(gray, (0, 0), 1.6 * sigma)
    tone = 1 + np.tanh(np.minimum(0, slope * (difference + threshold)))
    return (255 * tone).round().astype(np.uint8)


def draw_pencil(pixels: np.ndarray, *, sigma: float, burn: float) -> np.ndarray:
    """Dodge and burn: the photo divided by its blur, the shade then deepened."""
    gray = to_gray(pixels).astype(np.float32) + 8  # 8: black in a black place is no line
    dodged = np.minimum(1, gray / cv2.GaussianBlur(gray, (0, 0), sigma))
    return (255 * np.maximum(0, 1 - burn * (1 - dodged))).round().astype(np.uint8)


def draw_lineart(pixels: np.ndarray, *, sigma: float, threshold: float) -> np.ndarray:
    """What is darker than its surroundings: controlnet-aux's LineartStandard, at the photo's size.

    Its contrast is set by the median of what exceeds the threshold.
    """
    photo = pixels.astype(np.float32)
    depth = (cv2.GaussianBlur(photo, (0, 0), sigma) - photo).min(axis=2).clip(0, 255)
    strong = depth[depth > threshold]
    depth *= 127 / max(16, float(np.median(strong)) if strong.size else 16)
    return depth.clip(0, 255).astype(np.uint8)


def draw_scribble(soft: np.ndarray, *, sigma: float, threshold: float) -> np.ndarray:
    """Soft edges (H,W), thinned to ridges, blurred, cut: a felt pen's lines, as ControlNet's."""
    smooth = cv2.GaussianBlur(soft.astype(np.float32), (0, 0), sigma)
    ridge = np.zeros(soft.shape, bool)
    for y, x in ((0, 1), (1, 0), (0, 0), (0, 2)):  # the neighbours along one of four directions
        kernel = np.zeros((3, 3), np.uint8)
        kernel[y, x] = kernel[2 - y, 2 - x] = kernel[1, 1] = 1
        ridge |= cv2.dilate(smooth, kernel) == smooth
    ridges = np.where(ridge & (smooth > threshold), np.float32(255), np.float32(0))
    return (cv2.GaussianBlur(ridges, (0, 0), sigma) > 4).astype(np.uint8) * 255


def make_blur(pixels: np.ndarray, *, sigma: float) -> np.ndarray:
    """A soft focus; sigma is a part of the short side."""
    height, width = pixels.shape[:2]
    wide = max(0.1, sigma * min(height, width))
    # A wide blur of a large photo takes half a minute; of the photo made small it looks the same.
    scale = min(1, 6 / wide)
    small = resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    # The other reflection is about a pixel's centre, and so about another place when small.
    soft = cv2.GaussianBlur(small, (0, 0), wide * scale, borderType=cv2.BORDER_REFLECT)
    return resize(soft, height, width)


def make_palette(pixels: np.ndarray, *, cells: float) -> np.ndarray:
    """Flat squares of mean colour, about `cells` of them on the short side."""
    height, width = pixels.shape[:2]
    scale = min(1, cells / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
