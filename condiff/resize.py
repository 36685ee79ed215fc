"""How pictures are resized, and the sizes at which a model sees them."""

import cv2
import numpy as np

MODEL_SIZE = 256  # short side of L* as the embedded colorizer sees it
MAX_ASPECT = 3  # of what a network takes in one piece: long side / short side
MAX_STRIP = 32  # the same for pictures that are taken in overlapping windows
FACTORS = (2, 3, 4)  # by which a model of the task upscale enlarges in one stage
MAX_CHANNELS = 4  # that OpenCV averages at once


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averaged where both sides shrink, else linear; the same array where nothing changes."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.ndim == 3 and pixels.shape[2] > MAX_CHANNELS:
        parts = np.split(pixels, range(MAX_CHANNELS, pixels.shape[2], MAX_CHANNELS), axis=2)
        return np.dstack([resize(part, height, width) for part in parts])
    shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels, (width, height), interpolation=how)


def resize_square(pixels: np.ndarray, side: int) -> np.ndarray:
    """A square (n,n,C) uint8 as (side,side,C): averaged if it shrinks, else cubic."""
    how = cv2.INTER_AREA if side < len(pixels) else cv2.INTER_CUBIC
    return cv2.resize(pixels, (side, side), interpolation=how).reshape(side, side, -1)


def shrink_short_side(pixels: np.ndarray, side: int) -> np.ndarray:
    """(H,W[,C]) with that short side, its aspect kept; a smaller picture is unchanged."""
    scale = side / min(pixels.shape[:2])
    if scale >= 1:
        return pixels
    height, width = (max(side, round(length * scale)) for length in pixels.shape[:2])
    return resize(pixels, height, width)


def shrink_long_side(pixels: np.ndarray, side: int) -> np.ndarray:
    """(H,W[,C]) with that long side, its aspect kept; a smaller picture is unchanged."""
    scale = side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    return resize(pixels, height, width)


def middle_square(pixels: np.ndarray) -> np.ndarray:
    """The largest square (n,n,C) in the middle of a picture (H,W,C)."""
    short = min(pixels.shape[:2])
    top, left = ((length - short) // 2 for length in pixels.shape[:2])
    return pixels[top : top + short, left : left + short]


def have_one_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two (height, width) may be of one picture, up to half a pixel of rounding."""
    return abs(one[1] * other[0] - one[0] * other[1]) <= max(sum(one), sum(other)) / 2


def shrink_to(
    pixels: np.ndarray, *, size: int = MODEL_SIZE, cell: int = 4, longest: int = MAX_ASPECT
) -> np.ndarray:
    """A picture (H,W,C) resized to the model's size, its aspect kept.

    The short side becomes `size`, or less where the long side would exceed `longest` times that.
    Both are the nearest multiples of `cell`, so that the cells of x_t cover them exactly.
    """
    height, width = pixels.shape[:2]
    target = fit_size((width, height), size=size, cell=cell, longest=longest)
    if target == (width, height):
        return pixels
    shrinks = size < min(height, width) or longest * size < max(height, width)
    small = cv2.resize(pixels, target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(small, pixels.dtype)


def find_scale(sides: tuple[int, int], *, size: float, longest: int) -> float:
    """The factor that makes the short side `size`, and the long side at most `longest` times it."""
    return min(size / min(sides), longest * size / max(sides))


def fit_size(
    sides: tuple[int, int], *, size: int, cell: int, longest: int = MAX_ASPECT
) -> tuple[int, int]:
    """Width and height at the model's size, from a picture's own, by the rules of `shrink_to`."""
    scale = find_scale(sides, size=size, longest=longest)
    width, height = (max(cell, round(side * scale / cell) * cell) for side in sides)
    return width, height


def pad_to_stride(condition: np.ndarray, stride: int) -> np.ndarray:
    """(H,W,N) mirrored at its right and lower edge up to multiples of the stride."""
    pad = [(0, -side % stride) for side in condition.shape[:2]]
    return np.pad(condition, [*pad, (0, 0)], mode="symmetric")


def bring_up(small: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """A picture (h,w,C) enlarged to (height,width,C) float32, cubic.

    Models of the task upscale are trained on such pictures.
    """
    large = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return large.reshape(height, width, -1)
