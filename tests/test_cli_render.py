"""`condiff render` and `condiff eval` of models of drawings: exit codes, streams, files."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage import data

from condiff import Pipeline
from condiff.cli import main
from condiff.cli.render import plan_targets
from condiff.conditions.drawing_cleanup import clean_drawing
from condiff.config import read_config
from condiff.models.denoiser import build_model
from condiff.photos.formats import MAX_SIDE
from condiff.pipelines.cascade import Cascade, Upscaler
from condiff.tasks import find_task

from .conftest import save_tiny

QUICK = ["--steps", "2", "--device", "cpu"]


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


def test_several_drawings_are_rendered_and_one_that_fails_stops_none(run, sketch, tmp_path):
    other, broken = tmp_path / "b.png", tmp_path / "broken.png"
    other.write_bytes(sketch.read_bytes())
    broken.write_bytes(sketch.read_bytes()[:60])
    code, out, err = run(sketch, broken, other, "-o", "made/", "--samples", 2, "--seed", 3)
    assert code == 1 and f"cannot read {broken}" in err and "1 of 3 drawings failed" in err
    made = [f"{stem}.render.{number}.png" for stem in ("sketch", "b") for number in (1, 2)]
    assert out.split() == [f"made/{name}" for name in made]
    sheets = {"sketch.render.sheet.png", "b.render.sheet.png"}
    assert {path.name for path in (tmp_path / "made").iterdir()} == {*made, *sheets}
    one = Path("made", "b.render.1.png").read_bytes()
    assert run(other, "--seed", 3)[0] == 0 and Path("b.render.png").read_bytes() == one
    assert run(sketch, other, "--gif", "way.gif")[0] == run(sketch, other, "-o", "-")[0] == 2


def test_a_picture_of_hints_is_never_written_over(run, sketch, tmp_path):
    strokes = tmp_path / "strokes.png"
    Image.new("RGBA", (96, 64), (200, 0, 0, 255)).save(strokes)
    before = strokes.read_bytes()
    for written in (["-o", strokes], ["--gif", strokes]):
        code, out, err = run(sketch, "--hints", strokes, *written, "--force")
        assert (code, out) == (2, "")
        assert "strokes.png is the picture of hints itself" in " ".join(err.split())
    assert strokes.read_bytes() == before


def test_a_film_does_not_replace_a_picture_under_another_of_its_names(run, sketch, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for film in (tmp_path / "a.webp", "link/a.webp"):
        code, out, err = run(sketch, "-o", "a.webp", "--gif", film, "--force")
        assert (code, out, "would be written twice" in err) == (2, "", True)
    assert names(tmp_path) == ["link", "sketch.png"]


def test_a_picture_lies_beside_the_drawing_and_its_path_is_printed(run, sketch, tmp_path):
    code, out, err = run(sketch, "--seed", 7)
    assert (code, out) == (0, "sketch.render.png\n")
    assert "seed 7, 2 steps of ddim" in err
    with Image.open("sketch.render.png") as image:
        assert (image.size, image.mode, image.format) == ((96, 64), "RGB", "PNG")
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
    code, out, err = run(sketch, "--samples", 3, "--seed", 5)
    expected = [f"sketch.render.{n}.png" for n in (1, 2, 3, "sheet")]
    assert (code, out.splitlines()) == (0, expected[:3])
    assert "contact sheet: sketch.render.sheet.png\n" in err
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
        code, out, _ = run(sketch, "--force", *arguments)
        assert code == 0
        with Image.open(out.strip()) as image:
            return image.size

    assert size() == (96, 64)
    assert size("--size", 80) == (120, 80)
    assert size("--size", 80, "--upscale", "none") == (120, 80)
    assert size("--size", 32, "--upscale", "none") == (48, 32)
    assert size("--upscale", "none") == (48, 32)


def test_without_upscale_the_picture_is_plainly_resampled(run, sketch):
    run(sketch, "--seed", 4, "--upscale", "none")
    with Image.open("sketch.render.png") as image:
        expected = image.resize((150, 100), Image.Resampling.LANCZOS).tobytes()
    run(sketch, "--seed", 4, "--size", 100, "--upscale", "none", "--force")
    with Image.open("sketch.render.png") as image:
        assert image.tobytes() == expected


def test_a_second_stage_enlarges_along_the_lines(run, sketch, upscale_folder, sketch_folder):
    code, out, err = run(
        sketch, "--seed", 4, "--size", 50, "--upscale", upscale_folder, "--samples", 2,
        "--gif", "way.gif",
    )  # fmt: skip
    assert (code, "resampled" in err, "75x50" in err) == (0, False, True)
    alone = Cascade.from_pretrained(sketch_folder, device="cpu", upscale="none")
    config = alone.sampling.override({"steps": 2})
    with Image.open(sketch) as image:
        drawing = clean_drawing(np.array(image.convert("RGB")))
    upscaler = Upscaler.from_pretrained(upscale_folder)
    for number, name in enumerate(out.split()[:2], start=4):
        (small,) = alone(drawing, seed=number, config=config)
        expected = upscaler(small, drawing, size=50, seed=number)
        with Image.open(name) as image:
            assert image.size == (75, 50)
            assert image.tobytes() == expected.tobytes()
    with Image.open("way.gif") as film:
        assert (film.size, film.n_frames) == ((75, 50), 4)  # noise, two steps, the second stage
        film.seek(3)
        last = np.asarray(film.convert("RGB"), float)
    with Image.open(out.split()[0]) as image:
        assert np.abs(last - np.asarray(image, float)).mean() < 25  # 256 colours, dithered


def test_what_cannot_enlarge_is_one_sentence(
    run, sketch, sketch_folder, upscale_folder, none_folder
):
    def error_of(*arguments, **changed):
        code, out, err = run(*arguments, **changed)
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    assert "does not enlarge" in error_of(sketch, "--size", 50, "--upscale", sketch_folder)
    assert "no model no-such" in error_of(sketch, "--size", 50, "--upscale", "no-such")
    assert "give it with --upscale" in error_of(sketch, model=upscale_folder)
    assert "--upscale none" in error_of(
        "--size", 50, "--upscale", upscale_folder, model=none_folder
    )
    code, _, err = run("--size", 50, model=none_folder)
    assert (code, "there are no lines: resampled plainly" in err) == (0, True)
    code, _, err = run(sketch, "--size", 32, "--upscale", upscale_folder)
    assert (code, "sketch samples at 32: nothing is enlarged" in err) == (0, True)


def test_size_is_the_pictures_also_where_the_model_sees_more(run, sketch, tmp_path):
    """Conditions at 64, samples at 32."""
    folded = save_tiny(tmp_path, "sketch", fold=2)
    for arguments, expected in (
        ((), (96, 64)),  # its own size
        (("--upscale", "none"), (96, 64)),  # the model's input size
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
    code, out, err = run(sketch, "--gif", "way.gif", "--seed", 2, "--json")
    assert code == 0
    record = {"source": "sketch.png", "target": "sketch.render.png", "seed": 2}
    assert list(map(json.loads, out.splitlines())) == [record]  # as of `colorize`
    assert "film: way.gif\n" in err
    with Image.open("way.gif") as image:
        assert (image.n_frames, image.size) == (3, (96, 64))
    filmed = Path("sketch.render.png").read_bytes()
    run(sketch, "--seed", 2, "--force")
    assert Path("sketch.render.png").read_bytes() == filmed
    code, _, err = run(sketch, "--gif", "way.txt", "--force")
    assert code == 2
    assert ".gif" in err


@pytest.mark.slow
def test_pipes(sketch_folder, sketch, tmp_path):
    command = [sys.executable, "-m", "condiff", "render", "-", "-o", "-", "-m", sketch_folder]
    given = (tmp_path / sketch).read_bytes()
    done = subprocess.run([*command, *QUICK], input=given, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert (image.size, image.format) == ((96, 64), "PNG")


def test_what_was_done_is_said_and_quiet_is_quiet(run, sketch):
    with Image.open(sketch) as image:
        Image.eval(image, lambda tone: 255 - tone).save("chalk.png")
    assert "chalk.png: light lines on dark inverted" in run("chalk.png", "--seed", 1)[2]
    run(sketch, "--seed", 1)
    assert Path("chalk.render.png").read_bytes() == Path("sketch.render.png").read_bytes()
    assert run("chalk.png", "-q", "--force")[2] == ""


def test_the_sheet_of_a_tall_drawing_is_no_wider_than_it_needs(run, tmp_path):
    Image.new("L", (30, 90), "white").save("tall.png")
    assert run("tall.png", "--samples", 2, "--seed", 1)[0] == 0
    with Image.open("tall.render.1.png") as image:
        assert image.size == (30, 90)
    with Image.open("tall.render.sheet.png") as sheet:
        assert sheet.size == (3 * 86 + 2, 128 + 20 + 2)  # 84 pixels for a caption


def test_neither_the_drawing_nor_a_picture_is_written_over(run, sketch, capsys):
    before = sketch.read_bytes()
    assert run(sketch, "-o", sketch, "--force")[0] == 2
    assert run("./sketch.png", "-o", sketch.absolute(), "--force")[0] == 2
    assert run(sketch, "-o", "way.webp", "--gif", "./way.webp")[0] == 2
    assert run(sketch, "-o", "way.webp", "--samples", 2, "--gif", "way.sheet.webp")[0] == 2
    assert sketch.read_bytes() == before


def test_a_dry_run_names_standard_output_once():
    assert plan_targets("-", "-", 1, None).paths() == [None]
    assert plan_targets("-", "-", 1, Path("way.gif")).paths() == [None, Path("way.gif")]


def test_a_drawing_of_standard_input_is_named_sample_in_a_folder():
    targets = plan_targets("-", ".", 2, None)
    assert [str(path) for path in targets.pictures] == [
        "sample.render.1.png",
        "sample.render.2.png",
    ]


def test_a_black_page_is_blank(run):
    Image.new("RGB", (50, 40)).save("night.png")
    code, _, err = run("night.png")
    assert code == 0
    assert "the page is blank" in err


def test_a_photo_is_one_sentence_and_goes_as_is(run, tmp_path):
    Image.fromarray(data.astronaut()).save("photo.jpg")
    code, out, err = run("photo.jpg")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "condiff condition PHOTO --kind sketch" in err
    assert "--as-is" in err
    assert names(tmp_path) == ["photo.jpg"]
    assert run("photo.jpg", "--as-is")[0] == 0


def test_a_model_of_nothing_takes_nothing(run, sketch, none_folder):
    code, out, _ = run("--samples", 2, model=none_folder)
    assert (code, out.split()) == (0, ["sample.1.png", "sample.2.png"])
    with Image.open("sample.1.png") as image:
        assert image.size == (32, 32)
    code, _, err = run(sketch, model=none_folder)
    assert (code, err.count("\n")) == (2, 1)
    assert "unconditional" in err


def test_wrong_models_are_one_sentence(run, sketch, tiny_folder):
    for model, message in ((tiny_folder, "condiff colorize"), ("no-such", "There is no model")):
        code, out, err = run(sketch, model=model)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    code, _, err = run("-o", "x.png")
    assert code == 2
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


def test_strict_refuses_a_drawing_that_is_cut_short(run, sketch):
    with Image.open(sketch) as image:
        image.save("scan.jpg")
    scan = Path("scan.jpg")
    scan.write_bytes(scan.read_bytes()[:-2])
    code, out, err = run(scan, "--strict")
    assert (code, out) == (1, "") and "lacks the last bytes" in err and err.count("\n") == 1
    code, _, err = run(scan)
    assert code == 0 and "scan.jpg: its file lacks the last bytes" in err


def test_a_picture_that_its_format_cannot_hold_is_refused_before_it_is_made(
    run, sketch, monkeypatch
):
    monkeypatch.setitem(MAX_SIDE, "WEBP", 40)  # no picture is longer than WebP's own limit
    steps = ["--steps", "1000", "--device", "cpu"]  # which nobody would wait for
    code, out, err = run(sketch, "-o", "a.webp", quick=steps)
    assert (code, out) == (1, "") and "this picture is 96 by 64; use .png or .tif" in err
    assert not Path("a.webp").exists()


def test_the_note_in_a_picture_has_its_hints_and_its_missing_lines(run, sketch):
    hint = "0.5,0.5,#c05030"
    assert run(sketch, "--seed", 1, "--hint", hint, "--no-keep-lines")[0] == 0
    with Image.open("sketch.render.png") as image:
        noted = str(image.info)
    assert hint in noted and "keep_lines" in noted
    assert run(sketch, "--seed", 1, "--force")[0] == 0
    with Image.open("sketch.render.png") as image:
        assert "keep_lines" not in str(image.info)
