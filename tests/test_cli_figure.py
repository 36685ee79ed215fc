"""`condiff figure`: exit codes, streams, files."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from condiff.cli import main

from .conftest import make_photo


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run `condiff figure …` in an empty folder; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = main(["figure", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def photo_path(tmp_path):
    make_photo(50, 40).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def cut_short(image):
    """A JPEG of the image without its last bytes."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG")
    return encoded.getvalue()[: int(-0.01 * encoded.tell())]


def reverse(run, tiny_folder, *arguments):
    return run("reverse", *arguments, "-m", tiny_folder, "--steps", 4, "--device", "cpu")


def test_schedule(run, tmp_path):
    assert run("schedule") == (0, "schedule.png\n", "")
    with Image.open(tmp_path / "schedule.png") as image:
        assert image.size == (1280, 480)
    before = (tmp_path / "schedule.png").read_bytes()
    code, out, err = run("schedule", "--zero-snr")
    assert (code, out) == (1, "")
    assert "--force" in err
    assert run("schedule", "--zero-snr", "--force")[0] == 0
    assert (tmp_path / "schedule.png").read_bytes() != before


def test_forward_is_a_function_of_its_seed(run, photo_path, tmp_path):
    assert run("forward", photo_path, "--size", 32) == (
        0,
        f"{tmp_path / 'photo.forward.png'}\n",
        "",
    )
    for name, seed in (("same.png", 0), ("other.png", 10**30)):
        assert run("forward", photo_path, "--size", 32, "-o", name, "--seed", seed)[0] == 0
    first, same, other = (
        (tmp_path / name).read_bytes() for name in ("photo.forward.png", "same.png", "other.png")
    )
    assert first == same != other


def test_a_figure_of_a_photo_takes_its_pages_and_tells_what_is_odd(run, tiny_folder, tmp_path):
    first, second = make_photo(50, 40, seed=1), make_photo(60, 30, seed=2)
    first.save(tmp_path / "two.tif", save_all=True, append_images=[second])
    (tmp_path / "cut.jpg").write_bytes(cut_short(make_photo(300, 200)))
    for command in ("forward", "reverse"):
        flags = ["-m", tiny_folder, "--steps", 1] if command == "reverse" else ["--size", 16]
        code, out, err = run(command, "two.tif", *flags)
        assert (code, out) == (1, "") and "choose one with --page 1 to --page 2" in err
        assert run(command, "two.tif", *flags, "--page", 2)[0] == 0
        assert run(command, "cut.jpg", *flags, "--strict")[0] == 1
        code, _, err = run(command, "cut.jpg", *flags)
        assert code == 0 and "cut.jpg: its file is cut short" in err


def test_reverse_films_every_step(run, tiny_folder, photo_path, tmp_path):
    code, out, err = reverse(run, tiny_folder, photo_path, "--seed", 3)
    assert (code, out) == (0, f"{tmp_path / 'photo.reverse.gif'}\n")
    assert "5 frames of 50x40, seed 3" in err
    with Image.open(tmp_path / "photo.reverse.gif") as image:
        assert (image.size, image.n_frames) == ((50, 40), 5)


def test_reverse_shrinks_and_thins(run, tiny_folder, photo_path, tmp_path):
    wanted = ("--size", 25, "--frames", 3, "--scheduler", "heun", "-o", "small.webp", "-q")
    assert reverse(run, tiny_folder, photo_path, *wanted) == (0, "small.webp\n", "")
    with Image.open(tmp_path / "small.webp") as image:
        assert (image.size, image.n_frames) == ((25, 20), 3)


def test_reverse_takes_every_setting_of_sampling(run, tiny_folder, photo_path, tmp_path):
    films = []
    for coherence in (0, 0, 1):
        flags = ("--seed", 1, "--coherence", coherence, "-o", "way.gif", "--force", "-q")
        assert reverse(run, tiny_folder, photo_path, *flags) == (0, "way.gif\n", "")
        films.append((tmp_path / "way.gif").read_bytes())
    assert films[0] == films[1] != films[2]


def test_a_model_of_photos_wants_one(run, tiny_folder):
    code, out, err = reverse(run, tiny_folder)
    assert (code, out) == (2, "")
    assert "takes a photo" in err


def test_dry_runs_say_where_and_write_nothing(run, photo_path, tmp_path):
    assert run("schedule", "-n") == (0, "schedule.png\n", "")
    assert run("forward", photo_path, "-n") == (0, f"{tmp_path / 'photo.forward.png'}\n", "")
    assert run("reverse", photo_path, "-n", "-o", "a.mp4") == (0, "a.mp4\n", "")
    assert run("reverse", "-n") == (0, "reverse.gif\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_wrong_files_and_usage(run, tmp_path):
    assert run("forward", tmp_path / "none.jpg")[0] == 1
    code, _, err = run("reverse", tmp_path / "none.jpg", "-o", "a.avi")
    assert code == 2
    assert ".webp" in err
    assert run("forward", "-")[0] == 2
    assert run("backward")[0] == 2
    assert run("reverse", "--frames", 1)[0] == 2


def test_without_matplotlib_it_says_what_to_install(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run("schedule")
    assert (code, out) == (1, "")
    assert "[figures]'" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_pipes(photo_path, monkeypatch, capsysbinary):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(photo_path.read_bytes())))
    assert main(["figure", "forward", "-", "-o", "-", "--size", "32"]) == 0
    with Image.open(io.BytesIO(capsysbinary.readouterr().out)) as image:
        assert image.format == "PNG"


def test_reverse_takes_a_photo_as_it_is(run, sketch_folder, tmp_path):
    noisy = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noisy).save(tmp_path / "noisy.png")
    flags = ("-m", sketch_folder, "--steps", 1, "--device", "cpu", "-q")
    code, out, err = run("reverse", tmp_path / "noisy.png", *flags)
    assert (code, out) == (1, "") and "--as-is" in err
    assert run("reverse", tmp_path / "noisy.png", *flags, "--as-is")[0] == 0
