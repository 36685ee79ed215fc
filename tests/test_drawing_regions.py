"""Regions of a drawing, and pictures with one colour in each."""

import cv2
import numpy as np
import pytest

from condiff.conditions.drawing_finish import finish_along_lines
from condiff.conditions.drawing_regions import label_regions

RED, BLUE = np.float32([0.8, 0.2, 0.2]), np.float32([0.2, 0.3, 0.8])


def draw_ring(side=160, gap=0, radius=50):
    """The ink (H,W) of a circle in the middle, with a gap of so many pixels on its right."""
    ink = np.zeros((side, side), np.uint8)
    cv2.circle(ink, (side // 2, side // 2), radius, 255, 2)
    if gap:
        middle = side // 2
        ink[middle - gap // 2 : middle + (gap + 1) // 2, middle:] = 0
    return ink


def distance_from(ink):
    return cv2.distanceTransform((ink < 128).astype(np.uint8), cv2.DIST_L2, 3)


def disc_of(ink, inside, outside, cells=32):
    """The small picture of a ring: two colours, each averaged over the cells."""
    side = len(ink)
    y, x = np.indices(ink.shape) - (side - 1) / 2
    picture = np.where((np.hypot(x, y) < 50)[..., None], inside, outside).astype(np.float32)
    return cv2.resize(picture, (cells, cells), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("gap", [0, 3, 6])
def test_a_gap_narrower_than_the_ball_parts_inside_from_outside(gap):
    labels = label_regions(distance_from(draw_ring(gap=gap)), ball=4.0)
    assert labels.min() >= 1
    assert labels[80, 80] != labels[5, 5]
    assert (labels[40:120, 70:90] == labels[80, 80]).mean() > 0.99


def test_a_gap_wider_than_the_ball_does_not():
    labels = label_regions(distance_from(draw_ring(gap=14)), ball=4.0)
    assert labels[80, 80] == labels[5, 5]


def test_without_lines_there_is_one_region_and_of_ink_alone_one():
    assert np.unique(label_regions(np.full((20, 30), 99, np.float32), ball=3.0)).size == 1
    assert np.unique(label_regions(np.zeros((20, 30), np.float32), ball=3.0)).size == 1


def test_blotches_inside_closed_lines_become_one_colour():
    ink = draw_ring(gap=3)
    small = disc_of(ink, RED, np.ones(3))
    blotches = np.random.default_rng(0).uniform(-0.12, 0.12, small.shape).astype(np.float32)
    blotched = (small + blotches).clip(0, 1)
    inside = (slice(50, 110), slice(50, 110))
    uneven = finish_along_lines(blotched, ink, keep_lines=False)[inside]
    even = finish_along_lines(blotched, ink, keep_lines=False, flat=1.0)[inside]
    half = finish_along_lines(blotched, ink, keep_lines=False, flat=0.5)[inside]
    assert uneven.std(axis=(0, 1)).max() > 0.02
    assert even.std(axis=(0, 1)).max() < 0.002
    assert np.abs(even.mean(axis=(0, 1)) - RED).max() < 0.13
    np.testing.assert_allclose(half, (even + uneven) / 2, atol=1e-4)


def test_colours_on_both_sides_of_a_line_stay():
    ink = draw_ring()
    filled = finish_along_lines(disc_of(ink, RED, BLUE), ink, keep_lines=False, flat=1.0)
    np.testing.assert_allclose(filled[80, 80], RED, atol=0.02)
    np.testing.assert_allclose(filled[5, 5], BLUE, atol=0.02)
    np.testing.assert_allclose(filled[80, 80 + 45], RED, atol=0.05)  # up to the line
    np.testing.assert_allclose(filled[80, 80 + 57], BLUE, atol=0.05)


def test_a_colour_whose_outline_is_missing_stays():
    ink = draw_ring(gap=30)
    small = disc_of(ink, BLUE, np.ones(3))
    filled = finish_along_lines(small, ink, keep_lines=False, flat=1.0)
    np.testing.assert_allclose(filled[80, 80], BLUE, atol=0.1)
    np.testing.assert_allclose(filled[5, 5], 1, atol=0.1)


def test_a_narrow_passage_between_lines_that_go_on_parts_nothing():
    ink = np.zeros((160, 160), np.uint8)
    cv2.rectangle(ink, (20, 20), (140, 140), 255, 2)  # a wall, and a window close to its top
    cv2.rectangle(ink, (70, 32), (90, 128), 255, 2)
    small = np.ones((32, 32, 3), np.float32)
    small[4:28, 4:14], small[4:28, 18:28] = RED, RED + np.float32([0, 0.25, 0.25])
    filled = finish_along_lines(small, ink, keep_lines=False, flat=1.0)
    np.testing.assert_allclose(filled[80, 40], filled[80, 120], atol=0.02)
    np.testing.assert_allclose(filled[80, 5], 1, atol=0.02)


def test_a_gap_of_two_cells_at_which_the_outline_ends_is_closed():
    ink = draw_ring(gap=12)
    small = disc_of(ink, RED, np.ones(3))
    small[10:22, 10:22] = RED + np.float32(0.1)
    filled = finish_along_lines(small, ink, keep_lines=False, flat=1.0)
    assert np.abs(filled[80, 80] - RED).max() < 0.12
    np.testing.assert_allclose(filled[80, 150], 1, atol=0.02)


def test_a_blotch_beside_a_shape_becomes_paper():
    ink = draw_ring()
    small = disc_of(ink, RED, np.ones(3))
    small[3:8, 14:20], small[13:16, 13:17] = BLUE, np.ones(3)
    filled = finish_along_lines(small, ink, keep_lines=False, flat=1.0)
    np.testing.assert_allclose(filled[10:26, 72:98], 1, atol=0.02)
    np.testing.assert_allclose(filled[55:105, 55:105].reshape(-1, 3) - RED, 0, atol=0.02)


@pytest.mark.parametrize("margin", [3, 6, 9])
def test_paper_between_an_outline_and_the_border_is_white_and_the_shape_keeps_its_colour(margin):
    ink = np.zeros((160, 160), np.uint8)
    cv2.rectangle(ink, (margin, margin), (159 - margin, 120), 255, 2)
    inside = np.zeros((160, 160), bool)
    inside[margin + 2 : 119, margin + 2 : 158 - margin] = True
    picture = np.where(inside[..., None], RED, np.float32(1)).astype(np.float32)
    small = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA)
    small[4:10, :2], small[:2, 12:20] = BLUE, RED  # cells that err by the side of it
    filled = finish_along_lines(small, ink, keep_lines=False, flat=1.0)
    rim = np.concatenate([filled[0], filled[-1], filled[:, 0], filled[:, -1]])
    np.testing.assert_allclose(rim, 1, atol=0.02)
    core = cv2.erode(inside.astype(np.uint8), np.ones((3, 3))) > 0
    np.testing.assert_allclose(filled[core] - RED, 0, atol=0.05)


@pytest.mark.parametrize("short", [0, 4])  # pixels that are missing at each end of the line
def test_a_shape_that_the_border_cuts_keeps_its_colour(short):
    ink = np.zeros((160, 160), np.uint8)
    cv2.line(ink, (short, 110), (159 - short, 100), 255, 2)
    small = np.ones((32, 32, 3), np.float32)
    small[21:] = BLUE
    filled = finish_along_lines(small, ink, keep_lines=False, flat=1.0)
    np.testing.assert_allclose(filled[125:].reshape(-1, 3) - BLUE, 0, atol=0.02)
    np.testing.assert_allclose(filled[:90], 1, atol=0.02)


def test_a_large_drawing_is_filled_as_a_small_one():
    small_ink, large_ink = draw_ring(gap=3), cv2.resize(draw_ring(gap=3), (800, 800))
    small = disc_of(small_ink, RED, np.ones(3))
    one = finish_along_lines(small, small_ink, keep_lines=False, flat=1.0)
    large = finish_along_lines(small, large_ink, keep_lines=False, flat=1.0)
    assert large.shape == (800, 800, 3)
    shrunk = cv2.resize(large, (160, 160), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk - one).mean() < 0.02


def test_a_light_background_is_paper_and_a_coloured_one_is_not():
    ink = draw_ring()
    for tint, expected in ((np.float32([0.9, 0.95, 0.93]), np.ones(3)), (BLUE, BLUE)):
        filled = finish_along_lines(disc_of(ink, RED, tint), ink, keep_lines=False, flat=1.0)
        np.testing.assert_allclose(filled[5, 5], expected, atol=0.02)
        np.testing.assert_allclose(filled[80, 80], RED, atol=0.02)


def test_a_tint_is_paper_behind_everything_and_a_colour_in_a_shape_that_the_border_cuts():
    tint = np.float32([0.76, 0.85, 0.8])
    filled = finish_along_lines(disc_of(draw_ring(), RED, tint), draw_ring(), flat=1.0)
    np.testing.assert_allclose(filled[5, 5], 1, atol=0.02)
    ink = np.zeros((160, 160), np.uint8)
    cv2.line(ink, (0, 120), (159, 120), 255, 2)
    small = np.ones((32, 32, 3), np.float32)
    small[24:] = tint
    filled = finish_along_lines(small, ink, keep_lines=False, flat=1.0)
    np.testing.assert_allclose(filled[150, 80], tint, atol=0.02)
    np.testing.assert_allclose(filled[50, 80], 1, atol=0.02)


def test_a_region_with_a_hint_has_its_colour_and_the_others_their_own():
    ink = draw_ring(gap=3)
    values, mask = np.zeros((16, 16, 3), np.float32), np.zeros((16, 16), np.float32)
    values[8, 8], mask[8, 8] = BLUE, 1
    small = disc_of(ink, RED, np.ones(3))
    plain = finish_along_lines(small, ink, keep_lines=False, flat=1.0)
    hinted = finish_along_lines(small, ink, keep_lines=False, flat=1.0, hints=(values, mask))
    np.testing.assert_allclose(hinted[80, 80], BLUE, atol=0.01)
    np.testing.assert_allclose(hinted[60, 100], BLUE, atol=0.01)
    np.testing.assert_allclose(hinted[5, 5], plain[5, 5], atol=1e-4)
