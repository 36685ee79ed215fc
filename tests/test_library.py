"""The public names as a user of the library meets them: kinds of arguments, completion, repr."""

import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from condiff import Cascade, ColorEdits, Hint, Pipeline, read_photo, write_photo
from condiff.errors import ConfigError, ImageError

from .conftest import make_photo


@pytest.fixture
def photo(tmp_path):
    make_photo(31, 20).save(tmp_path / "a.png")
    return read_photo(str(tmp_path / "a.png"))


def test_a_photo_is_written_to_a_path_of_any_kind_and_to_an_open_file(photo, tmp_path):
    write_photo(photo, str(tmp_path / "b.png"))
    write_photo(photo, tmp_path / "c.png")
    stream = io.BytesIO()
    write_photo(photo, stream)
    for written in (str(tmp_path / "b.png"), tmp_path / "c.png", stream.getvalue()):
        assert (read_photo(written).pixels == photo.pixels).all()
    with pytest.raises(ImageError, match="already exists"):
        write_photo(photo, str(tmp_path / "b.png"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"hints": "strokes.png"}, "not str"),
        ({"hints": [(0.5, 0.5, "red")]}, "not tuple"),
        ({"mask": np.zeros((20, 31), np.uint8)}, "not ndarray"),
        ({"mask": "mask.png"}, "not str"),
    ],
)
def test_edits_of_another_kind_are_refused_when_they_are_made(given, told):
    with pytest.raises(ConfigError, match=told):
        ColorEdits(**given)


@pytest.mark.parametrize(
    "point", [(0.5, 1, "red"), ("0.5", 0.5, "red"), (True, 1, "red"), (1, 1, "nocolour"),
              (1, 1, (200, 0, 0))],
)  # fmt: skip
def test_a_hint_that_is_none_is_refused_when_it_is_made(point):
    with pytest.raises(ConfigError):
        Hint(*point)


def test_a_hint_takes_the_numbers_of_numpy():
    assert Hint(np.int64(3), np.uint8(4), "red") == Hint(3, 4, "red")
    assert Hint(np.float32(0.5), np.float64(0.25), "red") == Hint(0.5, 0.25, "red")


def test_arguments_out_of_range_are_refused_before_the_work(photo, tmp_path, sketch_folder):
    with pytest.raises(ConfigError, match="quality is from 1 to 100"):
        write_photo(photo, tmp_path / "b.jpg", quality=500)
    with pytest.raises(ConfigError, match="Pages are counted from 1"):
        read_photo(tmp_path / "a.png", page=0)
    with pytest.raises(ImageError, match="give a Photo"):
        write_photo(Image.new("RGB", (3, 3)), tmp_path / "b.png")
    with pytest.raises(ImageError, match="cannot read NoneType"):
        read_photo(None)
    with pytest.raises(ConfigError, match="threads are at least 1"):
        Pipeline.from_pretrained(sketch_folder, device="cpu", threads=0)
    with pytest.raises(ConfigError, match="size is at least 1"):
        Cascade.from_pretrained(sketch_folder, device="cpu", size=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_photos_hints_and_edits_go_to_another_process(photo):
    edits = ColorEdits(hints=[Hint(0.5, 0.25, "teal")], saturation=1.2)
    assert pickle.loads(pickle.dumps(edits)) == edits
    assert (pickle.loads(pickle.dumps(photo)).pixels == photo.pixels).all()


def test_a_photo_is_one_line_in_a_notebook(photo):
    assert repr(photo) == "<Photo 31x20, 8 bits, PNG, info {}>"


def test_completion_lists_the_public_names_without_importing_them():
    program = (
        "import sys, condiff; assert set(condiff.__all__) <= set(dir(condiff));"
        "sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
