"""Damaged films, frames and intermediate files: nothing is lost without a word."""

import json
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from condiff.video import film as films
from condiff.video import frames as folders
from condiff.video.reading import read_film

from .films import draw_frames, write_film


def stop_after(count, module, monkeypatch):
    """Let a run end like by Ctrl-C before it writes another frame than the first `count`."""
    write, written = module._write, []

    def stop(*given, **how):
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(given)
        write(*given, **how)

    monkeypatch.setattr(module, "_write", stop)
    return written


@pytest.mark.parametrize("content", [None, 0, 300], ids=["missing", "empty", "cut"])
@pytest.mark.parametrize("name", ["00000.nut", "00001.nut", "00001.npz", "00002.npz"])
def test_parts_that_a_power_cut_damaged_are_made_again(
    run_video, tmp_path, monkeypatch, name, content
):
    film = write_film(tmp_path / "a.mkv", draw_frames(14, 64, 48))
    monkeypatch.setattr(films, "SEGMENT", 4)
    assert run_video(film, tmp_path / "whole.mkv")[0] == 0
    with monkeypatch.context() as stopped:
        stop_after(10, films, stopped)
        assert run_video(film, tmp_path / "out.mkv")[0] == 130
    part = tmp_path / ".out.mkv.condiff" / name
    part.unlink() if content is None else os.truncate(part, content)
    code, _, err = run_video(film, tmp_path / "out.mkv")
    assert code == 0 and "14 frames, 1 shot" in err, err
    assert (tmp_path / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()


@pytest.mark.parametrize("content", ["", "[]", "{}", '[{"frames": 14}, 1, {}]'])
def test_a_damaged_record_of_the_end_is_made_again(run_video, tmp_path, monkeypatch, content):
    film = write_film(tmp_path / "a.mkv", draw_frames(6, 64, 48))
    with monkeypatch.context() as stopped:
        stop_after(5, films, stopped)
        assert run_video(film, tmp_path / "out.mkv")[0] == 130
    (tmp_path / ".out.mkv.condiff/end.json").write_text(content, "utf-8")
    code, _, err = run_video(film, tmp_path / "out.mkv")
    assert code == 0 and "6 frames, 1 shot" in err, err


def make_folder(folder, count, suffix):
    """A folder of frames."""
    folder.mkdir()
    for n, y in enumerate(draw_frames(count, 64, 48)):
        Image.fromarray(y).save(folder / f"{n}{suffix}")
    return folder


def test_frames_that_vanished_before_a_run_is_resumed_are_made_again(
    run_video, tmp_path, monkeypatch
):
    folder = make_folder(tmp_path / "in", 14, ".png")
    monkeypatch.setattr(folders, "SEGMENT", 4)
    with monkeypatch.context() as stopped:
        stop_after(12, folders, stopped)
        assert run_video(folder, tmp_path / "out")[0] == 130
    (tmp_path / "out/1.png").unlink()
    os.truncate(tmp_path / "out/6.png", 0)
    assert run_video(folder, tmp_path / "out")[0] == 0
    assert all((tmp_path / f"out/{n}.png").stat().st_size > 1000 for n in range(14))


def test_damage_of_frames_is_told_also_by_the_run_that_goes_on(run_video, tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "in", 12, ".jpg")
    os.truncate(folder / "1.jpg", (folder / "1.jpg").stat().st_size - 8)
    monkeypatch.setattr(folders, "SEGMENT", 4)
    with monkeypatch.context() as stopped:
        stop_after(9, folders, stopped)
        assert run_video(folder, tmp_path / "out")[0] == 130
    code, _, err = run_video(folder, tmp_path / "out")
    assert code == 1 and "1.jpg: its file is cut short" in err, err
    assert len(list((tmp_path / "out").iterdir())) == 12


def test_what_results_of_frames_lack_is_told_before_the_work(run_video, tmp_path):
    folder = tmp_path / "in"
    (folder / "3.jp2").mkdir(parents=True)  # not a frame
    for n in range(2):
        Image.fromarray(np.full((48, 64), 9000 + n, np.uint16)).save(folder / f"{n}.jp2")
    code, _, err = run_video(folder, tmp_path / "out", "--dry-run")
    assert code == 0 and ".jp2 has no place for 16 bits a channel" in err, err


def test_frames_and_references_of_several_pages_are_refused_without_naming_a_flag(
    run_video, tmp_path
):
    folder = make_folder(tmp_path / "in", 2, ".tif")
    pages = [Image.new("RGB", (64, 48), color) for color in ("red", "blue")]
    for name in ("1.tif", "../photo.tif"):
        pages[0].save(folder / name, save_all=True, append_images=pages[1:])
    code, _, err = run_video(folder, tmp_path / "out")
    assert code == 1 and "save each" in err and "--page" not in err
    (folder / "1.tif").unlink()
    code, _, err = run_video(folder, tmp_path / "out2", "--reference", tmp_path / "photo.tif")
    assert code == 1 and "several pages" in err and "--page" not in err


def test_a_hole_in_a_film_of_constant_rate_is_told(run_video, tmp_path):
    film = write_film(tmp_path / "a.mkv", draw_frames(100, 64, 48))
    content = bytearray(film.read_bytes())
    start, end = len(content) // 3, 2 * len(content) // 3
    content[start:end] = bytes(end - start)
    film.write_bytes(content)
    code, _, err = run_video(film, tmp_path / "out.mkv", "--every", "30")
    assert code == 1 and "it has no frames for 1." in err, err
    times = [n * 40 + 1500 * (n // 3) for n in range(30)]  # a pause after every third frame
    still = write_film(tmp_path / "b.mkv", draw_frames(30, 64, 48), times=times)
    assert run_video(still, tmp_path / "b.out.mkv", "--every", "30")[0] == 0


def test_pictures_that_are_read_and_other_frames_are_never_replaced(run_video, tmp_path):
    folder, out = make_folder(tmp_path / "in", 3, ".png"), tmp_path / "out"
    out.mkdir()
    for flag in ("--reference", "--palette", "--mask", "--hints"):
        Image.new("RGBA", (64, 48), (200, 40, 40, 255)).save(out / "1.png")
        before = (out / "1.png").read_bytes()
        code, _, err = run_video(folder, out, flag, out / "1.png", "--force")
        assert code == 2 and "itself" in err
        assert (out / "1.png").read_bytes() == before
    (out / "1.png").unlink()
    (out / "1.png").symlink_to(folder / "2.png")
    code, _, err = run_video(folder, out, "--force")
    assert code == 1 and "would replace the frame" in err


def test_streams_pipes_and_missing_films_are_refused_by_what_they_are(run_video, tmp_path):
    folder = make_folder(tmp_path / "in", 1, ".png")
    os.mkfifo(tmp_path / "pipe.mkv")
    for source, target, code, word in (
        ("-", tmp_path / "out.mkv", 2, "standard input"),
        (folder, "-", 2, "standard output"),
        (tmp_path / "missing", tmp_path / "out", 1, "no such file"),
        (tmp_path / "pipe.mkv", tmp_path / "out.mkv", 1, "not a file"),
    ):
        found, _, err = run_video(source, target)
        assert found == code and word in err and err.count("\n") == 1, err
    code, _, err = run_video(folder, tmp_path / "out", "--no-audio")
    assert code == 2 and "for films" in err
    code, _, err = run_video(folder, tmp_path / "out")
    assert code == 0 and "1 frame, 1 shot" in err


def write_raw(path, pix_fmt, *, codec="rawvideo", size=(64, 48)):
    """Three grey frames in any pixel format."""
    with av.open(str(path), "w") as made:
        stream = made.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        for n in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 90 + n, np.uint8))
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = n, Fraction(1, 25)
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    return path


def test_packed_layouts_keep_the_size_of_u_and_v(run_video, tmp_path):
    for pix_fmt, kept in (
        ("yuyv422", "yuv422p"), ("uyvy422", "yuv422p"), ("y210le", "yuv422p10le"),
        ("vuya", "yuv444p"), ("nv12", "yuv420p"), ("gray10le", "yuv420p10le"),
    ):  # fmt: skip
        assert read_film(write_raw(tmp_path / "a.nut", pix_fmt)).pix_fmt == kept
    code, _, err = run_video(write_raw(tmp_path / "a.nut", "rgb4"), tmp_path / "out.mkv")
    assert code == 1 and "the pixel format rgb4" in err and err.count("\n") == 1, err


def test_the_rate_of_dv_is_that_of_its_frames(tmp_path):
    """FFmpeg states 60000 frames a second as the average of raw DV."""
    film = read_film(write_raw(tmp_path / "a.dv", "yuv420p", codec="dvvideo", size=(720, 576)))
    assert film.rate == 25 and film.expected == 3


def test_a_film_that_changes_its_depth_or_goes_back_in_time_is_refused(run_video, tmp_path):
    """Transport streams that were joined like text."""
    parts = {}
    for pix_fmt, count in (("yuv420p", 60), ("yuv420p10le", 3)):
        name = write_film(
            tmp_path / "a.ts", draw_frames(count, 64, 48), codec="libx264", pix_fmt=pix_fmt,
            time_base=Fraction(1, 25), times=range(count),
        )  # fmt: skip
        parts[pix_fmt] = name.read_bytes()
    for first, then, word in (
        ("yuv420p10le", "yuv420p", "depth from 10 to 8 bits a sample at frame 3"),
        ("yuv420p", "yuv420p", "back to"),
    ):
        (tmp_path / "a.ts").write_bytes(parts[first] + parts[then])
        code, _, err = run_video(
            tmp_path / "a.ts", tmp_path / "out.mkv", "--force", "--every", "30"
        )
        assert code == 1 and word in err and err.count("\n") == 1, err


def test_hints_for_a_shot_that_does_not_exist_are_told_and_a_plan_is_json(run_video, tmp_path):
    film = write_film(tmp_path / "a.mkv", draw_frames(3, 64, 48))
    target = tmp_path / "out.mkv"
    _, out, _ = run_video(film, target, "--dry-run", "--json")
    assert json.loads(out) == {"source": str(film), "target": str(target)}
    hint = ["--hint", "0.5,0.5,#c02020", "--hint-shot", "1", "--hint-shot", "9"]
    code, _, err = run_video(film, target, *hint)
    assert code == 0 and "no shot 9" in err and "no shot 1" not in err
