"""Line augmentations: each changes only what it should."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from condiff.conditions.line_augmentation import AUGMENTATIONS, augment_lines


@pytest.fixture
def strokes() -> np.ndarray:
    """A line of five pixels' width, a hair of one, on a sheet of 64x96."""
    plane = np.zeros((64, 96), np.float32)
    plane[20:25, 10:86] = 1
    plane[45, 10:86] = 1
    return plane


def run(name: str, plane: np.ndarray, amount: float, seed: int = 0) -> np.ndarray:
    return AUGMENTATIONS[name].function(plane, amount, np.random.default_rng(seed))


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 2**32))
@example(height=1, width=1, seed=0)
@example(height=333, width=77, seed=1)
def test_augmented_lines_keep_size_and_depend_on_the_seed_alone(height, width, seed):
    lines = np.random.default_rng(0).integers(0, 256, (height, width, 1), np.uint8)
    before = lines.copy()
    first, again = (augment_lines(lines, np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == lines.shape and first.dtype == np.uint8
    assert (first == again).all() and (lines == before).all()


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (33, 2)])
@pytest.mark.parametrize("end", ["low", "high"])
def test_each_augmentation_takes_any_size(name, size, end):
    row = AUGMENTATIONS[name]
    result = run(name, np.ones(size, np.float32), getattr(row, end))
    assert result.shape == size and np.isfinite(result).all()


@pytest.mark.parametrize("name", ["jitter", "gaps", "noise", "paper"])
def test_what_is_random_differs_by_seed(name, strokes):
    amount = AUGMENTATIONS[name].high
    assert (run(name, strokes, amount, 1) != run(name, strokes, amount, 2)).any()


def test_thickness_grows_and_shaves(strokes):
    thick, thin = run("thickness", strokes, 1), run("thickness", strokes, -1)
    assert thick[19, 40] == 1 and thick[25, 40] == 1 and thick[17, 40] == 0
    assert thin[20, 40] == 0 and thin[24, 40] == 0 and (thin[21:24, 40] == 1).all()
    assert (thin[45, 10:86] == 1).all()  # a hair stays
    between = run("thickness", strokes, 0.5)
    assert strokes.sum() < between.sum() < thick.sum()
    assert (run("thickness", strokes, 0) == strokes).all()


def test_gaps_lift_the_pen_over_their_part_of_the_sheet():
    sheet = np.ones((100, 100), np.float32)
    for amount in (0.05, 0.3):
        broken = run("gaps", sheet, amount)
        assert set(np.unique(broken)) <= {0, 1}
        assert abs((broken == 0).mean() - amount) < 0.02


def test_jitter_moves_lines_a_little_and_keeps_them_whole(strokes):
    bent = run("jitter", strokes, 2.5)
    assert (bent != strokes).any()
    assert bent[14:31, 20:76].max(axis=0).min() > 0.9  # unbroken, within reach
    assert bent[:14].max() == 0 and bent[31:39].max() == 0
    assert abs(bent.sum() / strokes.sum() - 1) < 0.2


def test_blur_softens_and_keeps_the_ink(strokes):
    soft = run("blur", strokes, 1.5)
    assert soft.max() < 1.001 and soft[45].max() < 0.5
    assert soft.sum() == pytest.approx(strokes.sum(), rel=1e-3)


def test_paper_tones_the_sheet_but_not_the_ink(strokes):
    toned = run("paper", strokes, 0.25)
    assert (toned[strokes == 1] == 1).all()
    sheet = toned[strokes == 0]
    assert 0.05 < sheet.mean() <= 0.26 and sheet.std() > 0


def test_noise_is_of_the_strength_asked_for(strokes):
    assert (run("noise", strokes, 0.08) - strokes).std() == pytest.approx(0.08, rel=0.05)


def test_polarity_is_the_negative(strokes):
    assert (run("polarity", strokes, 1) == 1 - strokes).all()


def test_each_augmentation_happens_as_often_as_the_table_says():
    lines = np.zeros((8, 8, 1), np.uint8)
    negatives = [augment_lines(lines, np.random.default_rng(i)).mean() > 128 for i in range(2000)]
    assert np.mean(negatives) == pytest.approx(AUGMENTATIONS["polarity"].probability, abs=0.02)
