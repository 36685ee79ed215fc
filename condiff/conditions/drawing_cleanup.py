"""Prepares a drawing for a model: ink 255 on paper 0, from a file, a scan or a photo of paper.

A clean drawing is kept bit for bit. Otherwise the sheet is flattened (divided by its own
lighting), white lines on black are inverted, grain is removed and the ink brought to full strength.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from condiff.arrays import Plane, describe_array
from condiff.errors import ImageError
from condiff.photos.photo import Photo, to_8_bits
from condiff.resize import shrink_long_side

LARGEST = 2048  # longer side at which a sheet is cleaned; models see some hundred pixels
SMALL = 256  # longer side at which lighting and polarity are judged
WHITE = 250  # of 255: paper that was not photographed or scanned is at least this light
BLOCKS = 8  # a clean sheet has such paper in every part of a grid of 8x8, except for solid ink
CLEAN_PAPER = 0.5  # ... and at least on this share of the sheet
ONE_TONE = 0.1  # a sheet whose tones, in [0,1], differ by less is blank
MAX_SHADED = 0.25  # a clean sheet with a smaller share of grey is never taken for a photo
TEXTURE = 0.12  # tones, in [0,1], that differ less from their surroundings are paper
MIN_INK = 2e-4  # a sheet with a smaller share of ink is blank
MIN_FLOOR = 0.06  # weaker ink, in [0,1], is taken for stains
# On a sheet light changes slowly and most of it is paper; a photo has neither. A picture with light
# that is steeper than SLOPE[0] * (share of paper) + SLOPE[1] is taken for a photo. This misses 9 %
# of 150 photos, and mistakes 1 % of 600 photographed drawings for photos.
SLOPE = 3.0, -0.5
ADVICE = (
    "draw its lines with `condiff condition PHOTO --kind sketch`; crop a sheet that lies on a "
    "table; or take it as it is (--as-is)"
)


@dataclass(frozen=True, eq=False)
class Drawing:
    """Ink (H,W) uint8, 255 on paper 0; the cleaning steps in words; why it may be a photo.

    Raises ImageError for ink of another type or shape.
    """

    ink: np.ndarray
    done: tuple[str, ...] = ()
    doubt: str = ""

    def __post_init__(self) -> None:
        ink = self.ink
        given = isinstance(ink, np.ndarray) and ink.size > 0
        if not (given and ink.dtype == np.uint8 and ink.ndim == 2):
            raise ImageError(
                f"a drawing's ink is (H,W) of uint8, 255 on paper 0, not {describe_array(ink)}; "
                "clean_drawing makes it from a picture"
            )


def clean_drawing(
    pixels: np.ndarray, alpha: np.ndarray | None = None, *, as_is: bool = False
) -> Drawing:
    """The ink of a drawing (H,W,3) RGB with alpha (H,W) or None, of 8 or 16 bits.

    With `as_is` dark is ink, light and transparent are paper, and nothing else is done. Raises
    ImageError for arrays of another type or shape.
    """
    done: list[str] = []
    sheet = to_8_bits(Photo(pixels, alpha).pixels)
    if alpha is not None and (alpha := to_8_bits(alpha)).min() < 255:
        sheet = _lay_on_paper(sheet, alpha, done)
    if as_is:
        return Drawing(255 - sheet.min(axis=2), tuple(done))
    if _is_negative(shrink_long_side(sheet, SMALL)):
        sheet = 255 - sheet
        done.append("light lines on dark inverted")
    small = shrink_long_side(sheet, SMALL)
    if np.ptp(small.mean(axis=2)) < ONE_TONE * 255:
        blank = np.zeros(sheet.shape[:2], np.uint8)
        return Drawing(blank, (*done, "the page is blank"))
    light = _estimate_light(small)
    doubt = _doubt(small, light)
    if _is_clean(sheet):
        ink = 255 - sheet.min(axis=2)
        shaded = float(np.mean((ink > 32) & (ink < 223)))
        return Drawing(ink, tuple(done), doubt if shaded > MAX_SHADED else "")
    sheet = shrink_long_side(sheet, LARGEST)
    ink = _remove_grain(_divide(sheet, light))
    done.append("background flattened, grain removed, contrast stretched")
    if np.mean(ink > 0) < MIN_INK:
        ink, done = np.zeros_like(ink), [*done, "the page is blank"]
    return Drawing(ink, tuple(done), doubt)


def shrink_ink(ink: np.ndarray, width: int, height: int) -> np.ndarray:
    """Ink (H,W) uint8 averaged to a smaller size, where thin lines keep their strength.

    Lines thinner than a pixel of the result grow to about one: by averaging, a line of 3 pixels on
    a sheet of 3000 would have a tenth of its strength at 128. Larger sizes are interpolated.
    """
    scale = min(ink.shape[1] / width, ink.shape[0] / height)
    if scale <= 1:
        return np.asarray(cv2.resize(ink, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    reach = round(scale) // 2 * 2 + 1
    if reach > 1:
        # A square: a disc of 3 pixels is a cross, and would keep crossings of thin lines.
        thin = cv2.morphologyEx(ink, cv2.MORPH_TOPHAT, np.ones((reach, reach), np.uint8))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
        ink = np.maximum(ink, cv2.dilate(thin, disc))
    return np.asarray(cv2.resize(ink, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def limit_ink(ink: np.ndarray) -> np.ndarray:
    """Ink (H,W) uint8 whose longer side is at most LARGEST pixels."""
    scale = LARGEST / max(ink.shape)
    if scale >= 1:
        return ink
    height, width = (max(1, round(n * scale)) for n in ink.shape)
    return shrink_ink(ink, width, height)


def _lay_on_paper(sheet: np.ndarray, alpha: np.ndarray, done: list[str]) -> np.ndarray:
    """A transparent sheet on white paper; light strokes, which would vanish there, become ink."""
    shape = alpha.astype(np.float32) / 255
    cover = float(shape.mean())
    visible = sheet.min(axis=2)[alpha > 127]
    tones = np.percentile(visible, (5, 95)) if visible.size else (0, 0)
    if cover < 0.5 and tones[0] > 127 and tones[1] - tones[0] < 2 * ONE_TONE * 255:
        done.append("light strokes on nothing taken as ink")
        return np.repeat(255 - alpha[..., None], 3, axis=2)
    done.append("transparency taken as white paper")
    laid = 255 - (255 - sheet.astype(np.float32)) * shape[..., None]
    return np.asarray(laid.round(), np.uint8)


def _is_negative(small: np.ndarray) -> bool:
    """Whether the lines are lighter than their surroundings, by the local median."""
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    middle = cv2.medianBlur(gray, _odd(max(gray.shape) / 4)).astype(np.float32)
    lighter = gray - middle
    least = TEXTURE * 255
    return float((lighter - least).clip(0).sum()) > float((-lighter - least).clip(0).sum())


def _is_clean(sheet: np.ndarray) -> bool:
    """Whether the paper is white all over, as in a drawing that was never photographed."""
    gray = sheet.min(axis=2)
    if np.mean(gray >= WHITE) < CLEAN_PAPER:
        return False
    rows, columns = (
        np.array_split(np.arange(side), min(BLOCKS, max(1, side // 16))) for side in gray.shape
    )
    brightest = [gray[r[0] : r[-1] + 1, c[0] : c[-1] + 1].max() for r in rows for c in columns]
    return not any(127 < tone < WHITE for tone in brightest)


def _estimate_light(small: np.ndarray) -> np.ndarray:
    """The paper's tone at each pixel of a sheet (h,w,3): (h,w,3) float32, at least 8.

    A smooth surface follows the lamp. A median over a quarter of the sheet follows what the surface
    misses, and a closing follows wide shadows, such as a hand's. None of them follows lines, or
    filled shapes that are darker than half.
    """
    longer = max(small.shape[:2])
    lamp = _fit_lamp(small)[..., None]
    even = (small / lamp * 128).clip(0, 255).astype(np.uint8)
    light = cv2.medianBlur(even, _odd(longer / 4)).astype(np.float32)
    wide = cv2.dilate(light, np.ones((_odd(longer / 2),) * 2, np.uint8))
    light = np.maximum(light, 0.35 * wide).clip(8)  # a shape of ink larger than the window
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_odd(longer / 10),) * 2)
    shades = cv2.morphologyEx((even / light).clip(0, 1.5), cv2.MORPH_CLOSE, disc).clip(0.5)
    smooth = cv2.GaussianBlur(light * shades, (0, 0), max(0.5, longer / 60))
    return (smooth.reshape(small.shape) * lamp / 128).clip(8)


def _fit_lamp(small: np.ndarray) -> Plane:
    """The cubic surface (h,w) through the logarithm of the paper's tone, by least squares.

    Unlike a window it is as accurate at the corners as in the middle.
    """
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    middle = cv2.medianBlur(gray, _odd(max(gray.shape) / 4))
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in gray.shape)
    terms = [x**i * y[:, None] ** j for i in range(4) for j in range(4 - i)]
    surface = np.stack([np.broadcast_to(term, gray.shape) for term in terms], axis=-1)
    log = np.log(gray.astype(np.float32).clip(8))
    fitted = np.log(middle.astype(np.float32).clip(8))
    for _ in range(3):  # lines and shapes fall out: they are darker than the surface
        paper = np.abs(log - fitted) < 2 * TEXTURE
        if paper.sum() < 10 * len(terms):
            break
        weights, *_ = np.linalg.lstsq(surface[paper], log[paper], rcond=None)
        fitted = surface @ weights
    return np.exp(fitted.clip(np.log(8), np.log(255)))


def _doubt(small: np.ndarray, light: np.ndarray) -> str:
    """Why this may not be a drawing on paper; empty if it is one.

    The slope is the mean change of the light's logarithm over the sheet's longer side.
    """
    tone = light.mean(axis=2)
    log = np.log(tone)
    steep = np.hypot(cv2.Sobel(log, -1, 1, 0) / 8, cv2.Sobel(log, -1, 0, 1) / 8)
    slope = float(steep.mean()) * max(log.shape)
    paper = float(np.mean(np.abs(small.mean(axis=2) / tone - 1) < TEXTURE))
    if slope > SLOPE[0] * paper + SLOPE[1]:
        return f"this looks like a photo, not a drawing on paper: {ADVICE}"
    return ""


def _divide(sheet: np.ndarray, light: np.ndarray) -> Plane:
    """Ink (H,W) in about [0,1]: how far the darkest channel is below the paper's tone."""
    height, width = sheet.shape[:2]
    lit = cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    return 1 - (sheet / lit.reshape(sheet.shape)).min(axis=2)


def _remove_grain(ink: Plane) -> np.ndarray:
    """Ink (H,W) float32 -> uint8 without grain: paper 0, strokes at full strength."""
    ink = ink - np.float32(np.median(ink))  # most of the sheet is paper
    ink = cv2.GaussianBlur(ink, (0, 0), min(1.5, max(0.4, max(ink.shape) / 512)))
    paper = ink[ink <= 0]
    grain = 1.4826 * float(np.median(-paper)) if paper.size else 0.0
    floor = max(MIN_FLOOR, 3 * grain)
    strong = ink > 2 * floor
    count, labels, stats, _ = cv2.connectedComponentsWithStats((ink > floor).astype(np.uint8))
    stroke = np.bincount(labels[strong], minlength=count) > 0
    stroke &= stats[:, cv2.CC_STAT_AREA] >= max(2, (max(ink.shape) / SMALL) ** 2)
    stroke[0] = False
    kept = stroke[labels]
    if not kept.any():
        return np.zeros(ink.shape, np.uint8)
    full = float(np.percentile(ink[kept & strong], 75))
    stretched = ((ink - floor / 2) / (full - floor / 2)).clip(0, 1)
    return np.where(kept, (255 * stretched).round(), 0).astype(np.uint8)


def _odd(side: float) -> int:
    """An odd window, at least 3 and at most cv2's largest."""
    return min(255, max(3, int(side) // 2 * 2 + 1))
