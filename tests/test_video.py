"""Films in, coloured films out: `condiff video` with a tiny model."""

import json
import subprocess
import sys
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from condiff import colorize_film
from condiff.color.lab import lightness
from condiff.errors import FilmError
from condiff.photos.photo import Photo
from condiff.photos.provenance import is_own_file
from condiff.photos.reading import read_photo
from condiff.photos.writing import write_photo
from condiff.video import film as films
from condiff.video import frames as folders
from condiff.video.jobs import FilmOptions
from condiff.video.writing import order_decoding

from .films import QUICK, draw_frames, read_packets, read_planes, write_film


@pytest.fixture
def film(tmp_path):
    return write_film(tmp_path / "grey.mkv", draw_frames(10, 64, 48), sound=True)


def test_y_is_kept_u_and_v_are_written_and_the_sound_is_copied(run_video, film, tmp_path):
    target = tmp_path / "out.mkv"
    code, out, err = run_video(film, target, "--codec", "ffv1")
    assert (code, out) == (0, f"{target}\n"), err
    times, y, u, v = read_planes(target)
    before, grey, *_ = read_planes(film)
    assert times == before and np.array_equal(y, grey)
    assert u.std() > 0.5 or v.std() > 0.5 or abs(u.mean() - 128) + abs(v.mean() - 128) > 2
    assert read_packets(target, "audio") == read_packets(film, "audio")
    assert "10 frames, 1 shot, seed 5" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grey.mkv", "out.mkv"]


@pytest.mark.parametrize(
    ("size", "matrix"),
    [((64, 48), 6), ((1024, 576), 6), ((1026, 64), 1), ((64, 578), 1), ((1280, 720), 1)],
)
def test_an_untagged_film_has_the_matrix_that_players_assume(size, matrix, run_video, tmp_path):
    """BT.601 (6) up to the size of PAL, BT.709 (1) above."""
    film = write_film(tmp_path / "a.mkv", draw_frames(1, *size))
    assert run_video(film, tmp_path / "out.mkv")[0] == 0
    with av.open(str(tmp_path / "out.mkv")) as made:
        assert int(next(made.decode(video=0)).colorspace) == matrix


def test_sound_keeps_its_language_and_purpose(run_video, tmp_path):
    plain = write_film(tmp_path / "plain.mkv", draw_frames(3, 64, 48), sound=True)
    described = av.stream.Disposition.visual_impaired
    with av.open(str(plain)) as source, av.open(str(tmp_path / "a.mkv"), "w") as made:
        streams = [made.add_stream_from_template(stream) for stream in source.streams]
        streams[1].metadata["language"] = "deu"
        streams[1].disposition = described
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                made.mux(packet)
    assert run_video(tmp_path / "a.mkv", tmp_path / "out.mkv")[0] == 0
    with av.open(str(tmp_path / "out.mkv")) as result:
        (audio,) = result.streams.audio
        assert audio.metadata["language"] == "deu" and audio.disposition & described


def test_frames_keep_their_own_times_in_every_container(run_video, tmp_path):
    times = [0, 33, 100, 120, 250, 251, 400]
    film = write_film(tmp_path / "a.mkv", draw_frames(7, 64, 48), times=times)
    for name in ("out.mkv", "out.mp4", "out.mov", "out.webm"):
        code, _, err = run_video(film, tmp_path / name)
        assert code == 0, err
        assert read_planes(tmp_path / name)[0] == pytest.approx([t / 1000 for t in times], abs=1e-4)


def test_every_codec_writes_what_it_says(run_video, film, tmp_path):
    for codec, name in (("h264", "h264"), ("h265", "hevc"), ("vp9", "vp9"), ("ffv1", "ffv1")):
        target = tmp_path / f"{codec}.mkv"
        assert run_video(film, target, "--codec", codec)[0] == 0
        with av.open(str(target)) as made:
            assert made.streams.video[0].codec_context.name == name
        times, y, *_ = read_planes(target)
        assert len(times) == 10
        assert np.abs(y.astype(int) - read_planes(film)[1]).mean() < 4


def test_rotation_aspect_and_colour_tags_are_kept(run_video, tmp_path):
    tags = {"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 1}
    film = write_film(
        tmp_path / "a.mp4", draw_frames(3, 64, 48), codec="libx264", rotation=90,
        aspect=Fraction(32, 27), tags=tags,
    )  # fmt: skip
    assert run_video(film, tmp_path / "out.mp4")[0] == 0
    with av.open(str(tmp_path / "out.mp4")) as made:
        context = made.streams.video[0].codec_context
        assert {name: int(getattr(context, name)) for name in tags} == tags
        assert context.sample_aspect_ratio == Fraction(32, 27)
        assert next(made.decode(video=0)).rotation == 90


def test_the_model_sees_frames_upright(run_video, tmp_path, tiny_folder):
    """A film stored on its side gets the colours of the same film stored upright."""
    frames = list(draw_frames(2, 64, 48))
    upright = write_film(tmp_path / "up.mkv", frames)
    lying = write_film(tmp_path / "side.mp4", [np.rot90(f, -1) for f in frames],
                       codec="libx264", pix_fmt="yuv444p", rotation=90)  # fmt: skip
    hint = ["--hint", "0.2,0.2,#c02020"]
    run_video(upright, tmp_path / "a.mkv", *hint)
    run_video(lying, tmp_path / "b.mkv", *hint)
    a, b = read_planes(tmp_path / "a.mkv"), read_planes(tmp_path / "b.mkv")
    turned = np.rot90(b[3][0])[::2, ::2].astype(float)
    assert np.corrcoef(turned.ravel(), a[3][0].ravel())[0, 1] > 0.8


def test_ten_bits_stay_ten_and_odd_sides_stay_odd(run_video, tmp_path):
    deep = [frame.astype(np.uint16) * 3 + 70 for frame in draw_frames(3, 64, 48)]
    film = write_film(tmp_path / "deep.mkv", deep, pix_fmt="yuv420p10le")
    assert run_video(film, tmp_path / "a.mkv", "--codec", "ffv1")[0] == 0
    assert np.array_equal(read_planes(tmp_path / "a.mkv")[1], np.stack(deep))
    assert run_video(film, tmp_path / "a.mp4")[0] == 0
    with av.open(str(tmp_path / "a.mp4")) as made:
        assert made.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
    code, _, err = run_video(film, tmp_path / "b.mkv", "--codec", "vp9")
    assert code == 1 and "10 bits" in err and "--codec h265" in err
    odd = write_film(tmp_path / "odd.mkv", draw_frames(3, 63, 47))
    for name in ("odd.out.mp4", "odd.out.mkv", "odd.out.webm"):
        code, _, err = run_video(odd, tmp_path / name)
        assert code == 0, err
        assert read_planes(tmp_path / name)[1].shape == (3, 47, 63)


def test_grey_and_rgb_films_are_coloured(run_video, tmp_path):
    frames = list(draw_frames(3, 64, 48))
    grey = write_film(tmp_path / "grey.mkv", frames, pix_fmt="gray")
    assert run_video(grey, tmp_path / "a.mkv", "--codec", "ffv1")[0] == 0
    assert np.array_equal(read_planes(tmp_path / "a.mkv")[1], np.stack(frames))
    with av.open(str(tmp_path / "rgb.mkv"), "w") as made:
        stream = made.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for frame in frames:
            made.mux(stream.encode(av.VideoFrame.from_ndarray(np.dstack([frame] * 3), "rgb24")))
        made.mux(stream.encode(None))
    assert run_video(tmp_path / "rgb.mkv", tmp_path / "b.mkv", "--codec", "ffv1")[0] == 0
    y = read_planes(tmp_path / "b.mkv")[1]
    assert np.abs(y - (16 + np.stack(frames) * (219 / 255))).max() < 1.5


def test_a_film_that_is_cut_short_is_written_and_reported(run_video, tmp_path):
    film = write_film(tmp_path / "a.mkv", draw_frames(30, 64, 48))
    data = film.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    code, out, err = run_video(tmp_path / "cut.mkv", tmp_path / "out.mkv", "--json")
    made = len(read_planes(tmp_path / "out.mkv")[0])
    record = json.loads(out)
    assert code == 1 and 5 < made < 25 and record["frames"] == made
    assert "cut short" in err and f"of 1.2 s could be read, {made} frames" in err


def test_what_is_no_film_is_one_sentence_and_nothing_is_written(run_video, film, tmp_path):
    (tmp_path / "garbage.mp4").write_bytes(b"\0\1garbage" * 99)
    constant = {"color_primaries": 9, "color_trc": 16, "colorspace": 10}
    write_film(tmp_path / "cl.mkv", draw_frames(2, 64, 48), pix_fmt="yuv420p10le", tags=constant)
    there = sorted(tmp_path.iterdir())
    for source, target, word in (
        ("garbage.mp4", "out.mkv", "not a film"),
        ("missing.mp4", "out.mkv", "no such file"),
        ("cl.mkv", "out.mkv", "matrix 10"),
        ("grey.mkv", "out.avi", ".mkv"),
        ("grey.mkv", "grey.mkv/out.mkv", "grey.mkv is not a folder"),
        ("grey.mkv", "out.webm", "audio (pcm_s16le)"),
    ):
        code, out, err = run_video(tmp_path / source, tmp_path / target)
        expected = 2 if target == "out.avi" else 1  # a wrong name is wrong usage
        assert (code, out, err.count("\n")) == (expected, "", 1), err
        assert word in err
    assert run_video(film, film)[0] == 2
    assert run_video(film, tmp_path / "o.webm", "--codec", "h264")[0] == 2
    assert run_video(film, tmp_path / "o.mkv", "--crf", "64")[0] == 2
    assert sorted(tmp_path.iterdir()) == there


def test_a_call_makes_the_film_that_the_command_makes(run_video, film, tmp_path, tiny_folder):
    assert run_video(film, tmp_path / "a.mkv", "--codec", "ffv1")[0] == 0
    asked = FilmOptions(
        model=tiny_folder, overrides={"steps": 1, "size": 32}, device="cpu", seed=5, every=4,
        codec="ffv1",
    )  # fmt: skip
    seen = []
    made = colorize_film(film, str(tmp_path / "b.mkv"), asked, on_frame=seen.append)
    assert made == (tmp_path / "b.mkv", 5, 10, 1, [])
    assert [progress.done for progress in seen] == list(range(1, 11))
    for ours, theirs in zip(read_planes(made.target), read_planes(tmp_path / "a.mkv"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_film_keeps_its_name_in_a_folder(run_video, film, tmp_path, tiny_folder):
    """The folder exists, or is a name with a slash; AVI is read, but cannot be written."""
    frames = list(draw_frames(3, 64, 48))
    avi = write_film(tmp_path / "reel.1.avi", frames, codec="mpeg4", time_base=Fraction(1, 25),
                     times=[0, 1, 2])  # fmt: skip
    (tmp_path / "there").mkdir()
    for source, folder, target in (
        (film, tmp_path / "there", "there/grey.mkv"),
        (film, f"{tmp_path}/new/", "new/grey.mkv"),
        (avi, tmp_path / "there", "there/reel.1.mkv"),
    ):
        code, out, err = run_video(source, folder)
        assert (code, out) == (0, f"{tmp_path / target}\n"), err
    assert json.loads(run_video(avi, f"{tmp_path}/x/", "--dry-run", "--json")[1]) == {
        "source": str(avi), "target": str(tmp_path / "x/reel.1.mkv"),
    }  # fmt: skip
    code, _, err = run_video(film, tmp_path)
    assert code == 2 and "the film itself" in err and not (tmp_path / "x").exists()
    asked = FilmOptions(model=tiny_folder, overrides={"steps": 1, "size": 32}, every=4)
    made = colorize_film(avi, f"{tmp_path}/called/", asked)
    assert made.target == tmp_path / "called" / "reel.1.mkv" and made.frames == 3


def test_a_call_never_writes_over_its_own_film(film, tiny_folder):
    before = film.read_bytes()
    with pytest.raises(FilmError, match="it is the film itself"):
        colorize_film(film, film, FilmOptions(model=tiny_folder, force=True))
    assert film.read_bytes() == before


def test_a_film_that_is_there_needs_force(run_video, film, tmp_path):
    target = tmp_path / "out.mkv"
    target.write_bytes(b"precious")
    code, _, err = run_video(film, target)
    assert code == 1 and "--force" in err and target.read_bytes() == b"precious"
    assert run_video(film, target, "--force", "-q")[0] == 0
    assert len(read_planes(target)[0]) == 10


def test_subtitles_and_chapters_are_copied_or_refused_before_the_work(run_video, tmp_path):
    film = write_film(tmp_path / "a.mkv", draw_frames(6, 64, 48), subtitles=True, chapters=True)
    assert run_video(film, tmp_path / "out.mkv")[0] == 0
    assert read_packets(tmp_path / "out.mkv", "subtitle") == [(40, b"At the station")]
    with av.open(str(tmp_path / "out.mkv")) as made:
        (chapter,) = made.chapters()
        assert chapter["metadata"] == {"title": "Arrival"}
    code, _, err = run_video(film, tmp_path / "out.mp4")
    assert code == 1 and "subtitle" in err and "--no-subtitles" in err
    assert run_video(film, tmp_path / "out.mp4", "--no-subtitles")[0] == 0


def test_the_chapter_track_of_mp4_is_not_called_lost(run_video, tmp_path):
    film = write_film(
        tmp_path / "a.mp4", draw_frames(6, 64, 48), codec="libx264", sound=True, chapters=True
    )
    for name in ("out.mp4", "out.mkv"):
        code, _, err = run_video(film, tmp_path / name)
        assert code == 0 and "not copied" not in err
        with av.open(str(tmp_path / name)) as made:
            assert [c["metadata"] for c in made.chapters()] == [{"title": "Arrival"}]


def test_tags_in_any_encoding_keep_their_bytes(run_video, tmp_path):
    film = write_film(tmp_path / "a.mkv", draw_frames(4, 64, 48), chapters=True)
    latin = film.read_bytes().replace(b"Arrival", b"Arriv\xe9e")
    film.write_bytes(latin)
    code, _, err = run_video(film, tmp_path / "out.mkv")
    assert code == 0, err
    assert b"Arriv\xe9e" in (tmp_path / "out.mkv").read_bytes()


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_note_follows_the_films_own_comment(run_video, tmp_path, suffix):
    """MKV writes COMMENT, MP4 comment."""

    def read_comment(path):
        with av.open(str(path)) as made:
            return next(v for k, v in made.metadata.items() if k.lower() == "comment").split("\n")

    film = write_film(
        tmp_path / f"a{suffix}", draw_frames(3, 64, 48), codec="libx264", comment="Reel 2\nscanned"
    )
    first, again, plain = (tmp_path / f"{name}{suffix}" for name in ("b", "c", "d"))
    assert run_video(film, first)[0] == 0
    *own, note = read_comment(first)
    assert own == ["Reel 2", "scanned"] and note.startswith("Colours made by condiff")
    assert run_video(first, again)[0] == run_video(film, plain, "--no-provenance")[0] == 0
    assert read_comment(again) == read_comment(first) and read_comment(plain) == own


def test_a_film_that_was_stopped_goes_on_and_gets_the_same_bytes(run_video, tmp_path, monkeypatch):
    film = write_film(tmp_path / "a.mkv", draw_frames(22, 64, 48), sound=True)
    monkeypatch.setattr(films, "SEGMENT", 6)
    hint = ["--hint", "0.5,0.5,#c02020"]
    assert run_video(film, tmp_path / "whole.mkv", *hint)[0] == 0
    written, stop_at = [], 14
    write = films._write

    def stop(item, writer):
        if len(written) == stop_at:
            raise KeyboardInterrupt
        written.append(item.frame.pts)
        write(item, writer)

    monkeypatch.setattr(films, "_write", stop)
    code, out, err = run_video(film, tmp_path / "out.mkv", *hint)
    assert (code, out) == (130, "") and "the same command resumes the film" in err
    parts = tmp_path / ".out.mkv.condiff"
    assert [p.name for p in sorted(parts.glob("*.nut"))] == ["00000.nut"]
    code, _, err = run_video(film, tmp_path / "out.mkv")
    assert code == 2 and "another hints" in err
    stop_at = 99
    code, _, err = run_video(film, tmp_path / "out.mkv", *hint)
    assert code == 0 and "resumed where it was stopped" in err
    assert written[14] == 8 * 40  # the second segment is done again
    assert (tmp_path / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()
    assert not parts.exists()


def test_decoding_times_increase_and_are_never_after_their_presentation():
    times = [0, 40, 10, 25, 100, 50, 70, 41, 130, 110]
    decoded = order_decoding(times)
    assert all(a < b for a, b in zip(decoded, decoded[1:], strict=False))
    assert all(d <= t for d, t in zip(decoded, times, strict=True))
    assert order_decoding([3, 5, 9]) == [3, 5, 9] and order_decoding([]) == []


def test_a_seed_gives_a_film_and_another_seed_another(run_video, film, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run_video(film, tmp_path / f"{name}.mkv", "--seed", seed, "--no-provenance")[0] == 0
    a, b, c = ((tmp_path / f"{name}.mkv").read_bytes() for name in "abc")
    assert a == b and a != c


@pytest.fixture
def folder(tmp_path):
    """Ten frames of 16 bits, with names that sort by number."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for n, frame in enumerate(draw_frames(10, 64, 48)):
        deep = frame.astype(np.uint16) * 257
        write_photo(Photo(np.dstack([deep] * 3)), folder / f"shot-{n + 5}.png")
    return folder


def test_a_folder_of_frames_becomes_one_at_its_own_depth(run_video, folder, tmp_path):
    code, out, err = run_video(folder, tmp_path / "out", "--json")
    assert code == 0, err
    assert json.loads(out)["frames"] == 10
    for n in range(10):
        before, after = (read_photo(tmp_path / d / f"shot-{n + 5}.png") for d in ("frames", "out"))
        assert after.pixels.dtype == np.uint16 and np.ptp(after.pixels, axis=2).max() > 300
        assert np.abs(lightness(after.pixels) - lightness(before.pixels)).max() < 0.05
    assert is_own_file(tmp_path / "out/shot-5.png")
    code, _, err = run_video(folder, tmp_path / "out")
    assert code == 1 and "--force" in err
    assert run_video(folder, tmp_path / "out", "--force", "--no-provenance", "-q")[0] == 0
    assert not is_own_file(tmp_path / "out/shot-5.png")


def test_frames_of_a_glob_that_were_stopped_go_on_with_the_same_bytes(
    run_video, folder, tmp_path, monkeypatch
):
    pattern = f"{folder}/shot-*.png"
    assert run_video(pattern, tmp_path / "whole")[0] == 0
    monkeypatch.setattr(folders, "SEGMENT", 3)
    written, write, stop_at = [], folders._write, 6

    def stop(item, target, coloring, **how):
        if len(written) == stop_at:
            raise KeyboardInterrupt
        written.append(target.name)
        write(item, target, coloring, **how)

    monkeypatch.setattr(folders, "_write", stop)
    assert run_video(pattern, tmp_path / "out")[0] == 130
    stop_at = 99
    assert run_video(pattern, tmp_path / "out")[0] == 0
    assert written == [f"shot-{n}.png" for n in (*range(5, 11), *range(9, 15))]
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert not (tmp_path / ".out.condiff").exists()


def test_frames_that_do_not_fit_together_are_one_sentence(run_video, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    write_photo(Photo(np.zeros((40, 64, 3), np.uint8)), folder / "shot-7.png", force=True)
    for source, target, word in (
        (tmp_path / "empty", "out", "no frames"),
        (f"{folder}/*.tif", "out", "no frames"),
        (folder, "file", "it is a file"),
        (folder, "other", "64x40"),
    ):
        code, _, err = run_video(source, tmp_path / target)
        assert code == 1 and word in err and err.count("\n") == 1, err
    assert run_video(folder, folder)[0] == 2
    assert run_video(folder, tmp_path / "out", "--codec", "h264")[0] == 2


@pytest.mark.slow
def test_a_film_that_was_killed_goes_on_and_gets_the_same_bytes(tiny_folder, tmp_path):
    film = write_film(tmp_path / "a.mkv", draw_frames(300, 64, 48), sound=True)
    command = [sys.executable, "-m", "condiff", "video", film]
    flags = ["-m", tiny_folder, "-q", *QUICK[:-2]]
    subprocess.run([*command, tmp_path / "whole.mkv", *flags], check=True)
    parts, kills = tmp_path / ".out.mkv.condiff", 0
    for wanted in (1, 2):
        process = subprocess.Popen([*command, tmp_path / "out.mkv", *flags])
        while process.poll() is None and len(list(parts.glob("*.nut"))) < wanted:
            time.sleep(0.02)
        kills += process.poll() is None
        process.kill()
        process.wait()
        assert not (tmp_path / "out.mkv").exists()
    assert kills == 2
    subprocess.run([*command, tmp_path / "out.mkv", *flags], check=True)
    assert (tmp_path / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mkv", "out.mkv", "whole.mkv"]


def test_a_film_whose_sound_is_longer_is_not_cut_short(run_video, tmp_path):
    film = write_film(tmp_path / "a.flv", draw_frames(5, 64, 48), codec="flv", sound=True)
    with av.open(str(film)) as opened:
        assert opened.streams.video[0].duration is None
        assert opened.duration > 390_000  # microseconds, of the sound; the pictures take 200_000
    code, _, err = run_video(film, tmp_path / "out.mkv")
    assert code == 0, err


def test_two_runs_at_once_do_not_spoil_a_film(run_video, film, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    write = films._write
    with pytest.MonkeyPatch.context() as patch:

        def stop(item, writer):
            write(item, writer)
            raise KeyboardInterrupt

        patch.setattr(films, "_write", stop)
        assert run_video(film, tmp_path / "out.mkv")[0] == 130
    with open(tmp_path / ".out.mkv.condiff/lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        code, _, err = run_video(film, tmp_path / "out.mkv")
        assert code == 1 and "another run" in err
    assert run_video(film, tmp_path / "out.mkv")[0] == 0


def test_edits_that_do_not_fit_a_film_are_one_sentence_before_the_work(run_video, film, tmp_path):
    Image.new("RGBA", (50, 80)).save(tmp_path / "tall.png")
    Image.new("L", (50, 80)).save(tmp_path / "mask.png")
    for wrong in (["--hint", "1.5,0.5,red"], ["--hint", "99,5,red"], ["--hint", "red"],
                  ["--hints", tmp_path / "tall.png"], ["--mask", tmp_path / "mask.png"],
                  ["--look", "loud"], ["-m", "sketch"]):  # fmt: skip
        code, out, err = run_video(film, tmp_path / "out.mkv", *wrong)
        assert (code, out, err.count("\n")) == (2, "", 1), err
    assert not (tmp_path / ".out.mkv.condiff").exists()


def test_a_mask_keeps_a_part_grey_and_saturation_none_makes_all_grey(run_video, film, tmp_path):
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    flags = ["--codec", "ffv1", "--saturation", "3"]
    assert run_video(film, tmp_path / "a.mkv", *flags, "--mask", tmp_path / "mask.png")[0] == 0
    _, _, u, v = read_planes(tmp_path / "a.mkv")
    away = np.abs(u[0].astype(int) - 128) + np.abs(v[0].astype(int) - 128)
    assert away[:, :14].max() <= 1 and away[:, 18:].mean() > 1
    assert run_video(film, tmp_path / "b.mkv", "--codec", "ffv1", "--saturation", "0")[0] == 0
    _, _, u, v = read_planes(tmp_path / "b.mkv")
    assert (u == 128).all() and (v == 128).all()


def test_without_pyav_the_sentence_says_what_to_install(run_video, film, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = run_video(film, tmp_path / "out.mkv")
    assert code == 1 and "pip install" in err and "video" in err


def test_a_palette_is_that_of_the_film(run_video, film, tmp_path):
    for name, colour in (("warm", "#c04020"), ("cold", "#2040c0")):
        flags = ["--codec", "ffv1", "--palette", f"{colour},{colour}"]
        assert run_video(film, tmp_path / f"{name}.mkv", *flags)[0] == 0
    warm, cold = (read_planes(tmp_path / f"{name}.mkv") for name in ("warm", "cold"))
    assert warm[3].mean() > cold[3].mean() + 10 and warm[2].mean() < cold[2].mean() - 10
    assert np.array_equal(warm[1], cold[1])


def test_times_of_a_variable_rate_hold_across_segments(run_video, tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    times = [int(t) for t in np.cumsum(rng.integers(1, 200, 24))]
    film = write_film(tmp_path / "a.mkv", draw_frames(24, 64, 48), times=times, sound=True)
    monkeypatch.setattr(films, "SEGMENT", 4)
    for name in ("out.mp4", "out.mkv"):
        flags = ["--codec", "h264"] if name == "out.mkv" else ["--no-audio"]
        code, _, err = run_video(film, tmp_path / name, *flags)
        assert code == 0, err
        with av.open(str(tmp_path / name)) as made:
            packets = [p for p in made.demux(made.streams.video[0]) if p.size]
            assert sum(p.is_keyframe for p in packets) >= 5  # a segment begins with one
            assert any(p.pts != p.dts for p in packets)  # frames are reordered
        got = np.array(read_planes(tmp_path / name)[0])
        assert got - got[0] == pytest.approx((np.array(times) - times[0]) / 1000, abs=1e-4)
