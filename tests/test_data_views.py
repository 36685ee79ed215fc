"""Views of photos: x_0 and condition show the same, and stay in their ranges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import rgb2lab

from condiff.color.degradation import (
    DUST_LEVELS,
    FRAME_LEVELS,
    add_dust,
    degrade,
    expose,
    narrow_levels,
    sample_emulsion,
)
from condiff.color.lab import lightness
from condiff.conditions.table import LINE_KINDS
from condiff.config import OLD_PHOTOS, DataConfig, TrainConfig
from condiff.data.crops import Crop, CropSettings, cut, make_row, sample_crop
from condiff.data.photos import TrainingPhoto
from condiff.errors import ConfigError, DataError
from condiff.inputs import Aligned, fit_stored
from condiff.tasks import TASKS, find_task

from .conftest import make_photo

# Tasks whose conditions are drawn without weights or stored pictures.
DRAWN = [name for name, row in TASKS.items() if not isinstance(row.picture, Aligned)]
STILL = {"min_crop": 1.0, "flip": 0.0, "degrade": 0.0}


def photo_of(pixels, **drawings):
    arrays = {"image": pixels, **drawings}
    return TrainingPhoto(arrays.__getitem__, tuple(drawings))


def view(photo, task="colorize", seed=0, size=64, sample_size=16, **changes):
    chosen = CropSettings(find_task(task), DataConfig(**changes), size, sample_size)
    row = make_row(photo, np.random.default_rng(seed), chosen)
    return row["x_0"].numpy(), row["condition"].numpy()


def test_a_view_is_the_photo_itself_when_nothing_is_varied():
    pixels = np.asarray(make_photo(64, 64))
    x_0, condition = view(photo_of(pixels), sample_size=64, **STILL)
    lab = rgb2lab(pixels)
    assert np.abs(50 * (condition[0] + 1) - lab[..., 0]).max() < 0.3
    assert np.abs(50 * x_0.transpose(1, 2, 0) - lab[..., 1:]).max() < 0.6
    x_0, nothing = view(photo_of(pixels), "none", sample_size=64, **STILL)
    assert nothing.shape == (0, 64, 64)
    assert np.abs((x_0.transpose(1, 2, 0) + 1) * 127.5 - pixels).max() < 1e-3


def test_flips_turn_both_together():
    photo = photo_of(np.asarray(make_photo(64, 64)))
    x_0, condition = view(photo, **STILL)
    flipped_x_0, flipped = view(photo, **STILL | {"flip": 1.0})
    assert np.allclose(condition[..., ::-1], flipped, atol=1e-3)
    assert np.allclose(x_0[..., ::-1], flipped_x_0, atol=1e-3)


@pytest.mark.parametrize("task", DRAWN)
@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    seed=st.integers(0, 99),
    rotate=st.sampled_from([0.0, 7.0, 45.0]),
    grey=st.booleans(),
)
def test_every_photo_gives_a_view_in_range(task, height, width, seed, rotate, grey):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    if grey:
        pixels[:] = pixels[..., :1]
    x_0, condition = view(photo_of(pixels), task, seed, size=32, sample_size=8, rotate=rotate)
    row = find_task(task)
    assert (x_0.shape, x_0.dtype) == ((row.space.channels, 8, 8), np.float32)
    side = 8 if row.enlarges else 32
    assert (condition.shape, condition.dtype) == ((row.condition_channels, side, side), np.float32)
    assert np.abs(x_0).max() <= row.space.clip
    assert np.abs(condition).max(initial=0) <= 1.0001  # L* of white, rounded
    if grey and task == "colorize":
        assert np.abs(x_0).max() < 0.01


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    seed=st.integers(0, 999),
    rotate=st.floats(0, 45),
    min_crop=st.floats(0.05, 1),
)
def test_a_frame_never_leaves_the_photo(height, width, seed, rotate, min_crop):
    config = DataConfig(rotate=rotate, min_crop=min_crop)
    frame = sample_crop(height, width, np.random.default_rng(seed), config)
    assert 1 <= frame.side <= min(height, width)
    half = (frame.side - 1) / 2
    corners = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
    turn = np.radians(frame.angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    x, y = (corners @ rotation.T + [frame.x, frame.y]).T
    assert x.min() > -1e-6
    assert x.max() < width - 1 + 1e-6
    assert y.min() > -1e-6
    assert y.max() < height - 1 + 1e-6
    if rotate == 0:
        assert frame.side == max(1, round(min(height, width) * frame.side / min(height, width)))
        assert float(frame.x - half).is_integer()


def test_a_turned_frame_is_what_scipy_samples():
    pixels = np.asarray(make_photo(70, 50))
    frame = Crop(x=33.3, y=25.1, side=21, angle=12.0, flip=False)
    offsets = np.arange(21) - 10
    cos, sin = np.cos(np.radians(12)), np.sin(np.radians(12))
    x = 33.3 + cos * offsets[None] - sin * offsets[:, None]
    y = 25.1 + sin * offsets[None] + cos * offsets[:, None]
    truth = np.stack(
        [ndimage.map_coordinates(pixels[..., c].astype(float), [y, x], order=1) for c in range(3)],
        axis=2,
    )
    assert np.abs(cut(pixels, frame) - truth).max() < 3  # cv2 samples at 1/32 of a pixel
    assert np.array_equal(
        cut(pixels, Crop(33.3, 25.1, 21, 12.0, True)), cut(pixels, frame)[:, ::-1]
    )


@pytest.mark.parametrize("rotate", [0.0, 20.0])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_painted_and_its_condition_show_the_same(seed, rotate):
    """With chroma as a function of L*, the view's position is known from L*."""
    y, x = np.mgrid[0:90, 0:130].astype(np.float32)
    ramp = 1.4 * x + 0.4 * y  # below 220
    pixels = np.stack([40 + 0.5 * ramp, ramp, 130 - 0.4 * ramp], axis=2).round().astype(np.uint8)
    changes = {"min_crop": 0.4, "rotate": rotate, "degrade": 0.0}
    x_0, condition = view(photo_of(pixels), seed=seed, size=32, sample_size=32, **changes)
    lab = rgb2lab(pixels).reshape(-1, 3)
    order = np.argsort(lab[:, 0])
    for channel in (0, 1):
        expected = np.interp(50 * (condition[0] + 1), lab[order, 0], lab[order, channel + 1])
        assert np.abs(50 * x_0[channel] - expected).max() < 2.0


@pytest.mark.parametrize("seed", range(4))
def test_a_stored_drawing_is_cut_like_its_photo(seed):
    """A drawing equal to the photo's red channel must equal the red of x_0."""
    pixels = np.asarray(make_photo(90, 70, seed=seed))
    photo = photo_of(pixels, canny=np.ascontiguousarray(pixels[..., :1]))
    changes = {"min_crop": 0.5, "rotate": 15.0}
    x_0, condition = view(photo, "edge", seed, size=16, sample_size=16, **changes)
    assert np.abs(x_0[0] - condition[0]).max() < 0.02


def test_online_lines_lie_where_the_edges_are():
    pixels = np.full((64, 64, 3), 30, np.uint8)
    pixels[:, 32:] = 220
    _, condition = view(photo_of(pixels), "edge", **STILL)
    ink = condition[0] > 0
    assert set(np.flatnonzero(ink.any(axis=0))) <= {30, 31, 32, 33}
    assert ink.any()
    assert condition[0, :, :20].max() == -1  # paper


def test_each_view_of_a_sketch_is_drawn_another_way():
    photo = photo_of(np.asarray(make_photo(64, 64)))
    drawn = [view(photo, "sketch", seed, **STILL)[1] for seed in range(8)]
    assert len({d.tobytes() for d in drawn}) == 8
    again = view(photo, "sketch", 3, **STILL)[1]
    assert np.array_equal(again, drawn[3])


def test_tasks_name_the_kinds_that_are_trained_on():
    assert find_task("sketch").picture.draws == LINE_KINDS
    assert find_task("edge").picture.draws == ("canny",)
    assert find_task("none").picture is None


def test_stored_drawings_are_brought_to_the_photo_or_refused():
    pixels = np.zeros((30, 40, 3), np.uint8)
    assert fit_stored(np.zeros((15, 20, 1), np.uint8), pixels, where="a").shape == (30, 40, 1)
    with pytest.raises(DataError, match="a.parquet#3, a photo of 40x30, has .* 20x20"):
        fit_stored(np.zeros((20, 20, 1), np.uint8), pixels, where="a.parquet#3")


def test_degraded_lightness_stays_a_lightness():
    rng = np.random.default_rng(0)
    lightness = np.linspace(0, 100, 64 * 64, dtype=np.float32).reshape(64, 64)
    drawn = [degrade(lightness, rng) for _ in range(40)]
    assert all(d.shape == (64, 64) and d.dtype == np.float32 for d in drawn)
    assert all(d.min() >= 0 and d.max() <= 100.001 for d in drawn)
    assert sum(not np.array_equal(d, lightness) for d in drawn) > 20


def test_other_levels_keep_the_order_of_lightness_in_a_narrower_range():
    ramp = np.linspace(0, 100, 64 * 64, dtype=np.float32).reshape(64, 64)
    drawn = [narrow_levels(ramp, np.random.default_rng(seed)) for seed in range(50)]
    for levels in drawn:
        slope = (levels[-1, -1] - levels[0, 0]) / 100
        assert np.allclose(levels, levels[0, 0] + slope * ramp, atol=1e-3)  # a straight line
        assert 0 <= levels.min() <= 30 and 40 <= levels.max() <= 100
        assert levels.max() - levels.min() >= 25
    assert min(d.max() for d in drawn) < 60 and max(d.min() for d in drawn) > 20


def test_emulsions_without_red_make_it_dark_and_blue_light_but_no_grey_of_another_tone():
    red, blue, grey = (np.full((8, 8, 3), c, np.uint8) for c in ((200, 40, 30), (60, 90, 220), 128))
    seen = {"red": [], "blue": []}
    for seed in range(60):
        weights = sample_emulsion(np.random.default_rng(seed))
        tones = [expose(pixels, weights) for pixels in (red, blue, grey)]
        for tone in tones:
            assert (
                tone.dtype == np.uint8 and (np.ptp(tone.reshape(-1, 3).astype(int), 0) == 0).all()
            )
            assert np.ptp(tone[0, 0].astype(int)) <= 1
        assert np.abs(tones[2].astype(int) - 128).max() <= 1
        for name, tone, pixels in zip(seen, tones, (red, blue), strict=False):
            seen[name].append(lightness(tone)[0, 0] - lightness(pixels)[0, 0])
    assert min(seen["red"]) < -20 and max(seen["red"]) > 10  # a filter makes it lighter
    assert max(seen["blue"]) > 20 and min(seen["blue"]) < -5
    darker = [r < 0 for r in seen["red"]]
    assert darker == [b > 0 for b in seen["blue"]] and 0.5 < np.mean(darker) < 0.85


def test_an_emulsion_changes_the_lightness_and_keeps_the_true_chroma():
    photo = photo_of(np.asarray(make_photo(64, 64)))
    plain, exposed = view(photo, **STILL), view(photo, **STILL, emulsion=1.0)
    assert np.array_equal(plain[0], exposed[0]) and not np.array_equal(plain[1], exposed[1])


def test_dust_is_of_one_lightness_and_covers_little():
    flat = np.full((256, 256), 50, np.float32)
    shares = []
    for seed in range(40):
        dusty = add_dust(flat, np.random.default_rng(seed))
        levels = set(np.unique(dusty)) - {50}
        assert dusty.dtype == np.float32 and len(levels) == 1 and levels <= set(DUST_LEVELS)
        shares.append((dusty != 50).mean())
    assert min(shares) > 0 and max(shares) < 0.02
    assert add_dust(flat[:1, :1], np.random.default_rng(0)).shape == (1, 1)


def test_a_frame_is_grey_in_the_condition_and_has_no_chroma():
    red = np.full((128, 128, 3), (200, 40, 30), np.uint8)
    x_0, condition = view(photo_of(red), sample_size=64, size=128, **STILL, frame=1.0)
    lightness = 50 * (condition[0] + 1)
    corner, middle = lightness[0, 0], lightness[64, 64]
    assert np.abs(np.array(FRAME_LEVELS) - corner).min() < 0.3
    assert abs(middle - rgb2lab(red[:1, :1])[0, 0, 0]) < 0.3
    chroma = np.abs(50 * x_0).max(axis=0)
    assert chroma[0].max() < 0.1 and chroma[:, -1].max() < 0.1 and chroma[32, 32] > 40
    width = np.argmax(np.abs(lightness[64] - corner) > 1)
    assert 0.03 * 128 - 1 <= width <= 0.11 * 128


def test_old_scans_come_as_often_as_they_are_asked_for_and_only_with_photos():
    photo = photo_of(np.asarray(make_photo(64, 64)))
    plain = view(photo, **STILL)[1]
    for key in OLD_PHOTOS:
        seeds = range(200)
        changed = [
            not np.array_equal(view(photo, seed=s, **STILL, **{key: 0.25})[1], plain) for s in seeds
        ]
        assert 0.15 < np.mean(changed) < 0.35
        config = TrainConfig.model_validate({"max_train_steps": 1, "data": {key: 0.1}})
        find_task("colorize").check(config)
        with pytest.raises(ConfigError, match=f"data.{key} is for tasks"):
            find_task("sketch").check(config)
    with pytest.raises(ConfigError, match="dust does not go with cache device"):
        DataConfig(cache="device", dust=0.1)


@pytest.mark.parametrize("rotate", [0.0, 30.0])
def test_the_short_side_is_enough_for_every_crop(rotate):
    config = DataConfig(min_crop=0.5, rotate=rotate)
    side = CropSettings(find_task("colorize"), config, 64, 16).short_side
    frames = [sample_crop(side, side + 9, np.random.default_rng(i), config) for i in range(200)]
    assert min(frame.side for frame in frames) >= 64 - 1  # rounding
    assert side < 64 * 2 + 2
