"""Inputs and spaces: training and sampling convert a photo in the same way."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from condiff.cli import main
from condiff.conditions.table import apply, to_ink
from condiff.errors import DataError
from condiff.inputs import Aligned, Lightness, Lines, View
from condiff.models.info import read_model_info
from condiff.photos.photo import Photo
from condiff.spaces import SPACES
from condiff.tasks import TASKS, find_task

from .conftest import make_photo

TINY = {
    "max_train_steps": 2, "sample_steps": 2, "train_batch_size": 2,
    "model": {
        "sample_size": 16, "backbone_variant": None, "fold": 2, "block_out_channels": [8, 16],
        "norm_num_groups": 4, "attention_head_dim": 8,
    },
    "data": {"size": 32, "conditions": "prepared"},
    "sampling": {"steps": 2},
}  # fmt: skip


def view_of(pixels: np.ndarray, **stored: np.ndarray) -> View:
    return View(pixels, tuple(stored), stored.__getitem__)


def test_lightness_is_the_same_from_a_view_and_from_a_users_photo():
    pixels = np.asarray(make_photo(64, 64))
    trained = Lightness().from_photo(view_of(pixels), 64, np.random.default_rng(0))
    given = Lightness().open(Image.fromarray(pixels)).to_condition(64, 4)
    assert np.allclose(trained, given, atol=0.01)  # by the table of 16 bits, and exactly


def test_lines_are_the_same_from_a_view_and_from_a_users_drawing():
    pixels = np.asarray(make_photo(64, 64))
    lines = Lines(draws=("canny",), augments=False)
    ink = to_ink(apply("canny", pixels), ink="light")
    trained = lines.from_photo(view_of(pixels, canny=ink), 64, np.random.default_rng(0))
    given = lines.open(Image.fromarray(255 - ink[..., 0]), as_is=True).to_condition(64, 4)
    assert np.array_equal(trained, given)


def test_an_aligned_picture_is_taken_for_what_it_is():
    depth = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))[..., None]
    view = view_of(np.asarray(make_photo(64, 64)), depth=depth)
    grey = Aligned(channels=1, draws=("depth",))
    trained = grey.from_photo(view, 64, np.random.default_rng(0))
    for picture in (Image.fromarray(depth[..., 0]), Photo(depth.repeat(3, axis=2))):
        assert np.array_equal(grey.open(picture).to_condition(64, 4), trained)
    assert trained.min() == -1 and trained.max() > 0.95  # neither cleaned nor inverted
    assert Aligned().open(Image.fromarray(depth[..., 0])).to_condition(64, 4).shape == (64, 64, 3)


def test_pairs_are_asked_for_where_nothing_can_be_drawn():
    with pytest.raises(DataError, match="learns from pairs"):
        Aligned().from_photo(view_of(np.zeros((8, 8, 3), np.uint8)), 8, np.random.default_rng(0))


@pytest.mark.parametrize("name", SPACES)
def test_a_space_decodes_what_it_encodes(name):
    pixels, space = np.asarray(make_photo(32, 32)), SPACES[name]
    again = space.decode(space.encode(pixels, 32), pixels if space.keeps_photo else None)
    assert np.abs(again.astype(int) - pixels).max() <= 2


def test_every_task_is_a_row_of_spaces_and_inputs():
    for name, row in TASKS.items():
        assert row.name == name and row.does
        assert row.space in SPACES.values()
        assert row.condition_channels == sum(
            i.channels for i in row.inputs if i.enters == "picture"
        )


def write_pairs(folder, column: str) -> None:
    """Twelve photos and aligned pictures of them, as a prepared data set."""

    def encoded(image: Image.Image, name: str) -> dict[str, object]:
        file = io.BytesIO()
        image.save(file, "PNG")
        return {"bytes": file.getvalue(), "path": name}

    photos = [make_photo(40, 36, seed=i) for i in range(12)]
    rows = {
        "image": [encoded(photo, f"{i}.png") for i, photo in enumerate(photos)],
        column: [encoded(photo.convert("L"), f"{i}.map.png") for i, photo in enumerate(photos)],
    }
    folder.mkdir()
    pq.write_table(pa.table(rows), folder / "train-00000.parquet")


@pytest.mark.parametrize(
    ("task", "column"), [("depth", "conditioning_depth"), ("restyle", "conditioning_image")]
)
def test_a_task_of_pairs_trains_and_renders(task, column, tmp_path, capsys):
    write_pairs(tmp_path / "data", column)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY), "utf-8")
    run = tmp_path / "run"
    line = ["train", "--task", task, "--config", str(tmp_path / "tiny.yaml")]
    line += ["--data", str(tmp_path / "data"), "-o", str(run)]
    assert main([*line, "-n"]) == 0, capsys.readouterr().err
    assert main(line) == 0, capsys.readouterr().err
    index = json.loads((run / "model" / "model_index.json").read_text("utf-8"))
    assert index["task"] == task and index["sampling"]["steps"] == 2
    assert read_model_info(run / "model").task is find_task(task)
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (60, 1))
    Image.fromarray(ramp).save(tmp_path / "depth.png")
    capsys.readouterr()
    assert main(["render", str(tmp_path / "depth.png"), "-m", str(run / "model")]) == 0
    out, err = capsys.readouterr()
    assert out.strip().endswith("depth.render.png")
    assert "flattened" not in err and "inverted" not in err  # it is no drawing to be cleaned
