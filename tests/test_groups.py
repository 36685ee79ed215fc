"""Skin, sky, foliage and casts, on pictures with known colours."""

import dataclasses
import json

import numpy as np
import pytest

from condiff.color.lab import lab_to_rgb, rgb_to_lab
from condiff.evaluation.baselines import GREY
from condiff.evaluation.color_groups import GROUPS, cast, find_group, mean_groups, measure_groups
from condiff.evaluation.colorization import TRUTH, evaluate, format_groups, format_table
from condiff.evaluation.report import to_json_lines

SKIN, SKY, LEAF, GRASS = (70, 16, 18), (70, -8, -30), (45, -28, 35), (60, -5, 60)


def plain(*colours, side=20):
    """(rows of `side`, 40, 3) Lab: plain stripes from the top down."""
    return np.concatenate([np.full((side, 40, 3), colour, float) for colour in colours])


def turned(lab, degrees, chroma=1.0):
    """Hue turned and chroma scaled, lightness kept."""
    z = (lab[..., 1] + 1j * lab[..., 2]) * np.exp(1j * np.radians(degrees)) * chroma
    return np.stack([lab[..., 0], z.real, z.imag], -1)


@pytest.mark.parametrize(
    ("srgb", "groups"),
    [
        ((224, 172, 138), {"skin"}),
        ((141, 85, 56), {"skin"}),  # darker skin
        ((135, 206, 235), {"sky"}),  # CSS skyblue
        ((70, 130, 180), {"sky"}),  # CSS steelblue
        ((34, 139, 34), {"foliage"}),  # CSS forestgreen
        ((85, 107, 47), {"foliage"}),  # CSS darkolivegreen
        ((128, 128, 128), set()),
        ((200, 30, 30), set()),
        ((250, 200, 30), set()),
    ],
)
def test_known_colours_are_in_their_group(srgb, groups):
    lab = rgb_to_lab(np.full((8, 8, 3), srgb, np.uint8))
    found = {name for name, group in GROUPS.items() if find_group(lab, group)[:3].all()}
    assert found == groups


def test_a_colour_is_in_one_group_at_most():
    a, b = np.meshgrid(np.arange(-100.0, 101), np.arange(-100.0, 101))
    for lightness in (35, 60, 85):
        lab = np.stack([np.full_like(a, lightness), a, b], -1)
        hits = sum(
            find_group(lab, dataclasses.replace(group, above=False)).astype(int)
            for group in GROUPS.values()
        )
        assert hits.max() == 1


def test_sky_is_blue_above_and_without_texture():
    sky = plain(SKY, SKY)
    assert find_group(sky, GROUPS["sky"])[:20].all()
    assert not find_group(sky, GROUPS["sky"])[20:].any()  # a lake
    sky[..., 0] = 41 + 1.4 * np.arange(40)  # a blue wall in raking light
    assert not find_group(sky, GROUPS["sky"])[2:18, 2:-2].any()


@pytest.mark.parametrize(("degrees", "chroma"), [(0, 1), (30, 0.5), (-50, 2), (180, 0.2)])
def test_a_group_tells_the_turn_of_hue_and_the_loss_of_chroma(degrees, chroma):
    truth = plain(SKY, SKIN, LEAF)
    found = measure_groups(turned(truth, degrees, chroma), truth)
    assert set(found) == {"skin", "sky", "foliage"}
    for figures in found.values():
        assert figures.chroma_ratio == pytest.approx(chroma)
        assert figures.hue_error == pytest.approx(abs(degrees), abs=1e-5)
        assert figures.chroma == pytest.approx(chroma * figures.true_chroma)
    assert found["skin"].true_chroma == pytest.approx(np.hypot(16, 18))


def test_opposite_turns_do_not_cancel():
    truth = plain(LEAF, LEAF)
    result = np.concatenate([turned(truth[:20], 20), turned(truth[20:], -20)])
    assert measure_groups(result, truth)["foliage"].hue_error == pytest.approx(20)


def test_a_pixels_hue_weighs_by_its_chroma():
    truth = plain(LEAF, LEAF)
    result = np.concatenate([turned(truth[:20], 60, 1), turned(truth[20:], 0, 3)])
    assert measure_groups(result, truth)["foliage"].hue_error == pytest.approx(60 / 4)


def test_the_deviation_of_hue_is_its_closed_form():
    truth = plain(LEAF, LEAF)
    # Equal chroma, 10 degrees either way of the mean.
    result = np.concatenate([turned(truth[:20], 30), turned(truth[20:], 10)])
    figures = measure_groups(result, truth)["foliage"]
    assert figures.hue_deviation == pytest.approx(10)
    assert figures.true_hue_deviation == pytest.approx(0, abs=1e-5)
    assert measure_groups(truth, truth)["foliage"].hue_deviation == pytest.approx(0, abs=1e-5)
    # Hues on both sides of 180 degrees do not jump; three times the chroma counts three times.
    z = np.concatenate([turned(truth[:20], 40, 3), turned(truth[20:], 70, 1)])
    mean = np.degrees(np.angle(3 + np.exp(1j * np.radians(30))))
    expected = np.sqrt((3 * mean**2 + (30 - mean) ** 2) / 4)
    assert measure_groups(z, truth)["foliage"].hue_deviation == pytest.approx(expected)


def test_grey_has_no_hue_and_absent_groups_no_figures():
    truth = plain(LEAF, GRASS)
    found = measure_groups(turned(truth, 0, 0.0), truth)
    assert set(found) == {"foliage"}
    assert found["foliage"].chroma_ratio == 0 and found["foliage"].hue_error is None
    assert found["foliage"].hue_deviation is None
    speck = plain(*[(50, 60, 0)] * 5)
    speck[0, :20] = SKIN  # 20 of 4000 pixels
    assert measure_groups(speck, speck) == {}


def test_a_set_is_the_mean_of_the_photos_that_have_the_group():
    both, leaf = plain(SKIN, LEAF), plain(LEAF)
    photos = [
        measure_groups(turned(both, 10, 0.5), both),
        measure_groups(turned(leaf, 30, 1), leaf),
        measure_groups(turned(leaf, 0, 0.0), leaf),
    ]
    means = mean_groups(photos)
    assert set(means) == {"skin", "foliage"}
    assert (means["skin"].photos, means["foliage"].photos) == (1, 3)
    assert means["foliage"].chroma_ratio == pytest.approx((0.5 + 1 + 0) / 3)
    assert means["foliage"].hue_error == pytest.approx(20)  # the grey one has none
    assert mean_groups([{}, {}]) == {}


def test_a_cast_is_the_signed_mean_difference():
    truth = plain(SKY, SKIN)
    assert cast(truth + np.array([5, 3, -2.5]), truth) == pytest.approx((3, -2.5))
    swapped = truth.copy()
    swapped[:20, :, 1] += 8
    swapped[20:, :, 1] -= 8
    assert cast(swapped, truth) == pytest.approx((0, 0))


def test_rows_hold_casts_and_groups():
    labs = [plain(SKY, SKIN), plain(LEAF, SKIN)]
    casts = [np.array([0, 6, 0]), np.array([0, -6, 0])]
    truths = [lab_to_rgb(lab.astype(np.float32)) for lab in labs]
    red = [lab_to_rgb((lab + c).astype(np.float32)) for lab, c in zip(labs, casts, strict=True)]

    def means(photos):
        return np.stack([p.mean((0, 1)) for p in photos]), np.eye(len(photos))

    rows = evaluate({"red": red}, truths, extractor=means)
    row = rows[0]
    assert row.cast_a == pytest.approx(0, abs=0.3)  # one redder, one greener
    assert row.cast == pytest.approx(6, abs=0.3)  # and yet both are off
    assert row.cast_b == pytest.approx(0, abs=0.3)
    assert {name: g.photos for name, g in row.groups.items()} == {
        "skin": 2,
        "sky": 1,
        "foliage": 1,
    }
    by_method = {r.method: r for r in rows}
    assert by_method[TRUTH].groups["sky"].chroma_ratio == 1
    assert by_method[TRUTH].groups["sky"].hue_error == pytest.approx(0, abs=1e-3)
    assert by_method[GREY].groups["skin"].hue_error is None
    table = format_groups(rows)
    (line,) = [line for line in table.splitlines() if line.startswith("| skin, chroma")]
    assert [cell.strip() for cell in line.split("|")[-4:-1]][::2] == ["0.00", "1.00"]
    assert "skin" not in format_table(rows) and "cast, Δa" in format_table(rows)
    assert json.loads(to_json_lines(rows).splitlines()[0])["groups"]["sky"]["photos"] == 1
