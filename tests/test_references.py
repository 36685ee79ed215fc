"""References: matching in cells, effect on the result, flags and notes."""

import itertools
import json

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from condiff import ColorEdits, Hint, Pipeline
from condiff.batch.colorize import BatchOptions, plan_batch, run_batch
from condiff.batch.plan import Choice
from condiff.cli import main
from condiff.color.hints import Strokes
from condiff.color.lab import rgb_to_lab
from condiff.color.references import (
    MAX_CELLS,
    MIN_SHARE,
    FeatureMap,
    Guide,
    Reference,
    _add_neighbours,
    match_cells,
    match_references,
)
from condiff.errors import ConfigError, ImageError, UsageError
from condiff.photos.reading import read_photo
from tests.conftest import make_photo

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(20, 24, 16)).astype(np.float32)


def make_map(features, chroma=None):
    L = np.full(features.shape[:2], 50, np.float32)
    return FeatureMap.build(features, L, chroma)


def test_cells_match_those_that_have_the_same_features():
    match, trust = match_cells(FEATURES[2:14, 3:15], FEATURES)
    expected = np.arange(20 * 24).reshape(20, 24)[2:14, 3:15]
    assert np.array_equal(match, expected)
    assert trust.min() == 1


def test_neighbours_that_lie_alike_are_averaged():
    similarity = RNG.normal(size=(3, 4, 5, 2)).astype(np.float32)
    averaged = _add_neighbours(similarity)
    steps = list(itertools.product((-1, 0, 1), repeat=2))
    for place in np.ndindex(similarity.shape):
        pairs = [np.add(place, (dy, dx, dy, dx)) for dy, dx in steps]
        inside = [tuple(p) for p in pairs if (p >= 0).all() and (p < similarity.shape).all()]
        expected = np.mean([similarity[pair] for pair in inside])
        assert averaged[place] == pytest.approx(expected, abs=1e-6)


def test_features_that_occur_nowhere_in_the_reference_are_not_trusted():
    others = RNG.normal(size=FEATURES.shape).astype(np.float32)
    _, trust = match_cells(FEATURES, others)
    assert trust.mean() < 0.1


def test_a_guide_has_the_references_chroma_only_where_it_matches():
    chroma = np.zeros((20, 24, 2), np.float32)
    chroma[..., 0] = 40
    features = FEATURES.copy()
    features[:, 12:] = RNG.normal(size=(20, 12, 16))
    guide = match_references(make_map(features), [make_map(FEATURES, chroma)])
    assert guide.weight[:, :9].min() > 0.9
    assert guide.weight[:, 18:].max() < 0.1
    assert guide.chroma[:, :9] == pytest.approx(chroma[:, :9], abs=0.1)


def test_of_two_references_each_counts_where_it_matches_better():
    left, right = FEATURES[:, :12], FEATURES[:, 12:]
    red = np.dstack([np.full((20, 12), 50, np.float32), np.zeros((20, 12), np.float32)])
    views = [make_map(left, red), make_map(right, -red)]
    guide = match_references(make_map(FEATURES), views)
    assert guide.chroma[:, :9, 0].min() > 49
    assert guide.chroma[:, 15:, 0].max() < -49


def test_long_strips_are_matched_in_a_bounded_number_of_cells():
    strip = FeatureMap.build(RNG.normal(size=(32, 1000, 17)), np.zeros((256, 8000)))
    height, width = strip.L.shape
    assert strip.features.shape == (height, width, 17)
    assert height * width <= MAX_CELLS
    assert width / height == pytest.approx(1000 / 32, rel=0.2)


def test_a_guide_is_blended_by_its_weight():
    guide = Guide(np.full((4, 4, 2), 10, np.float32), np.full((4, 4), 0.25, np.float32))
    assert guide.blend(np.full((8, 8, 2), 2, np.float32)) == pytest.approx(4)
    assert guide.share == 0.25


def test_a_cell_with_a_stroke_is_the_users_alone():
    guide = Guide(np.full((4, 4, 2), 10, np.float32), np.ones((4, 4), np.float32))
    mask = np.zeros((16, 16), np.float32)
    mask[5, 5] = 1
    strokes = guide.to_strokes(Strokes(np.full((16, 16, 2), -7, np.float32), mask), (4, 4), 4)
    assert strokes.mask[4:8, 4:8].sum() == 1
    assert strokes.values[5, 5].tolist() == [-7, -7]
    assert strokes.mask.sum() == 16 * 16 - 15
    assert (strokes.values[:4] == 10).all()


@pytest.fixture(scope="module")
def colorize():
    return Pipeline.from_pretrained("colorize")


@pytest.fixture(scope="module")
def scene():
    """A colour photo and, mirrored and tilted, a second view of it, darker."""
    photo = cv2.resize(skimage.data.coffee(), (300, 200), interpolation=cv2.INTER_AREA)
    corners = np.array([[40, 10], [285, 0], [299, 190], [30, 199]], np.float32)
    mirrored = np.array([[259, 0], [0, 0], [0, 199], [259, 199]], np.float32)
    turn = cv2.getPerspectiveTransform(corners, mirrored)
    view = cv2.warpPerspective(photo, turn, (260, 200))
    return photo, (view * 0.8).astype(np.uint8)


def measure(result, photo):
    """Mean distance of a and b."""
    apart = rgb_to_lab(np.asarray(result)) - rgb_to_lab(photo)
    return float(np.linalg.norm(apart[..., 1:], axis=2).mean())


def test_a_second_view_brings_the_colours_and_another_photo_does_no_harm(colorize, scene):
    photo, view = scene
    image = Image.fromarray(photo)
    (plain,) = colorize(image, seed=1)
    (helped,) = colorize(image, seed=1, edits=ColorEdits(references=[view]))
    (other,) = colorize(image, seed=1, edits=ColorEdits(references=[skimage.data.chelsea()]))
    assert measure(helped, photo) < 0.7 * measure(plain, photo)
    assert measure(other, photo) < 1.05 * measure(plain, photo)
    assert helped.info["matched"] > MIN_SHARE > other.info["matched"]
    L = [rgb_to_lab(np.asarray(picture))[..., 0] for picture in (image, helped)]
    assert np.abs(L[0] - L[1]).max() <= 0.5


def test_a_users_hint_goes_before_a_reference(colorize, scene):
    photo, view = scene
    hints = [Hint(0.5, 0.1, "#3c5ac8")]
    shown = []
    for references in ([], [view]):
        edits = ColorEdits(hints=hints, references=references)
        (result,) = colorize(Image.fromarray(photo), seed=1, edits=edits)
        shown.append(rgb_to_lab(np.asarray(result))[20, 150])
    assert shown[1] == pytest.approx(shown[0], abs=2)
    assert measure(np.asarray(result)[20:21, 150:151], photo[20:21, 150:151]) > 15


def test_strict_references_refuse_a_photo_that_does_not_match(colorize, scene):
    edits = ColorEdits(references=[skimage.data.chelsea()], strict_reference=True)
    with pytest.raises(ImageError, match=r"match .*% of the photo.*--strict-reference"):
        colorize(Image.fromarray(scene[0]), seed=1, edits=edits)


def test_a_reference_without_colours_is_refused_before_work():
    with pytest.raises(ImageError, match="has no colours"):
        ColorEdits(references=[np.full((40, 40, 3), 99, np.uint8)])
    with pytest.raises(UsageError, match="needs a reference"):
        ColorEdits(strict_reference=True)


def test_a_large_reference_is_kept_small():
    reference = Reference.open(make_photo(1600, 1000))
    assert reference.pixels.shape == (768, 1229, 3)
    assert ColorEdits(references=make_photo(40, 30)).changed() == ["references"]


def test_the_commands_flag_reaches_the_result_and_its_note(tiny_folder, tmp_path, capsys):
    make_photo(60, 44).convert("L").save(tmp_path / "grey.png")
    make_photo(60, 44).save(tmp_path / "colour.png")
    flags = ["-m", str(tiny_folder), "--seed", "1", str(tmp_path / "grey.png")]
    plain, guided = tmp_path / "plain.png", tmp_path / "guided.png"
    assert main(["colorize", *flags, "-o", str(plain)]) == 0
    reference = ["--reference", str(tmp_path / "colour.png")]
    assert main(["colorize", *flags, *reference, "-o", str(guided)]) == 0
    assert "% of the photo matches a reference" in capsys.readouterr().err
    results = [np.asarray(Image.open(path)) for path in (plain, guided)]
    assert not np.array_equal(*results)
    record = json.loads(Image.open(guided).text["condiff"])
    assert record["references"] == [Reference.open(tmp_path / "colour.png").digest]


def test_a_reference_that_is_missing_or_grey_fails_before_work(tiny_folder, tmp_path, capsys):
    make_photo(60, 44).convert("L").save(tmp_path / "grey.png")
    for name, reason in (("none.png", "no such file"), ("grey.png", "grey.png has no colours")):
        command = ["colorize", str(tmp_path / "grey.png"), "--reference", str(tmp_path / name)]
        assert main([*command, "-m", str(tiny_folder)]) == 1
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "grey.color.png").exists()


def test_a_batch_keeps_its_references(tiny_folder, photo_folder, tmp_path):
    references = [make_photo(48, 40, seed=0)]
    options = BatchOptions(
        model=tiny_folder,
        seed=1,
        workers=1,
        choice=Choice(include=["00.png", "01.png"]),
        edits=ColorEdits(references=references),
    )
    found, options = plan_batch(str(photo_folder), str(tmp_path / "out"), options)
    assert {result.outcome for result in run_batch(found, options)} == {"done"}
    settings = json.loads((tmp_path / "out/.condiff/settings.json").read_text())["settings"]
    assert settings["references"] == [Reference.open(references[0]).digest]
    message = read_photo(tmp_path / "out/00.png").metadata
    assert settings["references"][0].encode() in message.xmp
    with pytest.raises(ConfigError, match="references"):
        plan_batch(
            str(photo_folder), str(tmp_path / "out"), BatchOptions(model=tiny_folder, seed=1)
        )
