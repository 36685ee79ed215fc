"""The cascade from Python: a model samples at a small size, a second one enlarges."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from condiff import ColorEdits, Hint, Pipeline
from condiff.conditions.drawing_cleanup import clean_drawing
from condiff.config import SamplingConfig
from condiff.errors import ConfigError, ModelError
from condiff.pipelines.cascade import Cascade, Upscaler

from .conftest import make_photo, save_tiny

QUICK = {"steps": 2, "guidance_scale": 2.0}
CONFIG = SamplingConfig(**QUICK)


@pytest.fixture
def sketch():
    """A drawing of 96x64 pixels, black on white."""
    image = Image.new("RGB", (96, 64), "white")
    ImageDraw.Draw(image).ellipse((20, 10, 70, 50), outline="black", width=2)
    return image


def test_a_picture_is_the_pipelines_enlarged(sketch, sketch_folder, upscale_folder):
    cascade = Cascade.from_pretrained(sketch_folder, size=50, upscale=str(upscale_folder))
    first, second = cascade(sketch, samples=2, seed=3, config=CONFIG)
    drawing = clean_drawing(np.array(sketch))
    alone = Cascade.from_pretrained(sketch_folder, upscale="none")
    upscaler = Upscaler.from_pretrained(upscale_folder)
    for seed, picture in ((3, first), (4, second)):
        (small,) = alone(sketch, seed=seed, config=CONFIG)
        assert small.size == (48, 32)
        expected = upscaler(small, drawing, size=50, seed=seed)
        assert picture.size == (75, 50)
        assert picture.tobytes() == expected.tobytes()
        assert picture.info["seed"] == seed
    opened = cascade.open(drawing)
    encoded = cascade.encode(opened, config=CONFIG)
    *way, last = cascade.frames(opened, seed=3, config=CONFIG, encoded=encoded)
    assert [frame.size for frame in way] == [(48, 32)] * 3
    assert last.tobytes() == first.tobytes()


def test_a_drawing_is_encoded_once_whatever_the_number_of_samples(sketch, sketch_folder):
    cascade = Cascade.from_pretrained(sketch_folder, size=50, device="cpu", engine="torch")
    runs = []
    cascade.pipeline.backend.model.encoder.register_forward_hook(lambda *_: runs.append(1))
    pictures = cascade(sketch, samples=3, seed=3, config=CONFIG.override({"guidance_scale": 1.0}))
    assert len(pictures) == 3 and len(runs) == 1


def test_at_its_own_size_and_below_the_model_draws_alone(sketch, tmp_path):
    folder = save_tiny(tmp_path, "sketch", fold=2)  # sees 64, draws 32
    pipeline = Pipeline.from_pretrained(folder)
    for size, seen in ((32, None), (20, 40)):
        cascade = Cascade.from_pretrained(folder, size=size, upscale="none")
        (picture,) = cascade(sketch, seed=1, config=CONFIG)
        config = CONFIG.override({"size": seen})
        encoded = replace(pipeline.encode(sketch, config=config), source=None, flat=None)
        *_, x_0 = pipeline.sample(encoded, config=config, seed=1)
        assert np.array_equal(np.asarray(picture), pipeline.decode(x_0, encoded))


def test_along_the_lines_a_picture_has_the_drawings_size_or_the_size_asked_for(
    sketch, sketch_folder
):
    (own,) = Cascade.from_pretrained(sketch_folder)(sketch, seed=1, config=CONFIG)
    (same,) = Pipeline.from_pretrained(sketch_folder)(sketch, seed=1, **QUICK)
    assert own.size == (96, 64)
    assert own.tobytes() == same.tobytes()
    (large,) = Cascade.from_pretrained(sketch_folder, size=200)(sketch, seed=1, config=CONFIG)
    assert large.size == (300, 200)
    assert Cascade.from_pretrained(sketch_folder).fit((4096, 1024)) == (2048, 512)
    assert Cascade.from_pretrained(sketch_folder, size=1500).fit((96, 64)) == (2250, 1500)
    shrunk = np.asarray(large.resize(own.size, Image.Resampling.BOX), float)
    assert np.abs(shrunk - np.asarray(own, float)).mean() < 12


def test_lines_are_drawn_over_the_colours_unless_asked_otherwise(sketch, sketch_folder):
    cascade = Cascade.from_pretrained(sketch_folder)
    kept, bare = (
        np.asarray(cascade(sketch, seed=1, config=CONFIG, edits=ColorEdits(keep_lines=keep))[0])
        for keep in (True, False)
    )
    ink = np.asarray(sketch.convert("L")) == 0
    assert kept[ink].max() == 0
    assert bare[ink].mean() > 30
    assert np.array_equal(kept[~ink], bare[~ink])


def test_a_hint_gives_a_drawing_its_colour(sketch, tmp_path):
    folder = save_tiny(tmp_path, "sketch", fold=2)
    pipeline = Pipeline.from_pretrained(folder)
    red, blue, none = (
        np.asarray(pipeline(sketch, seed=1, edits=ColorEdits(hints=hints), **QUICK)[0], float)
        for hints in ([Hint(0.5, 0.5, "red")], [Hint(0.5, 0.5, "blue")], [])
    )
    assert np.abs(red - blue).max() > 0 and np.abs(red - none).max() > 0  # it is not trained
    with pytest.raises(ConfigError, match="takes no saturation"):
        pipeline(sketch, edits=ColorEdits(saturation=2.0))


def test_auto_takes_the_second_stage_that_the_model_names(sketch, tmp_path, upscale_folder):
    folder = save_tiny(tmp_path, "sketch", fold=2)
    unnamed = Cascade.from_pretrained(folder)
    assert (unnamed.size, unnamed.upscaler, unnamed.along_lines) == (None, None, True)
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    changed = {**index, "second_stage": str(upscale_folder)}
    (folder / "model_index.json").write_text(json.dumps(changed), "utf-8")
    named = Cascade.from_pretrained(folder)
    assert (named.size, named.remark) == (64, "")
    given = Cascade.from_pretrained(folder, upscale=str(upscale_folder))
    one, two = (cascade(sketch, seed=1, config=CONFIG)[0] for cascade in (named, given))
    assert one.tobytes() == two.tobytes()
    assert Cascade.from_pretrained(folder, upscale="none").upscaler is None


def test_engine_and_threads_are_the_second_stages_too(sketch_folder, upscale_folder):
    cascade = Cascade.from_pretrained(
        sketch_folder, size=50, upscale=str(upscale_folder), device="cpu", threads=2
    )
    assert (cascade.pipeline.backend.threads, cascade.upscaler.backend.threads) == (2, 2)
    pipeline = Pipeline.from_pretrained(sketch_folder, device="cpu")
    with pytest.raises(ModelError, match="condiff export"):  # it has no graphs
        Cascade.behind(pipeline, size=50, upscale=str(upscale_folder), engine="onnx")


def test_without_condition_pictures_are_resampled(none_folder):
    cascade = Cascade.from_pretrained(none_folder, size=48)
    (picture,) = cascade(seed=2, config=SamplingConfig(steps=1))
    (small,) = Pipeline.from_pretrained(none_folder)(seed=2, steps=1)
    assert "there are no lines" in cascade.remark
    assert picture.tobytes() == small.resize((48, 48), Image.Resampling.LANCZOS).tobytes()


def test_what_is_no_first_stage_is_told(tiny_folder, upscale_folder, sketch_folder):
    with pytest.raises(ConfigError, match="colours photos"):
        Cascade.from_pretrained(tiny_folder)
    with pytest.raises(ConfigError, match="enlarges pictures"):
        Cascade.from_pretrained(upscale_folder)
    with pytest.raises(ConfigError, match="samples are at least 1"):
        Cascade.from_pretrained(sketch_folder)(samples=0)


def test_the_contact_sheet_shows_lines_samples_and_truth(sketch_folder, tmp_path, monkeypatch):
    """examples/contact_sheet.py, as docs/guide/render.md gives it."""
    for number in range(3):
        make_photo(64, 64, seed=number).save(tmp_path / f"{number}.png")
    script = Path(__file__).parents[1] / "examples" / "contact_sheet.py"
    options = ["--count", "3", "--across", "2", "--samples", "3", "--steps", "2"]
    sheet = tmp_path / "out" / "sheet.png"
    sheet.parent.mkdir()
    words = [str(script), str(sketch_folder), str(tmp_path), str(sheet), *options]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(script), run_name="__main__")
    with Image.open(sheet) as image:
        assert image.size == (2 * 5 * 34 + 2, 2 * 34 + 2)
        cells = [image.crop((2 + 34 * n, 2, 34 + 34 * n, 34)) for n in range(10)]
    lines = np.asarray(cells[0].convert("L"))
    assert np.mean(lines > 200) > 0.5  # dark on white
    assert len({cell.tobytes() for cell in cells[:5]}) == 5
    for cell, number in ((cells[4], 0), (cells[9], 1)):
        truth = make_photo(64, 64, seed=number).resize((32, 32), Image.Resampling.LANCZOS)
        assert cell.tobytes() == truth.tobytes()
