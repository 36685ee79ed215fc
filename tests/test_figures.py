"""Measured pictures: positions of curves, noise of cells, content of animations."""

import io
import math
import resource
import sys

import cv2
import numpy as np
import pytest
from PIL import Image, ImageColor

from condiff.config import DiffusionConfig
from condiff.diffusion.diffusers_schedulers import build_scheduler
from condiff.errors import ConfigError, DependencyError, ImageError
from condiff.figures import (
    COLORS,
    MARGIN,
    Panel,
    make_contact_sheet,
    make_forward_strip,
    make_plot,
    make_schedule_plot,
    pick_frames,
    write_animation,
)

from .conftest import make_photo

PROCESSES = {
    name: DiffusionConfig(beta_schedule=name, rescale_betas_zero_snr=False)
    for name in ("linear", "squaredcos_cap_v2")
}
RAINBOW = [Image.new("RGB", (41, 30), color) for color in ("red", "lime", "blue", "white")]


def rows_of(plot, color, panel=0):
    """Mean pixel row of a curve in each column of a panel that it crosses, legend left out."""
    pixels = np.asarray(plot).astype(int)[:420, 640 * panel : 640 * (panel + 1)]
    near = np.abs(pixels - ImageColor.getrgb(color)).max(axis=2) < 40
    columns = np.flatnonzero(near.any(axis=0))
    return columns, np.array([np.flatnonzero(near[:, column]).mean() for column in columns])


def test_curves_are_drawn_where_they_should_be():
    falling = [1 - i / 99 for i in range(100)]
    plot = make_plot([Panel("a", "x", "y", {"up": range(100), "down": [99 * f for f in falling]})])
    assert plot.size == (640, 480)
    for color, sign in ((COLORS[0], -1), (COLORS[1], 1)):
        columns, rows = rows_of(plot, color)
        assert len(columns) > 400
        slope, _ = np.polyfit(columns, rows, 1)
        assert sign * slope > 0.5
        assert np.corrcoef(columns, rows)[0, 1] * sign > 0.999


def test_a_logarithmic_axis_straightens_powers():
    plot = make_plot([Panel("a", "x", "y", {"up": [10**i for i in range(6)]}, log_y=True)])
    columns, rows = rows_of(plot, COLORS[0])
    assert np.corrcoef(columns, rows)[0, 1] < -0.999


def test_the_schedule_plot_shows_alpha_bar():
    plot = make_schedule_plot(PROCESSES)
    assert plot.size == (1280, 480)
    for color, config in zip(COLORS, PROCESSES.values(), strict=False):
        alphas_bar = build_scheduler("ddpm", config).alphas_cumprod
        columns, rows = rows_of(plot, color, panel=1)
        shown = (rows[-1] - rows[len(rows) // 2]) / (rows[-1] - rows[0])
        assert shown == pytest.approx(float(alphas_bar[500]), abs=0.02)


def test_a_missing_matplotlib_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match=r"\[figures\]'"):
        make_plot([Panel("a", "x", "y", {"up": [0, 1]})])


def cells_of(strip, size, rows=2, columns=5):
    """The pixels of each cell, found from the right and lower edges."""
    width, height = size
    down = strip.height // rows
    for row in range(rows):
        yield [
            np.asarray(strip)[
                (row + 1) * down - MARGIN - height : (row + 1) * down - MARGIN, left : left + width
            ]
            for left in range(strip.width - columns * (width + MARGIN), strip.width, width + MARGIN)
        ]


def test_the_forward_strip_goes_from_the_photo_to_noise():
    photo = make_photo(120, 90)
    for cells in cells_of(make_forward_strip(photo, PROCESSES, side=120), photo.size):
        likeness = [np.corrcoef(cell.ravel(), np.asarray(photo).ravel())[0, 1] for cell in cells]
        assert np.abs(cells[0].astype(int) - np.asarray(photo)).mean() < 3
        assert likeness == sorted(likeness, reverse=True)
        assert likeness[0] > 0.99
        assert abs(likeness[-1]) < 0.05


def test_the_noise_of_the_forward_strip_is_as_strong_as_the_schedule_says():
    """Of mid-grey, x_t is sqrt(1-ᾱ) eps, and its part beyond ±1 is cut off to black or white."""
    grey = Image.new("RGB", (128, 128), (128, 128, 128))
    strip = make_forward_strip(grey, PROCESSES, side=128, seed=4)
    for cells, config in zip(cells_of(strip, grey.size), PROCESSES.values(), strict=True):
        alphas_bar = build_scheduler("ddpm", config).alphas_cumprod
        for cell, t in zip(cells, (0, 250, 500, 750, 999), strict=True):
            expected = math.erfc(1 / math.sqrt(2 * (1 - float(alphas_bar[t]))))
            assert ((cell == 0) | (cell == 255)).mean() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_holds_its_frames_and_lingers_on_the_last(tmp_path, suffix):
    target = tmp_path / f"a{suffix}"
    write_animation(RAINBOW, target, fps=10, hold=1.5)
    with Image.open(target) as image:
        assert image.n_frames == 4
        assert image.info["loop"] == 0
        durations = []
        for number, frame in enumerate(RAINBOW):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
            shown = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(shown - np.asarray(frame)).max() <= 8
    assert durations == [100, 100, 100, 1500]
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_an_mp4_holds_its_frames_at_an_even_size(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    target = tmp_path / "a.mp4"
    write_animation(RAINBOW, target, fps=10, hold=1.5)
    video = cv2.VideoCapture(str(target))
    assert video.get(cv2.CAP_PROP_FPS) == 10
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    video.release()
    assert len(frames) == 4 + 15
    assert frames[0].shape == (30, 40, 3)
    for frame, bgr in zip(frames, ((0, 0, 255), (0, 255, 0), (255, 0, 0)), strict=False):
        assert np.abs(frame.mean(axis=(0, 1)) - bgr).max() < 12
    assert frames[-1].mean() > 245
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_photos_colours_survive_the_palette(tmp_path):
    photo = make_photo(200, 150)
    write_animation([photo, photo.rotate(180)], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        shown = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(shown - np.asarray(photo)).mean() < 6


def test_a_stream_gets_a_gif():
    stream = io.BytesIO()
    write_animation(RAINBOW, stream)
    with Image.open(stream) as image:
        assert (image.format, image.n_frames) == ("GIF", 4)


def test_the_frames_of_a_generator_go_to_a_path_of_any_kind(tmp_path):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    write_animation((frame for frame in frames), str(tmp_path / "way.gif"))
    with Image.open(tmp_path / "way.gif") as film:
        assert film.n_frames == 2
    with pytest.raises(ConfigError, match="at least one"):
        write_animation(iter([]), tmp_path / "none.gif")


def test_what_cannot_be_written_is_said_and_left_alone(tmp_path):
    with pytest.raises(ImageError, match=r"a\.avi.*\.gif, \.webp, \.mp4"):
        write_animation(RAINBOW, tmp_path / "a.avi")
    there = tmp_path / "a.gif"
    there.write_bytes(b"mine")
    with pytest.raises(ImageError, match="--force"):
        write_animation(RAINBOW, there)
    assert there.read_bytes() == b"mine"
    write_animation(RAINBOW, there, force=True)
    assert there.read_bytes().startswith(b"GIF8")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".mp4"])
def test_a_film_is_whole_or_absent(tmp_path, suffix, capfd):
    """A limit on the size of files simulates a full disk."""
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg")
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    target = tmp_path / f"a{suffix}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(ImageError, match="cannot write .*; try another place"):
            write_animation([*map(Image.fromarray, noise)], target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_film_has_the_names_and_links_of_a_picture(tmp_path, suffix):
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg")
    target = tmp_path / ("x" * (255 - len(suffix)) + suffix)
    write_animation(RAINBOW, target)
    link = tmp_path / f"link{suffix}"
    link.symlink_to(target)
    target.write_bytes(b"")
    write_animation(RAINBOW, link, force=True)
    assert link.is_symlink() and target.stat().st_size


def test_a_missing_ffmpeg_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"pip install imageio-ffmpeg, or choose \.gif"):
        write_animation(RAINBOW, tmp_path / "a.mp4")


def test_frames_are_picked_evenly_with_both_ends():
    frames = [Image.new("L", (i + 1, 1)) for i in range(31)]
    assert [frame.width - 1 for frame in pick_frames(frames, 4)] == [0, 10, 20, 30]
    assert pick_frames(frames, 99) == frames


def test_a_contact_sheet_puts_each_image_in_its_cell():
    sheet = make_contact_sheet(
        [RAINBOW[:2], RAINBOW[2:]], side=100, captions=[["a", "b"], ["c", ""]]
    )
    assert sheet.size == (2 * (100 + 2) + 2, 2 * (73 + 2 + 18) + 2)  # 41x30 in 100 is 100x73
    assert sheet.getpixel((4, 4)) == (255, 0, 0)
    assert sheet.getpixel((106, 4)) == (0, 255, 0)
    assert sheet.getpixel((52, 130)) == (0, 0, 255)


def test_a_contact_sheet_has_cells_of_its_pictures_shape():
    wide = Image.new("RGB", (40, 10), "red")
    sheet = make_contact_sheet([[wide, wide], [wide]], side=60)
    assert sheet.size == (2 * 62 + 2, 2 * 17 + 2)
    assert {sheet.getpixel(at) for at in ((2, 2), (61, 16), (64, 2), (2, 33))} == {(255, 0, 0)}
    tall = make_contact_sheet([[wide.rotate(90, expand=True)]], side=40, captions=[["seed 12345"]])
    assert [tall.getpixel((x, 20))[1] for x in (38, 40, 45, 50)] == [255, 0, 0, 255]
