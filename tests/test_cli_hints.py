"""Hints and several results on the command line."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from condiff.cli import main
from condiff.color.lab import lab_to_rgb, lightness, rgb_to_lab
from condiff.color.sample_selection import find_colorful, find_median, measure_deviation
from condiff.config import LOOKS, Look
from condiff.figures import make_uncertainty_map

from .conftest import make_photo

QUICK = ["--steps", "1", "--size", "32", "--device", "cpu", "--seed", "5"]


@pytest.fixture
def run(tiny_folder, capsys):
    def call(*arguments):
        code = main(["colorize", *map(str, arguments), "-m", str(tiny_folder), *QUICK])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def grey(tmp_path):
    path = tmp_path / "grey.png"
    make_photo(50, 40).convert("L").save(path)
    return path


def test_a_point_and_a_picture_of_strokes_are_kept(run, grey, tmp_path):
    strokes = Image.new("RGBA", (100, 80))
    ImageDraw.Draw(strokes).ellipse((40, 30, 60, 50), "#c05030")
    strokes.save(tmp_path / "strokes.png")
    pixels = np.asarray(Image.open(grey).convert("RGB"))
    wanted = rgb_to_lab(np.array([[[0xC0, 0x50, 0x30]]], np.uint8))[0, 0, 1:]
    for hint in (["--hint", "25,20,#c05030"], ["--hints", tmp_path / "strokes.png"]):
        code, _, err = run(grey, "-o", tmp_path / "out.png", "-f", *hint)
        assert code == 0, err
        result = np.asarray(Image.open(tmp_path / "out.png"))
        got = rgb_to_lab(result)[20, 25, 1:]
        assert got @ wanted / np.linalg.norm(got) / np.linalg.norm(wanted) > 0.97
        assert np.abs(lightness(result) - lightness(pixels)).max() <= 0.5


def test_without_wishes_the_bytes_are_as_ever(run, grey, tmp_path):
    run(grey, "-o", tmp_path / "a.png")
    Image.new("RGBA", (50, 40)).save(tmp_path / "none.png")
    run(grey, "-o", tmp_path / "b.png", "--saturation", "1", "--temperature", "0")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    run(grey, "-o", tmp_path / "c.png", "--hints", tmp_path / "none.png")
    a, c = (Image.open(tmp_path / f"{n}.png").tobytes() for n in "ac")
    assert a == c


def test_provenance_tells_the_wishes(run, grey, tmp_path):
    run(grey, "-o", tmp_path / "a.png", "--hint", "0.5,0.5,teal", "--temperature", "20")
    record = json.loads(Image.open(tmp_path / "a.png").text["condiff"])
    assert (record["hints"], record["temperature"]) == (["0.5,0.5,teal"], 20)
    assert "saturation" not in record


def test_a_look_is_four_settings_and_flags_go_before(run, grey, tmp_path):
    vivid = LOOKS["vivid"]
    settings = ["--guidance-scale", vivid.guidance_scale, "--guidance-eta", vivid.guidance_eta]
    settings += ["--variety", vivid.variety, "--saturation", vivid.saturation]
    assert run(grey, "-o", tmp_path / "a.png", "--look", "vivid")[0] == 0
    assert run(grey, "-o", tmp_path / "b.png", *settings)[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    record = json.loads(Image.open(tmp_path / "a.png").text["condiff"])
    assert vivid == Look(**{name: record[name] for name in Look.model_fields})
    assert run(grey, "-o", tmp_path / "c.png", "--look", "vivid", "--saturation", 1)[0] == 0
    record = json.loads(Image.open(tmp_path / "c.png").text["condiff"])
    assert "saturation" not in record and record["guidance_scale"] == vivid.guidance_scale
    code, out, err = run(grey, "-o", tmp_path / "d.png", "--look", "loud")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "choose from natural, quiet, vivid" in err and not (tmp_path / "d.png").exists()


def test_wrong_hints_are_one_sentence_and_nothing_is_written(run, grey, tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "opaque.png")
    there = sorted(tmp_path.iterdir())
    for wrong in (["--hint", "red"], ["--hint", "50,3,red"], ["--hints", tmp_path / "opaque.png"]):
        code, out, err = run(grey, *wrong)
        assert (code, out, err.count("\n")) == (2, "", 1), err
    assert run(grey, "--hints", tmp_path / "missing.png")[:2] == (1, "")
    assert run(grey, "--hint", "1,1,red", "--hints", tmp_path / "opaque.png")[0] == 2
    assert run(grey, "--saturation", "-1")[0] == 2
    assert sorted(tmp_path.iterdir()) == there


def test_several_answers_come_with_a_sheet_a_map_and_a_film(run, grey, tmp_path):
    extras = ["--uncertainty", tmp_path / "map.png", "--gif", tmp_path / "way.gif"]
    code, out, err = run(grey, "--samples", 3, *extras)
    assert code == 0, err
    assert len(out.splitlines()) == 3
    with Image.open(tmp_path / "grey.color.sheet.png") as sheet:
        assert sheet.width > 3 * sheet.height / 2
    with Image.open(tmp_path / "way.gif") as film:
        assert (film.n_frames, film.size) == (2, (50, 40))
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width == 240
    assert "grey.color.sheet.png" in err
    assert run(grey, "--samples", 3, "-f", "--no-sheet", "-q")[2] == ""


def test_the_median_is_written_alone(run, grey, tmp_path):
    run(grey, "--samples", 3, "--no-sheet")
    paths = [tmp_path / f"grey.color.{n}.png" for n in (1, 2, 3)]
    answers = [np.array(Image.open(path)) for path in paths]
    code, out, err = run(grey, "--samples", 3, "--pick", "median")
    assert (code, out) == (0, f"{tmp_path / 'grey.color.png'}\n")
    chosen = paths[find_median(answers)]
    seed = json.loads(Image.open(chosen).text["condiff"])["seed"]
    assert f"(picked: {seed})" in err
    assert (tmp_path / "grey.color.png").read_bytes() == chosen.read_bytes()
    assert run(grey, "--samples", 3, "--pick", "best", "--force")[0] == 0
    assert (tmp_path / "grey.color.png").read_bytes() == chosen.read_bytes()


def test_one_answer_has_no_spread_and_no_median(run, grey, tmp_path):
    for wrong in (["--uncertainty", tmp_path / "map.png"], ["--pick", "median"]):
        code, _, err = run(grey, *wrong)
        assert code == 2
        assert "--samples 5" in err
    assert run(grey, "--samples", 3, "--pick", "worst")[0] == 2
    assert list(tmp_path.iterdir()) == [grey]


def test_what_would_be_written_twice_is_refused_before_any_work(run, grey, tmp_path):
    target = tmp_path / "a.png"
    film = tmp_path / "a.webp"
    for twice in (
        ["-o", target, "--samples", 2, "--pick", "best", "--uncertainty", target],
        ["-o", target, "--samples", 2, "--uncertainty", tmp_path / "a.2.png", "--force"],
        ["-o", target, "--samples", 2, "--uncertainty", tmp_path / "a.sheet.png"],
        ["-o", film, "--gif", film],
    ):
        code, out, err = run(grey, *twice)
        assert (code, out, "written twice" in err) == (2, "", True)
    assert list(tmp_path.iterdir()) == [grey]


def test_a_dry_run_tells_all_files_and_finds_wrong_hints(run, grey, tmp_path):
    extras = ["--uncertainty", tmp_path / "map.png", "--gif", tmp_path / "way.gif"]
    code, out, _ = run(grey, "--samples", 2, *extras, "--dry-run")
    names = ["grey.color.1.png", "grey.color.2.png", "grey.color.sheet.png", "map.png", "way.gif"]
    assert (code, out.splitlines()) == (0, [str(tmp_path / name) for name in names])
    code, _, err = run(grey, "--hint", "50,0,red", "-n")
    assert code == 2 and "outside the photo" in err
    assert list(tmp_path.iterdir()) == [grey]


def test_a_result_without_colour_says_why(run, grey, tmp_path):
    assert "no colour" not in run(grey)[2]
    bits = tmp_path / "bits.png"
    make_photo(50, 40).convert("1").save(bits)
    code, _, err = run(bits)
    assert code == 0 and "no colour: the photo is pure black and white" in err
    assert "no colour" not in run(grey, "--saturation", 0, "--force")[2]


def test_a_closed_standard_input_is_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)  # as Python has it after `<&-`
    code, _, err = run("-", "-o", tmp_path / "a.png")
    assert (code, err) == (
        1, "condiff: cannot read standard input: it is closed; give the name of a file.\n"
    )  # fmt: skip


def make_answer(a, b, left=None):
    lab = np.full((20, 30, 3), (60, a, b), np.float32)
    if left:
        lab[:, :15, 1:] = left
    return lab_to_rgb(lab)


def test_the_spread_is_the_distance_from_the_mean():
    spread = measure_deviation([make_answer(0, 20, (10, 0)), make_answer(0, -20, (10, 0))])
    assert spread.shape == (20, 30)
    assert spread[:, :15].max() < 0.1
    assert np.abs(spread[:, 15:] - 20).max() < 0.5


def test_the_median_is_the_nearest_to_the_mean_and_the_outlier_is_not():
    answers = [make_answer(-10, 5), make_answer(40, 0), make_answer(4, 2)]
    assert (find_median(answers), find_colorful(answers)) == (2, 1)


def test_the_map_grows_brighter_with_the_spread_and_has_a_legend():
    spread = np.linspace(0, 18, 300, dtype=np.float32)[None].repeat(40, 0)
    picture = make_uncertainty_map(spread)
    assert picture.width == 300
    assert picture.height > 40
    L = lightness(np.array(picture)[:40])[20]
    assert (np.diff(L[::30]) > 0).all()
