"""The public names for users of the library: types of arguments, completion, repr."""

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from condiff import (
    Cascade,
    ColorEdits,
    CondiffError,
    Hint,
    Pipeline,
    SamplingConfig,
    colorize_film,
    colorize_folder,
    read_photo,
    train,
    write_photo,
)
from condiff.batch.colorize import BatchOptions
from condiff.batch.plan import Choice
from condiff.conditions.drawing_cleanup import Drawing
from condiff.config import TrainConfig
from condiff.errors import ConfigError, ImageError, UnknownModelError
from condiff.photos.photo import Photo
from condiff.photos.reading import as_photo, read_image
from condiff.video.jobs import FilmOptions

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
    ("given", "message"),
    [
        ({"hints": "strokes.png"}, "not str"),
        ({"hints": [(0.5, 0.5, "red")]}, "not tuple"),
        ({"mask": np.zeros((20, 31), np.uint8)}, "not ndarray"),
        ({"mask": "mask.png"}, "not str"),
        ({"saturation": "a"}, "saturation is a number, not 'a'"),
        ({"saturation": True}, "not True"),
        ({"temperature": None}, "not None"),
        ({"flat": "a"}, "flat is a number"),
        ({"background": 5}, "background is a text, not 5"),
        ({"background": "nocolour"}, "background 'nocolour' is not a colour"),
        ({"invert": "no"}, "invert is True or False, not 'no'"),
        ({"as_is": None}, "as_is is True or False, not None"),
        ({"palette": [1, 2]}, "palette 1,2 has"),
        ({"palette": []}, "no colour in it"),
        ({"album": 5}, "not int"),
    ],
)
def test_edits_of_another_kind_are_refused_when_they_are_made(given, message):
    with pytest.raises(ConfigError, match=message):
        ColorEdits(**given)


@pytest.mark.parametrize(
    "point", [(0.5, 1, "red"), ("0.5", 0.5, "red"), (True, 1, "red"), (1, 1, "nocolour"),
              (1, 1, (200, 0, 0)), (float("nan"), 0.5, "red"), (0.5, float("inf"), "red")],
)  # fmt: skip
def test_a_hint_that_is_none_is_refused_when_it_is_made(point):
    with pytest.raises(ConfigError):
        Hint(*point)


def test_a_hint_takes_the_numbers_of_numpy():
    assert Hint(np.int64(3), np.uint8(4), "red") == Hint(3, 4, "red")
    assert Hint(np.float32(0.5), np.float64(0.25), "red") == Hint(0.5, 0.25, "red")


def test_arguments_out_of_range_are_refused_before_the_work(photo, tmp_path, sketch_folder):
    with pytest.raises(ConfigError, match="quality must be from 1 to 100"):
        write_photo(photo, tmp_path / "b.jpg", quality=500)
    with pytest.raises(ConfigError, match="Pages are counted from 1"):
        read_photo(tmp_path / "a.png", page=0)
    with pytest.raises(ImageError, match="give a Photo"):
        write_photo(Image.new("RGB", (3, 3)), tmp_path / "b.png")
    with pytest.raises(ImageError, match="cannot read NoneType"):
        read_photo(None)
    for threads in (0, 10**9):  # so many ended in a MemoryError
        with pytest.raises(ConfigError, match="threads is from 1 to 256"):
            Pipeline.from_pretrained(sketch_folder, device="cpu", threads=threads)
    with pytest.raises(ConfigError, match="size is at least 1"):
        Cascade.from_pretrained(sketch_folder, device="cpu", size=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps: must be greater than or equal to 1, not 0."),
        ({"steps": "many"}, "steps: must be a valid integer"),
        ({"scheduler": "foo"}, "scheduler: must be ddim, "),
        ({"stepps": 4}, "There is no sampling setting stepps."),
    ],
)
def test_a_wrong_setting_of_sampling_is_one_sentence(values, message):
    with pytest.raises(ConfigError) as caught:
        SamplingConfig(**values)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_section_of_a_file_keeps_the_place_of_its_fault():
    with pytest.raises(ConfigError, match=r"^sampling\.steps: "):
        TrainConfig(max_train_steps=1, sampling={"steps": 0})
    with pytest.raises(ConfigError, match="^TrainConfig: a run needs an end"):
        TrainConfig()


def test_arguments_of_another_kind_are_one_sentence(photo, tiny_folder, sketch_folder, tmp_path):
    colorize = Pipeline.from_pretrained(tiny_folder, device="cpu", engine="torch")
    draw = Cascade.from_pretrained(sketch_folder, device="cpu", engine="torch")
    with open(tmp_path / "a.png", "rb") as closed:
        pass
    calls = [
        *(lambda s=s: colorize(photo, seed=s) for s in (1.5, "a", True, -1, np.float64(3))),
        *(lambda s=s: colorize(photo, samples=s) for s in (1.5, "a", 0)),
        *(lambda e=e: colorize(photo, edits=e) for e in ({}, None)),
        *(lambda e=e: colorize(photo, edits=ColorEdits(**e)) for e in DRAWN),
        lambda: list(colorize.run(photo, config={"steps": 1})),
        lambda: colorize.measure(photo, seed=1.5),
        lambda: draw(seed=1.5),
        lambda: draw(samples="a"),
        lambda: draw(edits={}),
        lambda: Cascade.behind(draw.pipeline, size="a"),
        lambda: list(colorize.frames(photo, config={}, seed=1)),
        lambda: colorize.sample(photo, seed=1),
        lambda: Pipeline.from_pretrained(tiny_folder, device=5),
        lambda: Pipeline.from_pretrained(tiny_folder, device="cpu", threads=1.5),
        lambda: Pipeline.from_pretrained(5),
        lambda: colorize(closed),
        lambda: read_photo(tmp_path / "a.png", page="a"),
        lambda: read_photo(tmp_path / "a.png", max_pixels="a"),
        *(lambda t=t: write_photo(photo, t) for t in (5, None, [])),
        lambda: write_photo(photo, tmp_path / "b.jpg", quality="a"),
        lambda: write_photo(photo, tmp_path / "b.jpg", format=5),
        lambda: colorize_folder(tmp_path, None),
        lambda: colorize_folder(tmp_path, tmp_path / "out", {}),
        lambda: colorize_folder(tmp_path, tmp_path),
        lambda: colorize_film(tmp_path, None),
        lambda: colorize_film(tmp_path / "a.mp4", tmp_path / "b.mp4", {}),
        lambda: train({}, tmp_path, tmp_path / "run"),
        lambda: train(TrainConfig(max_train_steps=1), 5, tmp_path / "run"),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(CondiffError) as caught:
            call()
        assert "\n" not in str(caught.value), number
    with pytest.raises(UnknownModelError, match="There is no model"):
        Pipeline.from_pretrained("a" * 5000)
    with pytest.raises(ImageError, match="there is no format FOO"):
        write_photo(photo, tmp_path / "b.jpg", format="foo")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1}, {"seed": 1.5}, {"quality": 500}, {"page": "a"}, {"max_pixels": 0},
        {"workers": 0}, {"suffix": "foo"}, {"edits": 5}, {"choice": ["*.png"]}, {"overrides": []},
        {"hints": 5}, {"masks": 5}, {"model": 5}, {"look": 5}, {"device": 5}, {"engine": None},
        {"edits": ColorEdits(hints=[Hint(1, 2, "red")])}, {"edits": ColorEdits(flat=0.5)},
        {"album": "no"}, {"provenance": 1}, {"overrides": {5: 3}}, {"overrides": {"steps": 0}},
    ],
)  # fmt: skip
def test_wrong_options_of_a_batch_are_refused_when_they_are_made(wrong):
    with pytest.raises(ConfigError):
        BatchOptions(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1}, {"every": 0}, {"every": 1.5}, {"crf": 64}, {"threads": 0}, {"edits": 5},
        {"overrides": []}, {"deinterlace": "always"}, {"hint_shots": (0,)}, {"hint_shots": 1},
        {"edits": ColorEdits(invert=True)}, {"edits": ColorEdits(background="white")},
        {"model": None}, {"codec": 5}, {"force": "no"}, {"skip": "audio"}, {"skip": ("video",)},
    ],
)  # fmt: skip
def test_wrong_options_of_a_film_are_refused_when_they_are_made(wrong):
    with pytest.raises(ConfigError):
        FilmOptions(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"include": "*.jpg"}, {"exclude": "a"}, {"shard": 2}, {"shard": (3, 2)}]
)
def test_a_wrong_choice_of_photos_is_refused_when_it_is_made(wrong):
    with pytest.raises(ConfigError):
        Choice(**wrong)


def test_settings_in_numpys_types_are_those_of_python(tmp_path, tiny_folder):
    make_photo(31, 20).save(tmp_path / "a.png")
    numbers = {
        "edits": ColorEdits(saturation=np.float32(1.5), temperature=np.int64(5)),
        "overrides": {"steps": np.int64(2), "variety": np.float32(0.5), "size": 32},
    }
    options = BatchOptions(model=tiny_folder, quality=np.int64(90), seed=1, **numbers)
    (result,) = colorize_folder(tmp_path, tmp_path.with_suffix(".out"), options)
    assert result.outcome == "done"
    plain = BatchOptions(
        model=tiny_folder, quality=90, seed=1, edits=ColorEdits(saturation=1.5, temperature=5),
        overrides={"steps": "2", "variety": 0.5, "size": 32, "scheduler": None},
    )  # fmt: skip
    assert options.asked() == plain.asked()
    film = FilmOptions(every=np.int64(2), crf=np.int64(20), hint_shots=[np.int64(1)], **numbers)
    assert json.loads(json.dumps([film.every, film.crf, film.hint_shots])) == [2, 20, [1]]


def test_edits_do_not_change_with_the_list_that_they_were_made_from():
    hints = [Hint(0.5, 0.25, "teal")]
    edits = ColorEdits(hints=hints)
    hints.clear()
    assert edits == ColorEdits(hints=(Hint(0.5, 0.25, "teal"),)) and len({edits}) == 1


def test_folders_of_a_batch_are_paths_of_any_kind():
    assert BatchOptions(hints="strokes", masks="masks").hints == Path("strokes")


def test_photos_hints_and_edits_go_to_another_process(photo):
    edits = ColorEdits(hints=[Hint(0.5, 0.25, "teal")], saturation=1.2)
    assert pickle.loads(pickle.dumps(edits)) == edits
    assert (pickle.loads(pickle.dumps(photo)).pixels == photo.pixels).all()


def test_a_photo_is_one_line_in_a_notebook(photo):
    assert repr(photo) == "<Photo 31x20, 8 bits, PNG, info {}>"


DRAWN = ({"keep_lines": False}, {"flat": 0.5})  # edits of drawings only
GREY = np.full((20, 31, 3), 99, np.uint8)


@pytest.mark.parametrize(
    ("pixels", "alpha", "message"),
    [
        (GREY / 255, None, r"uint8 or uint16, not \(20, 31, 3\) of float64"),
        (GREY.astype(">u2"), None, "not .* of >u2"),
        (GREY[..., 0], None, r"not \(20, 31\) of uint8"),
        (GREY[:0], None, r"not \(0, 31, 3\)"),
        ("a.png", None, "not str"),
        (GREY, GREY, r"its height, width and type, not \(20, 31, 3\) of uint8"),
        (GREY, GREY[..., 0].astype(np.uint16), "not .* of uint16"),
        (GREY, "a.png", "not str"),
    ],
)
def test_a_photo_of_other_arrays_is_refused_when_it_is_made(pixels, alpha, message):
    with pytest.raises(ImageError, match=message):  # floats were written as a black picture
        Photo(pixels, alpha)


@pytest.mark.parametrize("ink", [GREY, GREY[..., 0] / 255, GREY[:0, :, 0], Image.new("L", (9, 9))])
def test_a_drawing_of_other_ink_is_refused_when_it_is_made(ink):
    with pytest.raises(ImageError, match=r"ink is \(H,W\) of uint8"):
        Drawing(ink)


def test_a_mask_and_hints_are_read_as_the_command_line_reads_their_files(tmp_path):
    levels = np.linspace(0, 65_535, 31 * 20).reshape(20, 31).astype(np.uint16)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(levels).save(tmp_path / "deep.png")
    make_photo(31, 20).save(tmp_path / "turned.png", exif=turned)
    Image.new("RGBA", (31, 20), (200, 0, 0, 99)).save(tmp_path / "strokes.png", exif=turned)
    for name in ("deep.png", "turned.png"):
        asked = ColorEdits(mask=read_image(tmp_path / name))
        with Image.open(tmp_path / name) as opened:
            edits = ColorEdits(mask=opened)
        assert edits.mask_digest == asked.mask_digest, name
        assert edits.mask.size == ((31, 20) if name == "deep.png" else (20, 31))
    with Image.open(tmp_path / "strokes.png") as opened:
        assert ColorEdits(hints=opened).hints.size == (20, 31)


def test_an_array_of_a_subclass_is_a_photo():
    plane = GREY[..., 0]
    for array in (plane.view(np.matrix), np.ma.array(plane, mask=plane > 0)):
        assert type(as_photo(array).pixels) is np.ndarray and (as_photo(array).pixels == 99).all()


def test_photos_and_drawings_can_be_compared_and_counted():
    for make in (lambda: Photo(GREY), lambda: Drawing(GREY[..., 0])):
        one, other = make(), make()
        assert one == one and one != other and other not in [one] and len({one, other}) == 2


def test_completion_lists_the_public_names_without_importing_them():
    program = (
        "import sys, condiff; assert set(condiff.__all__) <= set(dir(condiff));"
        "sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
