"""Every metric compared with a published table, a closed form or a second implementation."""

import sys

import numpy as np
import pytest
import scipy.linalg
import skimage.data

from condiff.color.lab import rgb_to_lab
from condiff.errors import DataError, DependencyError
from condiff.evaluation.metrics import (
    bleed,
    ciede2000,
    colorfulness,
    colorfulness_ddcolor,
    diversity,
    edge_alignment,
    flat_regions,
    frechet_distance,
    gaudy,
    lightness_error,
    psnr,
    region_deviations,
    ssim,
)

# Table 1 of Sharma, Wu and Dalal, "The CIEDE2000 color-difference formula: implementation notes,
# supplementary test data, and mathematical observations", Color Res. Appl. 30 (2005) 21-30:
# L* a* b* of both colours and their difference.
SHARMA = np.array(
    [
        (50.0000, 2.6772, -79.7751, 50.0000, 0.0000, -82.7485, 2.0425),
        (50.0000, 3.1571, -77.2803, 50.0000, 0.0000, -82.7485, 2.8615),
        (50.0000, 2.8361, -74.0200, 50.0000, 0.0000, -82.7485, 3.4412),
        (50.0000, -1.3802, -84.2814, 50.0000, 0.0000, -82.7485, 1.0000),
        (50.0000, -1.1848, -84.8006, 50.0000, 0.0000, -82.7485, 1.0000),
        (50.0000, -0.9009, -85.5211, 50.0000, 0.0000, -82.7485, 1.0000),
        (50.0000, 0.0000, 0.0000, 50.0000, -1.0000, 2.0000, 2.3669),
        (50.0000, -1.0000, 2.0000, 50.0000, 0.0000, 0.0000, 2.3669),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0009, 7.1792),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0010, 7.1792),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0011, 7.2195),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0012, 7.2195),
        (50.0000, -0.0010, 2.4900, 50.0000, 0.0009, -2.4900, 4.8045),
        (50.0000, -0.0010, 2.4900, 50.0000, 0.0010, -2.4900, 4.8045),
        (50.0000, -0.0010, 2.4900, 50.0000, 0.0011, -2.4900, 4.7461),
        (50.0000, 2.5000, 0.0000, 50.0000, 0.0000, -2.5000, 4.3065),
        (50.0000, 2.5000, 0.0000, 73.0000, 25.0000, -18.0000, 27.1492),
        (50.0000, 2.5000, 0.0000, 61.0000, -5.0000, 29.0000, 22.8977),
        (50.0000, 2.5000, 0.0000, 56.0000, -27.0000, -3.0000, 31.9030),
        (50.0000, 2.5000, 0.0000, 58.0000, 24.0000, 15.0000, 19.4535),
        (50.0000, 2.5000, 0.0000, 50.0000, 3.1736, 0.5854, 1.0000),
        (50.0000, 2.5000, 0.0000, 50.0000, 3.2972, 0.0000, 1.0000),
        (50.0000, 2.5000, 0.0000, 50.0000, 1.8634, 0.5757, 1.0000),
        (50.0000, 2.5000, 0.0000, 50.0000, 3.2592, 0.3350, 1.0000),
        (60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644),
        (63.0109, -31.0961, -5.8663, 62.8187, -29.7946, -4.0864, 1.2630),
        (61.2901, 3.7196, -5.3901, 61.4292, 2.2480, -4.9620, 1.8731),
        (35.0831, -44.1164, 3.7933, 35.0232, -40.0716, 1.5901, 1.8645),
        (22.7233, 20.0904, -46.6940, 23.0331, 14.9730, -42.5619, 2.0373),
        (36.4612, 47.8580, 18.3852, 36.2715, 50.5065, 21.2231, 1.4146),
        (90.8027, -2.0831, 1.4410, 91.1528, -1.6435, 0.0447, 1.4441),
        (90.9257, -0.5406, -0.9208, 88.6381, -0.8985, -0.7239, 1.5381),
        (6.7747, -0.2908, -2.4247, 5.8714, -0.0985, -2.2286, 0.6377),
        (2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082),
    ]
)


@pytest.fixture(scope="module")
def coffee():
    return np.ascontiguousarray(skimage.data.coffee()[100:228, 200:360])


@pytest.fixture(scope="module")
def noisy(coffee):
    noise = np.random.default_rng(0).normal(0, 12, coffee.shape)
    return np.clip(coffee + noise, 0, 255).round().astype(np.uint8)


def two_halves(left, right, shape=(20, 40)):
    """A Lab picture of two plain halves that meet in the middle."""
    lab = np.empty((*shape, 3))
    lab[:, : shape[1] // 2] = left
    lab[:, shape[1] // 2 :] = right
    return lab


def test_psnr_is_its_formula(coffee, noisy):
    error = np.mean((coffee.astype(float) - noisy) ** 2)
    assert psnr(noisy, coffee) == pytest.approx(20 * np.log10(255) - 10 * np.log10(error))


def test_psnr_of_a_constant_error_is_its_closed_form():
    black = np.zeros((4, 5, 3), np.uint8)
    assert psnr(black + np.uint8(51), black) == pytest.approx(20 * np.log10(5))
    assert psnr(black, black) == np.inf


def test_ssim_is_its_formula_window_by_window(coffee, noisy):
    """Wang et al. (2004), equations 13 to 16, one 11x11 window after the other."""
    x, y = (photo[:14, :13].astype(float) for photo in (noisy, coffee))
    bell = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(bell, bell)[..., None] / bell.sum() ** 2
    c_1, c_2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = []
    for i, j in np.ndindex(4, 3):
        one, other = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
        m_1, m_2 = ((weights * w).sum((0, 1)) for w in (one, other))
        v_1, v_2 = (
            (weights * (w - w_mean) ** 2).sum((0, 1)) for w, w_mean in ((one, m_1), (other, m_2))
        )
        c = (weights * (one - m_1) * (other - m_2)).sum((0, 1))
        found.append(
            (2 * m_1 * m_2 + c_1) * (2 * c + c_2) / ((m_1**2 + m_2**2 + c_1) * (v_1 + v_2 + c_2))
        )
    assert ssim(noisy[:14, :13], coffee[:14, :13]) == pytest.approx(np.mean(found), abs=1e-9)
    assert ssim(coffee, coffee) == pytest.approx(1)


def test_ssim_refuses_a_photo_smaller_than_its_window():
    with pytest.raises(DataError, match="40x10"):
        ssim(np.zeros((10, 40, 3), np.uint8), np.zeros((10, 40, 3), np.uint8))


def test_ciede2000_gives_the_published_34_pairs_in_both_orders():
    assert len(SHARMA) == 34
    first, second, expected = SHARMA[:, :3], SHARMA[:, 3:6], SHARMA[:, 6]
    # The table is rounded to four decimals.
    np.testing.assert_allclose(ciede2000(first, second), expected, atol=5.1e-5, rtol=0)
    np.testing.assert_allclose(ciede2000(second, first), expected, atol=5.1e-5, rtol=0)


def test_ciede2000_of_single_precision_is_that_of_double(coffee, noisy):
    labs = [rgb_to_lab(photo) for photo in (noisy, coffee)]
    assert labs[0].dtype == np.float32
    doubles = ciede2000(*(lab.astype(np.float64) for lab in labs))
    np.testing.assert_allclose(ciede2000(*labs), doubles, atol=1e-4, rtol=0)


def test_gaudy_takes_both_an_excess_of_chroma_and_a_distance():
    truth = np.zeros((1, 6, 3)) + (50, 20, 0)
    lab = truth.copy()
    lab[0, 1] = (50, 51, 0)  # 31 more chroma, 31 away: gaudy
    lab[0, 2] = (50, 49, 0)  # 29 away
    lab[0, 3] = (50, -20, 0)  # 40 away, no more chroma: another colour, as strong
    lab[0, 4] = (50, -34, 0)  # 54 away, 14 more
    lab[0, 5] = (90, 0, -36)  # 16 more, 41 away: gaudy
    assert gaudy(lab, truth) == pytest.approx(2 / 6)
    assert gaudy(truth, lab) == 0


def test_flat_regions_end_at_edges_of_lightness_and_have_a_least_size():
    lab = two_halves((30, 40, 0), (70, -40, 0), shape=(40, 60))
    lab[5:7, 5:7, 0] = 60  # a speck
    lab[20, :, 0] += 25  # a wire, which parts each half
    regions = flat_regions(lab)
    corners = regions[[2, 2, -2, -2], [2, -3, 2, -3]]
    assert sorted(corners) == [1, 2, 3, 4] == list(np.unique(regions[regions > 0]))
    assert not regions[:, 29:31].any() and not regions[20].any() and not regions[5:7, 5:7].any()


@pytest.mark.parametrize(("side", "count"), [(16, 1), (10, 0)])
def test_a_region_smaller_than_half_a_percent_is_left_out(side, count):
    lab = np.zeros((100, 100, 3))
    lab[..., 0] = 3 * np.indices((100, 100)).sum(0)  # a slope everywhere
    lab[40 : 40 + side, 40 : 40 + side, 0] = 240
    regions = flat_regions(lab)
    assert regions.max() == count
    assert (regions > 0).sum() == pytest.approx(0.6 * side**2 * count, rel=0.3)  # less its rim
    assert regions[48, 48] == count


def test_the_deviation_of_a_region_is_its_closed_form():
    lab = two_halves((50, 13, -4), (50, 7, 4), shape=(10, 40))
    regions = np.ones((10, 40), np.int32)
    # Two colours of equal share: 3 and 4 from their mean.
    assert region_deviations(lab, regions) == pytest.approx([5])
    regions[:, 20:] = 2
    regions[0] = 0
    assert region_deviations(lab, regions) == pytest.approx([0, 0])
    assert region_deviations(lab, np.zeros((10, 40), np.int32)).shape == (0,)


def test_colorfulness_of_two_opposite_colours_is_its_closed_form():
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0], pixels[1] = (200, 0, 0), (0, 200, 0)
    # rg = +-200: std 200, mean 0; yb = 100 everywhere: std 0, mean 100.
    assert colorfulness(pixels) == pytest.approx(200 + 0.3 * 100)
    # |rg| = 200 everywhere: no spread at all is left, but a mean.
    assert colorfulness_ddcolor(pixels) == pytest.approx(0.3 * np.hypot(200, 100))


def test_grey_has_no_colorfulness():
    grey = np.repeat(np.arange(16, dtype=np.uint8).reshape(4, 4, 1), 3, axis=2)
    assert colorfulness(grey) == colorfulness_ddcolor(grey) == 0


def test_the_conventions_agree_where_no_opponent_changes_its_sign():
    warm = np.random.default_rng(0).integers(0, 50, (8, 8, 3)).astype(np.uint8)
    warm += np.array([200, 100, 0], np.uint8)  # R > G and yellow > B everywhere
    assert colorfulness_ddcolor(warm) == pytest.approx(colorfulness(warm))


def test_lightness_error_is_the_worst_pixel_and_blind_to_chroma():
    source = np.full((3, 3, 3), 50.0)
    result = source + np.array([0.0, 20.0, -20.0])
    assert lightness_error(result, source) == 0
    result[2, 1, 0] = 46.5
    assert lightness_error(result, source) == pytest.approx(3.5)


def test_bleed_of_a_chroma_ramp_is_its_slope():
    width, slope_a, slope_b = 40, 0.3, 0.4
    lab = np.full((20, width, 3), 50.0)
    lab[..., 1] += slope_a * np.arange(width)
    lab[..., 2] += slope_b * np.arange(width)
    # The replicated border halves the derivative of the first and the last column.
    assert bleed(lab) == pytest.approx(0.5 * (width - 1) / width)


def test_bleed_is_zero_when_colour_changes_only_where_lightness_does():
    assert bleed(two_halves((30, 40, 0), (70, -40, 0))) == pytest.approx(0, abs=1e-12)


def test_bleed_counts_colour_that_crosses_an_outline():
    lab = two_halves((30, 40, 0), (70, -40, 0))
    spilled = lab.copy()
    spilled[:, 20:24, 1:] = lab[:, :20, 1:].mean((0, 1))  # the left colour, four pixels too far
    # A step of 80 spread by Sobel over two columns: 40 each, of the 38 columns of flat L*.
    assert bleed(spilled) == pytest.approx(2 * 40 / 38)


def test_bleed_of_a_picture_without_flat_places_is_zero():
    lab = np.zeros((8, 8, 3))
    lab[..., 0] = 10 * np.arange(8)
    lab[..., 1] = np.arange(8) ** 2
    assert bleed(lab) == 0


def test_edge_alignment_is_one_for_the_same_edges_and_zero_for_grey():
    assert edge_alignment(two_halves((30, 40, 10), (70, -40, 50))) == pytest.approx(1)
    assert edge_alignment(two_halves((30, 0, 0), (70, 0, 0))) == 0


def test_edge_alignment_is_negative_when_the_edges_miss_each_other():
    lab = two_halves((30, 40, 10), (70, -40, 50))
    shifted = lab.copy()
    shifted[..., 1:] = np.roll(lab[..., 1:], 8, axis=1)
    # Sobel answers in 2 columns of 40 for L*, in 4 others for chroma (the roll wraps round): the
    # correlation of two disjoint indicators.
    p, q = 2 / 40, 4 / 40
    assert edge_alignment(shifted) == pytest.approx(-np.sqrt(p * q / ((1 - p) * (1 - q))))


def test_diversity_is_the_mean_over_pairs():
    base = np.zeros((4, 4, 2))
    samples = [base, base + np.array([3.0, 4.0]), base + np.array([6.0, 8.0])]
    assert diversity(samples) == pytest.approx((5 + 10 + 5) / 3)
    assert diversity([base, base]) == 0


def exact_gaussian_features(mean, deviations):
    """2 D rows whose sample mean and covariance are exactly `mean` and diag(deviations^2)."""
    d = len(deviations)
    spread = np.diag(deviations) * np.sqrt((2 * d - 1) / 2)
    return np.concatenate([mean + spread, mean - spread])


def test_frechet_distance_of_gaussians_is_its_closed_form():
    m_1, s_1 = np.array([1.0, -2.0, 0.5]), np.array([0.5, 1.0, 3.0])
    m_2, s_2 = np.array([0.0, 1.0, 0.0]), np.array([1.5, 0.25, 2.0])
    # Diagonal covariances commute: |m_1 - m_2|^2 + |s_1 - s_2|^2.
    expected = np.sum((m_1 - m_2) ** 2) + np.sum((s_1 - s_2) ** 2)
    found = frechet_distance(exact_gaussian_features(m_1, s_1), exact_gaussian_features(m_2, s_2))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("photos", [(200, 150), (30, 200)])
def test_frechet_distance_is_the_one_by_matrix_square_root(photos):
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(12, 12))
    x = rng.normal(size=(photos[0], 12)) @ mix
    y = rng.normal(size=(photos[1], 12)) + 0.3
    c_1, c_2 = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(c_1 @ c_2)
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c_1 + c_2 - 2 * root.real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_holds_with_fewer_photos_than_features():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 40)), rng.normal(size=(7, 40))
    # An isometry into more dimensions changes nothing, and the first 12 hold all the variation.
    basis = np.linalg.qr(np.concatenate([x, y]).T)[0]
    expected = frechet_distance(x @ basis, y @ basis)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 40, rel=1e-9)


def test_scikit_image_that_is_not_installed_is_a_sentence(monkeypatch, coffee):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(DependencyError, match=r"need scikit-image, .*\[eval\]"):
        psnr(coffee, coffee)
