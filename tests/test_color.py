"""Lab against scikit-image, and the finish: the photo's own lightness, colours along its edges."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from skimage.color import lab2rgb, rgb2lab

from condiff.color import lab as color
from condiff.color.lab import (
    join_chroma,
    lab_to_rgb,
    lightness,
    reduce_chroma,
    rgb_to_lab,
    upsample_chroma,
)

LEVELS = np.r_[0:256:5].astype(np.uint8)
CUBE = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), -1).reshape(-1, 52, 3)
GRAYS = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
PHOTOS = {"astronaut": data.astronaut, "coffee": data.coffee, "chelsea": data.chelsea}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_is_looked_up_and_is_the_same_to_the_bit(dtype):
    rng = np.random.default_rng(0)
    for width in [*range(1, 30), 127, 128, 129, 190, 201, 256, 1001, 4243]:
        grey = rng.integers(0, np.iinfo(dtype).max + 1, (5, width), dtype=dtype)
        pixels = np.dstack([grey, grey, grey])
        assert np.array_equal(lightness(pixels), rgb_to_lab(pixels)[..., 0])
        pixels[3, width // 3, 1] ^= 1  # one pixel that is not grey
        assert np.array_equal(lightness(pixels), rgb_to_lab(pixels)[..., 0])


def test_beyond_the_doubt_about_the_table_no_colour_is_inside():
    """Only colours within it, and the hollow towards yellow, are checked exactly."""
    hue = np.linspace(0, 2 * np.pi, 720, dtype=np.float32)[None]
    factor, summand = color.DOUBT
    beyond = np.arange(0, 40, 0.5, dtype=np.float32)[:, None]
    for L in np.r_[0:3:0.1, 3:86:2.0, 86:100:0.25].astype(np.float32):
        level = np.full_like(hue, L)
        chroma = factor * color._look_up_max_chroma(level, hue) + summand + beyond
        inside = color._is_displayable(level, chroma * np.cos(hue), chroma * np.sin(hue))
        hollow = (
            (hue > color.YELLOW[0]) & (hue < color.YELLOW[1]) & (level > color.YELLOW_LIGHTNESS)
        )
        assert not (inside & ~hollow).any(), L


def shrink(ab: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(ab, (side, side), interpolation=cv2.INTER_AREA)


def lightness_of(pixels: np.ndarray) -> np.ndarray:
    return rgb2lab(pixels)[..., 0]  # the other implementation


# ---- sRGB and Lab


def test_rgb_to_lab_agrees_with_skimage():
    lab = rgb_to_lab(CUBE)
    assert lab.dtype == np.float32 and lab.shape == CUBE.shape
    np.testing.assert_allclose(lab, rgb2lab(CUBE), atol=0.04)
    np.testing.assert_allclose(lightness(CUBE), rgb2lab(CUBE)[..., 0], atol=0.01)
    assert lightness(CUBE).dtype == np.float32 and lightness(CUBE).shape == CUBE.shape[:2]


def test_gray_has_no_colour():
    assert np.abs(rgb_to_lab(GRAYS)[..., 1:]).max() < 1e-3


def test_every_colour_survives_the_round_trip():
    assert np.array_equal(lab_to_rgb(rgb_to_lab(CUBE)), CUBE)
    assert np.array_equal(lab_to_rgb(rgb_to_lab(GRAYS)), GRAYS)


def test_lab_to_rgb_agrees_with_skimage():
    generator = np.random.default_rng(0)
    lab = generator.uniform([20, -25, -25], [80, 25, 25], (50, 40, 3)).astype(np.float32)
    expected = lab2rgb(lab) * 255
    assert np.abs(lab_to_rgb(lab) - expected).max() <= 0.6  # half a level is the rounding


# ---- the gamut


def far_lab(shape: tuple[int, int], chroma: float = 110) -> np.ndarray:
    """Noise over all of Lab, most of it far outside sRGB."""
    generator = np.random.default_rng(1)
    return generator.uniform([0, -chroma, -chroma], [100, chroma, chroma], (*shape, 3)).astype("f4")


def test_colours_inside_srgb_are_left_alone():
    lab = rgb_to_lab(CUBE)
    np.testing.assert_allclose(reduce_chroma(lab), lab, atol=1e-3)


def test_reduced_colours_keep_lightness_and_hue_and_lie_inside_srgb():
    lab = far_lab((200, 300))
    reduced = reduce_chroma(lab)
    assert np.array_equal(reduced[..., 0], lab[..., 0])
    before, after = (
        np.hypot(*np.moveaxis(lab[..., 1:], -1, 0)),
        np.hypot(reduced[..., 1], reduced[..., 2]),
    )
    assert (after <= before * (1 + 1e-5)).all()
    np.testing.assert_allclose(
        lab[..., 1] * reduced[..., 2], lab[..., 2] * reduced[..., 1], atol=2e-2
    )  # parallel
    returned = rgb_to_lab(lab_to_rgb(reduced))  # what clipping and rounding still change
    assert np.abs(returned[..., 0] - reduced[..., 0]).max() < 0.5
    assert np.quantile(np.abs(returned - reduced), 0.99) < 1.5


def test_reduced_colours_keep_as_much_chroma_as_srgb_has():
    """With ten percent more chroma, a reduced colour would be outside sRGB."""
    lab = far_lab((200, 300))
    lab[..., 0] = 5 + 0.9 * lab[..., 0]
    reduced = reduce_chroma(lab)
    changed = np.hypot(lab[..., 1], lab[..., 2]) > 1.1 * np.hypot(reduced[..., 1], reduced[..., 2])
    more = reduced * np.float32([1, 1.1, 1.1])
    returned = rgb_to_lab(lab_to_rgb(more))
    moved = np.linalg.norm(returned - more, axis=2)[changed]
    rounding = np.linalg.norm(rgb_to_lab(lab_to_rgb(reduced)) - reduced, axis=2)[changed]
    assert (moved > rounding).mean() > 0.97


@pytest.mark.parametrize("shape", [(1, 33_000), (33_000, 1), (1, 1)])
def test_no_side_is_too_long(shape):
    """cv2.remap alone stops at 32767."""
    lab = far_lab(shape)
    reduced = reduce_chroma(lab)
    row = np.ascontiguousarray(lab.reshape(-1, 1, 3)[-50:])
    assert np.array_equal(reduced.reshape(-1, 1, 3)[-50:], reduce_chroma(row))


def test_the_gamut_table_is_built_once():
    color._max_chroma.cache_clear()
    table = color._max_chroma()
    assert color._max_chroma() is table
    assert table[0].max() < 3 and table[-1].max() < 3 and 125 < table.max() < 135


# ---- chroma along edges


def two_regions(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A disc that differs from its ground in lightness and colour: (H,W) L*, (H,W,2) ab."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    inside = (x - 0.49) ** 2 + (y - 0.53) ** 2 < 0.27**2
    L = np.where(inside, 65, 35) + np.random.default_rng(0).normal(0, 1, (height, width))
    ab = np.where(inside[..., None], [50, 30], [-10, -40])
    return L.astype(np.float32), ab.astype(np.float32)


def test_colours_do_not_bleed_over_edges():
    L, ab = two_regions(512, 512)
    small = shrink(ab, 64)
    blurred = cv2.resize(small, (512, 512), interpolation=cv2.INTER_LINEAR)
    near_edge = np.abs(blurred - ab).max(axis=2) > 1
    error = np.linalg.norm(upsample_chroma(small, L) - ab, axis=2)[near_edge].mean()
    assert error < 0.3 * np.linalg.norm(blurred - ab, axis=2)[near_edge].mean()


@pytest.mark.parametrize("name", PHOTOS)
def test_real_photos_get_closer_than_by_bilinear_or_cubic(name):
    lab = rgb_to_lab(PHOTOS[name]())
    size = lab.shape[1::-1]
    small = shrink(lab[..., 1:], 64)

    def error(ab: np.ndarray) -> float:
        return float(np.linalg.norm(ab - lab[..., 1:], axis=2).mean())

    ours = error(upsample_chroma(small, np.ascontiguousarray(lab[..., 0])))
    assert ours < 0.9 * error(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR))
    assert ours < 0.95 * error(cv2.resize(small, size, interpolation=cv2.INTER_CUBIC))


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 40)] * 2), st.tuples(*[st.integers(1, 90)] * 2))
def test_any_size_fits_any_other_and_no_colour_is_invented(cells, size):
    generator = np.random.default_rng(0)
    guide = generator.uniform(0, 100, size).astype(np.float32)
    ab = generator.uniform(-90, 90, (*cells, 2)).astype(np.float32)
    up = upsample_chroma(ab, guide)
    assert up.shape == (*size, 2) and up.dtype == np.float32
    assert (up >= ab.min((0, 1)) - 1e-3).all() and (up <= ab.max((0, 1)) + 1e-3).all()
    constant = np.full((*cells, 2), [30, -20], np.float32)
    np.testing.assert_allclose(upsample_chroma(constant, guide) - [30, -20], 0, atol=1e-4)
    joined = join_chroma(cv2.merge([guide.astype(np.uint8)] * 3).reshape(*size, 3), ab)
    assert joined.shape == (*size, 3) and joined.dtype == np.uint8


def test_chroma_of_full_size_comes_back_as_it_is():
    L, ab = two_regions(60, 80)
    np.testing.assert_allclose(upsample_chroma(ab, L), ab, atol=1e-3)


def test_a_flat_guide_means_smooth_interpolation():
    ramp = np.broadcast_to(np.linspace(-50, 50, 32, dtype=np.float32)[None, :, None], (32, 32, 2))
    up = upsample_chroma(np.ascontiguousarray(ramp), np.full((256, 256), 50, np.float32))
    steps = np.diff(up[:, 8:-8, 0], axis=1)
    assert steps.min() > 0 and steps.max() < 2 * steps.mean()


# ---- the finish


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_gets_its_own_colours_back(name):
    pixels = PHOTOS[name]()
    joined = join_chroma(pixels, np.ascontiguousarray(rgb_to_lab(pixels)[..., 1:]))
    difference = np.abs(joined.astype(int) - pixels)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_without_chroma_a_photo_turns_gray_and_gray_stays_untouched():
    none = np.zeros((8, 8, 2), np.float32)
    assert np.ptp(join_chroma(data.astronaut(), none).astype(int), axis=2).max() <= 1
    gray = np.repeat(data.astronaut()[..., :1], 3, axis=2)
    assert np.array_equal(join_chroma(gray, none), gray)


def inputs_for_lightness() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "ramp": np.repeat(GRAYS, 128, axis=0),
        "gray noise": np.repeat(generator.integers(0, 256, (256, 256, 1), np.uint8), 3, axis=2),
        "colour noise": generator.integers(0, 256, (256, 256, 3), np.uint8),
        "photo": data.astronaut()[:256, :256],
        "bright": generator.integers(225, 256, (256, 256, 3), np.uint8),
        "dark": generator.integers(0, 25, (256, 256, 3), np.uint8),
    }


@pytest.mark.parametrize("name", inputs_for_lightness())
@pytest.mark.parametrize("reach", [20, 60, 110])
def test_lightness_is_kept_to_half_a_unit(name, reach):
    pixels = inputs_for_lightness()[name]
    ab = np.random.default_rng(2).uniform(-reach, reach, (64, 64, 2)).astype(np.float32)
    corners = ab.copy()
    corners[::2] = np.sign(corners[::2]) * reach
    for chroma in (ab, corners):
        joined = join_chroma(pixels, chroma)
        assert np.abs(lightness_of(joined) - lightness_of(pixels)).max() <= 0.5


def test_lightness_is_kept_for_every_lightness_and_hue():
    hue = np.linspace(0, 2 * np.pi, 720, dtype=np.float32)[:, None]
    pixels = np.repeat(GRAYS, 720, axis=0)
    for chroma in (8, 30, 90, 155):
        ab = np.dstack([chroma * np.cos(hue), chroma * np.sin(hue)])
        ab = np.ascontiguousarray(np.repeat(ab, 256, axis=1))
        joined = join_chroma(pixels, ab)
        assert np.abs(lightness_of(joined) - lightness_of(pixels)).max() <= 0.5


def test_join_agrees_with_its_parts():
    pixels = np.ascontiguousarray(cv2.resize(data.coffee(), (400, 300)))
    ab = shrink(rgb_to_lab(pixels)[..., 1:], 32)
    L = lightness(pixels)
    whole = reduce_chroma(np.dstack([L, upsample_chroma(ab, L)]))
    difference = np.abs(join_chroma(pixels, ab).astype(int) - lab_to_rgb(whole))
    assert difference.mean() < 0.5  # they average the guide in another order


@pytest.mark.parametrize("strip_pixels", [1, 2_000, 20_000])
def test_strips_leave_no_trace(strip_pixels, monkeypatch):
    pixels = data.coffee()[::2, ::2]
    ab = np.random.default_rng(0).uniform(-80, 80, (16, 24, 2)).astype(np.float32)
    whole, chroma = join_chroma(pixels, ab), upsample_chroma(ab, lightness(pixels))
    monkeypatch.setattr(color, "STRIP_PIXELS", strip_pixels)
    assert np.array_equal(join_chroma(pixels, ab), whole)
    assert np.array_equal(upsample_chroma(ab, lightness(pixels)), chroma)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_the_same_bytes_come_from_any_number_of_threads(kind):
    pixels = cv2.resize(data.coffee(), (960, 640)).astype(kind)  # three strips
    pixels *= 1 if kind == np.uint8 else 257
    ab = np.random.default_rng(0).uniform(-80, 80, (16, 24, 2)).astype(np.float32)
    before, results = cv2.getNumThreads(), []
    try:
        for threads in (1, 2, 5):
            cv2.setNumThreads(threads)
            results.append(join_chroma(pixels, ab))
    finally:
        cv2.setNumThreads(before)
    with ThreadPoolExecutor(2) as pool:  # as in a batch
        results += pool.map(join_chroma, [pixels] * 2, [ab] * 2)
    assert all(np.array_equal(result, results[0]) for result in results)


def test_an_error_of_one_strip_is_raised_from_its_thread():
    def fail(lab):
        raise MemoryError

    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        with pytest.raises(MemoryError):
            join_chroma(data.coffee(), np.zeros((4, 4, 2), np.float32), adjust=fail)
    finally:
        cv2.setNumThreads(before)


def test_the_input_is_left_as_it_was_and_views_are_welcome():
    pixels = data.coffee()[::-2, ::3]
    ab = np.full((4, 4, 2), 40, np.float32)
    before = pixels.copy(), ab.copy()
    joined = join_chroma(pixels, ab)
    assert np.array_equal(pixels, before[0]) and np.array_equal(ab, before[1])
    assert np.array_equal(joined, join_chroma(np.ascontiguousarray(pixels), ab))


MEASURE = """
import resource, numpy as np
from condiff.color.lab import join_chroma
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
pixels = np.full((1500, 8000, 3), 120, np.uint8)
ab = np.random.default_rng(0).uniform(-20, 20, (64, 64, 2)).astype("f4")
join_chroma(pixels[:64, :64], ab)
before = peak()
joined = join_chroma(pixels, ab)
print(peak() - before - joined.nbytes / 2**20)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="measured by getrusage")
def test_memory_beyond_the_result_is_bounded():
    run = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 40  # MB, where the planes of all 12 megapixels would take 48 each
