"""Metrics of pictures made from drawings, compared with second implementations and known cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2lab

from condiff.color.lab import rgb_to_lab
from condiff.errors import DataError
from condiff.evaluation.metrics import diversity, edge_f1


def brute_force_f1(ink, truth, tolerance):
    """Every line pixel against every other, F1 = 2 P R / (P + R)."""
    lines, others = np.argwhere(ink > 127), np.argwhere(truth > 127)
    if not len(lines) or not len(others):
        return float(len(lines) == len(others))
    apart = np.hypot(*(lines[:, None] - others[None]).transpose(2, 0, 1))
    near = apart <= tolerance
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    share=st.sampled_from([0.0, 0.01, 0.1, 0.6]),
    tolerance=st.sampled_from([0, 1, 1.5, 2, 3]),
)
def test_f1_is_that_of_brute_force(seed, size, share, tolerance):
    rng = np.random.default_rng(seed)
    ink, truth = (255 * (rng.random((2, *size)) < share)).astype(np.uint8)
    expected = brute_force_f1(ink, truth, tolerance)
    assert edge_f1(ink, truth, tolerance=tolerance) == pytest.approx(expected, abs=1e-12)


def line_at(column, width=1):
    ink = np.zeros((20, 30), np.uint8)
    ink[:, column : column + width] = 255
    return ink


def test_two_pixels_are_near_and_three_are_not():
    assert edge_f1(line_at(10), line_at(12)) == 1
    assert edge_f1(line_at(10), line_at(13)) == 0
    both = np.maximum(line_at(10), line_at(20))
    assert edge_f1(both, line_at(10)) == pytest.approx(2 / 3)  # precision 1/2, recall 1


def test_blank_sheets_match_blank_sheets_alone():
    blank = np.zeros((20, 30), np.uint8)
    assert edge_f1(blank, blank) == 1
    assert edge_f1(blank, line_at(3)) == edge_f1(line_at(3), blank) == 0


def test_other_sizes_are_refused():
    with pytest.raises(DataError, match="30x20 are compared with 4x4"):
        edge_f1(line_at(3), np.zeros((4, 4), np.uint8))


def test_diversity_is_the_mean_distance_of_pairs():
    samples = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), np.uint8)
    labs = [rgb2lab(sample) for sample in samples]
    expected = np.mean(
        [np.sqrt(((labs[i] - labs[j]) ** 2).sum(-1)) for i, j in [(0, 1), (0, 2), (1, 2)]]
    )
    assert diversity([rgb_to_lab(sample) for sample in samples]) == pytest.approx(
        expected, abs=0.05
    )
