"""Palettes: the linear map of optimal transport, and its effect on a result."""

import json

import numpy as np
import pytest
import skimage.data
from PIL import Image

from condiff import ColorEdits, Hint, Pipeline
from condiff.cli import main
from condiff.color.lab import rgb_to_lab
from condiff.color.palette import MAX_GAIN, NOISE, Palette, parse_palette, transport
from condiff.color.references import Reference
from condiff.errors import ConfigError, ImageError, UsageError
from tests.conftest import make_photo

RNG = np.random.default_rng(0)
LAB = RNG.normal(size=(30, 40, 3)) @ RNG.normal(size=(3, 3)) * (12, 8, 8) + (50, 5, -3)
LAB = LAB.astype(np.float32)


def make_covariance(*spread):
    turn, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    return turn @ np.diag(spread) @ turn.T


def test_the_map_takes_one_covariance_to_the_other():
    source, target = make_covariance(90, 160, 250), make_covariance(120, 200, 300)
    matrix = transport(source, target)
    noise = NOISE**2 * np.eye(3)
    assert matrix == pytest.approx(matrix.T)
    assert matrix @ (source + noise) @ matrix == pytest.approx(target + noise)


def test_where_axes_agree_the_map_is_a_ratio_of_deviations():
    ratios = transport(np.diag([91.0, 16, 91]), np.diag([91.0, 91, 16]))
    assert ratios == pytest.approx(np.diag([1, 2, 0.5]))


def test_what_hardly_varies_is_not_stretched_without_bound():
    matrix = transport(np.zeros((3, 3)), 1e5 * np.eye(3))
    assert matrix == pytest.approx(MAX_GAIN * np.eye(3))


def test_a_photos_own_palette_changes_nothing():
    flat = LAB.reshape(-1, 3).astype(float)
    own = Palette(flat.mean(0), np.cov(flat.T, bias=True), "")
    assert own.apply(LAB[..., 1:], LAB[..., 0]) == pytest.approx(LAB[..., 1:], abs=1e-3)


def test_chroma_gets_the_palettes_mean_and_exposure_does_not_count():
    palette = Palette.open(["#264653", "#2a9d8f", "#e9c46a"])
    moved = palette.apply(LAB[..., 1:], LAB[..., 0])
    assert moved.mean(axis=(0, 1)) == pytest.approx(palette.mean[1:], abs=1e-3)
    darker = palette.apply(LAB[..., 1:], LAB[..., 0] - 20)
    assert darker == pytest.approx(moved, abs=1e-3)


def test_a_palette_is_of_colours_or_of_a_photo(tmp_path):
    make_photo(30, 20).save(tmp_path / "photo.png")
    assert parse_palette("#aa5533, teal") == ["#aa5533", " teal"]
    assert Palette.open(["#aa5533", " teal"]).note == "#aa5533,teal"
    path = parse_palette(str(tmp_path / "photo.png"))
    assert Palette.open(path).note == Reference.open(path).digest
    with pytest.raises(UsageError, match="neither an existing photo"):
        parse_palette("no/such.jpg")
    with pytest.raises(ConfigError, match="not a colour"):
        Palette.open(["#aa5533", "nocolour"])
    with pytest.raises(ConfigError, match="no colour in it"):
        Palette.open(["#888888", "black"])
    with pytest.raises(ImageError, match="no colours to take"):
        Palette.open(np.full((20, 20, 3), 99, np.uint8))


def test_a_result_has_the_palette_its_own_lightness_and_the_users_hint():
    colorize = Pipeline.from_pretrained("colorize")
    image = Image.fromarray(skimage.data.coffee()).resize((200, 136))
    hints = [Hint(0.5, 0.1, "#3c5ac8")]
    (plain,) = colorize(image, seed=1, edits=ColorEdits(hints=hints))
    edits = ColorEdits(hints=hints, palette=skimage.data.rocket())
    (result,) = colorize(image, seed=1, edits=edits)
    labs = [rgb_to_lab(np.asarray(picture)) for picture in (image, plain, result)]
    assert np.abs(labs[0][..., 0] - labs[2][..., 0]).max() <= 0.5
    mean = rgb_to_lab(skimage.data.rocket())[..., 1:].mean(axis=(0, 1))
    away = [np.linalg.norm(lab[..., 1:].mean(axis=(0, 1)) - mean) for lab in labs]
    assert away[2] < 0.5 * away[1]
    assert labs[2][13, 100] == pytest.approx(labs[1][13, 100], abs=1)


def test_the_flag_is_noted_and_a_wrong_one_is_wrong_usage(tiny_folder, tmp_path, capsys):
    make_photo(60, 44).convert("L").save(tmp_path / "grey.png")
    command = ["colorize", str(tmp_path / "grey.png"), "-m", str(tiny_folder), "--seed", "1"]
    assert main([*command, "--palette", "#aa5533,#2255aa"]) == 0
    record = json.loads(Image.open(tmp_path / "grey.color.png").text["condiff"])
    assert record["palette"] == "#aa5533,#2255aa"
    assert main([*command, "--force", "--palette", "gone.jpg"]) == 2
    assert "gone.jpg" in capsys.readouterr().err
