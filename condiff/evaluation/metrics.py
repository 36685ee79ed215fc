"""Metrics that compare photos: pure functions of arrays, without files and networks.

`pixels` are uint8 RGB (H,W,3); `lab` is CIE Lab (H,W,3) as floats, L* in [0,100], ab about +-110.
"""

from collections.abc import Sequence
from itertools import combinations
from types import ModuleType

import cv2
import numpy as np
import numpy.typing as npt

from condiff.arrays import Pixels
from condiff.errors import DataError, DependencyError

Floats = npt.NDArray[np.floating]

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # of a Gaussian, in pixels: Wang et al. (2004)
GAUDY_CHROMA, GAUDY_DISTANCE = 15.0, 30.0  # in ab units
REGION_SHARE = 0.005  # of a photo's pixels
# L* per pixel. A soft shade counts as flat, the outline of a thing does not.
FLAT_LIGHTNESS = 1.0
# Units per pixel. cv2's Lab of a grey photo has up to 0.13 of chroma, whose gradients vary by 0.01;
# noise of one 8-bit level varies by 0.11.
NO_VARIATION = 0.05
NO_DISTANCE = 1e-6  # smaller Fréchet distances are rounding errors


def load_scikit_image() -> ModuleType:
    """scikit-image, for PSNR, SSIM and CIEDE2000; DependencyError if it is not installed."""
    try:
        import skimage
    except ImportError as error:
        raise DependencyError.of(
            "PSNR, SSIM and CIEDE2000 need scikit-image", extra="eval"
        ) from error
    return skimage


def psnr(pixels: Pixels, truth: Pixels) -> float:
    """Peak signal-to-noise ratio in dB over all channels; infinite for equal photos."""
    with np.errstate(divide="ignore"):
        return float(load_scikit_image().metrics.peak_signal_noise_ratio(truth, pixels))


def ssim(pixels: Pixels, truth: Pixels) -> float:
    """Structural similarity in [-1,1] of Wang et al. (2004), the mean over R, G and B.

    Gaussian window, population covariance, only windows that lie inside the photo. Raises DataError
    for a photo that is smaller than the window.
    """
    if min(pixels.shape[:2]) < SSIM_WINDOW:
        height, width = pixels.shape[:2]
        raise DataError(
            f"a photo of {width}x{height} pixels is too small for SSIM, which needs "
            f"{SSIM_WINDOW}x{SSIM_WINDOW}: leave it out of the set."
        )
    similarity = load_scikit_image().metrics.structural_similarity(
        pixels,
        truth,
        channel_axis=2,
        gaussian_weights=True,
        sigma=SSIM_SIGMA,
        use_sample_covariance=False,
    )
    return float(similarity)


def ciede2000(lab: Floats, truth_lab: Floats) -> Floats:
    """Colour difference of each pixel, (...,3) and (...,3) -> (...), k_L = k_C = k_H = 1."""
    return np.asarray(load_scikit_image().color.deltaE_ciede2000(lab, truth_lab))


def gaudy(lab: Floats, truth_lab: Floats) -> float:
    """Share of pixels with far too much colour, in [0,1].

    Their chroma exceeds the truth's by more than `GAUDY_CHROMA`, and their (a,b) lies more than
    `GAUDY_DISTANCE` from the truth's.
    """
    ab, true_ab = (plane[..., 1:].astype(np.float64) for plane in (lab, truth_lab))
    excess = np.linalg.norm(ab, axis=-1) - np.linalg.norm(true_ab, axis=-1)
    distance = np.linalg.norm(ab - true_ab, axis=-1)
    return float(np.mean((excess > GAUDY_CHROMA) & (distance > GAUDY_DISTANCE)))


def flat_regions(lab: Floats) -> npt.NDArray[np.int32]:
    """Connected areas without an edge of L*: (H,W,3) -> (H,W), 0 outside, then 1, 2, ….

    L* is blurred by a Gaussian of one pixel, so that grain is not an edge. Pixels are flat where
    its gradient is below `FLAT_LIGHTNESS`. What is thinner than 3 pixels (a gap in an outline, the
    ridge of a line) and areas of fewer than `REGION_SHARE` of the photo's pixels are left out.
    """
    lightness = cv2.GaussianBlur(np.ascontiguousarray(lab[..., 0]), (0, 0), 1.0)
    flat = gradient(np.asarray(lightness, np.float64)[..., None]) < FLAT_LIGHTNESS
    opened = cv2.morphologyEx(flat.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= REGION_SHARE * flat.size
    large[0] = False  # what is not flat
    numbers = np.where(large, np.cumsum(large), 0).astype(np.int32)
    return numbers[labels]


def region_deviations(lab: Floats, regions: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Deviation of (a,b) in each of the n regions, (n,): sqrt(var a + var b), in ab units.

    0 is one colour; a region whose parts have different colours has a large one.
    """
    inside = regions > 0
    numbers = regions[inside] - 1
    pixels = np.bincount(numbers)
    variance = np.zeros(len(pixels))
    for channel in lab[inside][:, 1:].astype(np.float64).T:
        means = np.bincount(numbers, channel) / pixels
        variance += np.bincount(numbers, (channel - means[numbers]) ** 2) / pixels
    return np.sqrt(variance)


def colorfulness(pixels: Pixels) -> float:
    """M3 of Hasler and Suesstrunk (2003): 0 for grey, about 33 moderate, 59 quite colourful."""
    return _colorfulness(*_opponents(pixels))


def colorfulness_ddcolor(pixels: Pixels) -> float:
    """Colourfulness as DDColor counts it: of |R-G| and |(R+G)/2-B|, so opposites do not add up.

    Kang et al. (2023), `basicsr/metrics/colorfulness.py` of github.com/piddnad/DDColor. Against
    `colorfulness` the spread is smaller and the mean larger: the two must not share a column.
    """
    rg, yb = _opponents(pixels)
    return _colorfulness(np.abs(rg), np.abs(yb))


def lightness_error(lab: Floats, source_lab: Floats) -> float:
    """Largest |dL*| of any pixel: how far a result's lightness is off its source's."""
    return float(np.abs(lab[..., 0].astype(np.float64) - source_lab[..., 0]).max())


def bleed(lab: Floats) -> float:
    """Mean chroma gradient, in ab units per pixel, over the pixels where L* is flat.

    The chroma gradient is sqrt(a_x^2 + a_y^2 + b_x^2 + b_y^2); flat is a gradient of L* below
    `FLAT_LIGHTNESS`; derivatives are 3x3 Sobel / 8. Colour that crosses an outline raises it, so
    does texture of equal lightness: read it beside the truth's. 0 where nothing is flat.
    """
    flat = gradient(lab[..., :1]) < FLAT_LIGHTNESS
    return float(gradient(lab[..., 1:])[flat].mean()) if flat.any() else 0.0


def edge_alignment(lab: Floats) -> float:
    """Pearson correlation of L* and chroma gradient magnitudes; 0 where either is constant."""
    edges, chroma_edges = gradient(lab[..., :1]).ravel(), gradient(lab[..., 1:]).ravel()
    if min(edges.std(), chroma_edges.std()) < NO_VARIATION:
        return 0.0
    return float(np.corrcoef(edges, chroma_edges)[0, 1])


def diversity(colors: Sequence[Floats]) -> float:
    """Mean Euclidean distance of a pixel (…,C), over all pairs of at least two samples."""
    pairs = combinations([sample.astype(np.float64) for sample in colors], 2)
    return float(np.mean([np.linalg.norm(one - other, axis=-1).mean() for one, other in pairs]))


def frechet_distance(features: Floats, truth_features: Floats) -> float:
    """Frechet distance of the Gaussians fitted to (N,D) and (M,D), N and M at least 2.

    |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), Heusel et al. (2017), whose figures rest on
    Inception-v3: with other features it is not FID. Biased upwards by small N, so compare only
    sets of equal size.
    """
    x, y = features.astype(np.float64), truth_features.astype(np.float64)
    shift = float(np.sum((x.mean(0) - y.mean(0)) ** 2))
    factor_x, factor_y = _covariance_factor(x), _covariance_factor(y)
    # With C_1 = A'A and C_2 = B'B, C_1 C_2 has the squared singular values of A B' for eigenvalues:
    # no matrix square root, which goes complex on covariances of too few photos.
    cross = np.linalg.svd(factor_x @ factor_y.T, compute_uv=False).sum()
    spread = np.sum(factor_x**2) + np.sum(factor_y**2) - 2 * cross
    return max(0.0, shift + float(spread))


def kernel_distance(features: Floats, truth_features: Floats) -> float:
    """Kernel distance of (N,D) and (M,D), N and M at least 2: KID where the features are FID's.

    The unbiased squared maximum mean discrepancy under k(x, y) = (x y / D + 1)^3 of Binkowski et
    al. (2018), over all pictures at once. Small N does not bias it, so it can be below zero.
    """
    x, y = features.astype(np.float64), truth_features.astype(np.float64)

    def kernel(one: Floats, other: Floats) -> npt.NDArray[np.float64]:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def mean_of_pairs(one: Floats) -> float:
        similar = kernel(one, one)
        return float((similar.sum() - np.trace(similar)) / (len(one) * (len(one) - 1)))

    return mean_of_pairs(x) + mean_of_pairs(y) - 2 * float(kernel(x, y).mean())


def ratio(value: float | None, unit: float | None, least: float) -> float | None:
    """value / unit; None where one is missing, or the unit is below `least`."""
    return None if value is None or unit is None or unit < least else value / unit


def gradient(channels: Floats) -> npt.NDArray[np.float64]:
    """Gradient magnitude (H,W) of (H,W,K), joined over the channels, in units per pixel."""
    total = np.zeros(channels.shape[:2])
    for channel in np.moveaxis(channels.astype(np.float64), -1, 0):
        plane = np.ascontiguousarray(channel)
        for dx, dy in ((1, 0), (0, 1)):
            slope = cv2.Sobel(
                plane, cv2.CV_64F, dx, dy, scale=1 / 8, borderType=cv2.BORDER_REPLICATE
            )
            total += slope**2
    return np.sqrt(total)


def _opponents(pixels: Pixels) -> tuple[Floats, Floats]:
    """Red-green and yellow-blue, each (H,W) in [-255,255]."""
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    return red - green, (red + green) / 2 - blue


def _colorfulness(rg: Floats, yb: Floats) -> float:
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def _covariance_factor(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A with A'A = the sample covariance of (N,D), no taller than D."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    if len(centred) > centred.shape[1]:
        return np.asarray(np.linalg.qr(centred, mode="r"))
    return centred


TOLERANCE = 2.0  # pixels
STROKE = 127  # stronger ink is a line


def edge_f1(ink: np.ndarray, truth: np.ndarray, *, tolerance: float = TOLERANCE) -> float:
    """How well lines match others of the same size: the F1 of their pixels, in [0,1].

    A pixel of a line counts as right where the other drawing has one within `tolerance` pixels,
    Euclidean. Two blank sheets score 1, a blank one and another 0. Raises DataError for
    drawings of different sizes.
    """
    if ink.shape != truth.shape:
        raise DataError(
            f"lines of {ink.shape[1]}x{ink.shape[0]} are compared with {truth.shape[1]}x"
            f"{truth.shape[0]}: bring them to one size."
        )
    lines, others = ink > STROKE, truth > STROKE
    if not lines.any() or not others.any():
        return float(lines.any() == others.any())
    precision = float(np.mean(_distance_to(others)[lines] <= tolerance))
    recall = float(np.mean(_distance_to(lines)[others] <= tolerance))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _distance_to(lines: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the nearest line, (H,W) float32; there must be a line."""
    paper = (~lines).astype(np.uint8)
    return cv2.distanceTransform(paper, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
