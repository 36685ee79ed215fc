"""Unusual films: interlaced, HDR, with odd layouts, with missing parts."""

import signal
import subprocess
import sys
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
from PIL import Image
from skimage import color

from condiff.video.parts import Parts
from condiff.video.reading import read_film, read_frames
from condiff.video.yuv import MATRICES, Coding, solve_chroma

from .films import (
    QUICK,
    draw_frames,
    mark_interlaced,
    read_planes,
    to_rgb,
    weave_frames,
    write_film,
)


def combing(y):
    """The mean difference of lines from the mean of both neighbours."""
    y = y.astype(float)
    return np.abs(y[:, 1:-1] - (y[:, :-2] + y[:, 2:]) / 2).mean()


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "first", "options"),
    [
        ("ffv1", "yuv420p", "tff", {"level": "3"}),
        ("ffv1", "yuv422p10le", "bff", {"level": "3"}),
        ("ffv1", "gray10le", "bff", {"level": "3"}),
        ("mpeg2video", "yuv420p", "tff", {"flags": "+ildct+ilme", "b": "9000000"}),
        ("libx264", "yuv420p", "tff", {"x264-params": "tff=1", "crf": "5"}),
    ],
)
def test_interlaced_frames_become_whole_pictures_of_their_first_field(
    run_video, tmp_path, codec, pix_fmt, first, options
):
    frames = list(weave_frames(9, 64, 48))
    if "10le" in pix_fmt:
        frames = [frame.astype(np.uint16) * 4 for frame in frames]
    film = write_film(
        tmp_path / "a.mkv", frames, codec=codec, pix_fmt=pix_fmt, interlaced=first,
        options=options, times=range(9), time_base=Fraction(1, 25),
    )  # fmt: skip
    times, before, *_ = read_planes(film)
    code, _, err = run_video(film, tmp_path / "out.mkv", "--codec", "ffv1")
    assert code == 0 and "--deinterlace off" in err, err
    got, after, u, v = read_planes(tmp_path / "out.mkv")
    assert got == pytest.approx(times, abs=1e-3)
    kept = slice(0 if first == "tff" else 1, None, 2)
    assert np.array_equal(after[:, kept], before[:, kept])
    assert combing(after) < 0.4 * combing(before)
    with av.open(str(tmp_path / "out.mkv")) as made:
        assert not any(frame.interlaced_frame for frame in made.decode(video=0))


HDR_TAGS = {"color_primaries": 9, "color_trc": 16, "colorspace": 9, "color_range": 1}


@pytest.mark.parametrize(
    ("transfer", "primaries", "word"),
    [(16, 9, "HDR (PQ, BT.2020)"), (18, 9, "HDR (HLG, BT.2020)"), (1, 9, "BT.2020"),
     (1, 12, "Display P3")],
)  # fmt: skip
def test_hdr_and_wide_gamut_keep_y_depth_and_tags(run_video, tmp_path, transfer, primaries, word):
    matrix = 9 if primaries == 9 else 1
    tags = HDR_TAGS | {"color_trc": transfer, "color_primaries": primaries, "colorspace": matrix}
    deep = [frame.astype(np.uint16) * 2 + 64 for frame in draw_frames(3, 64, 48)]
    film = write_film(tmp_path / "a.mkv", deep, pix_fmt="yuv420p10le", tags=tags)
    code, _, err = run_video(film, tmp_path / "out.mkv", "--codec", "ffv1", "--saturation", "2")
    assert code == 0 and word in err, err
    _, y, u, v = read_planes(tmp_path / "out.mkv")
    assert np.array_equal(y, np.stack(deep)) and np.abs(u.astype(int) - 512).max() > 8
    code, _, err = run_video(film, tmp_path / "out.mp4", "--codec", "h265")
    for name in ("out.mkv", "out.mp4"):
        with av.open(str(tmp_path / name)) as made:
            context, frame = made.streams.video[0].codec_context, next(made.decode(video=0))
            assert {tag: int(getattr(context, tag)) for tag in tags} == tags
            assert {tag: int(getattr(frame, tag)) for tag in tags} == tags
            assert frame.format.name == "yuv420p10le"


@pytest.mark.parametrize("codec", ["h264", "h265", "vp9", "ffv1"])
def test_tags_of_range_and_colour_are_kept_by_every_codec(run_video, tmp_path, codec):
    tags = {"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 2}
    film = write_film(tmp_path / "a.mkv", draw_frames(2, 64, 48), tags=tags)
    assert run_video(film, tmp_path / "out.mkv", "--codec", codec)[0] == 0
    with av.open(str(tmp_path / "out.mkv")) as made:
        frame = next(made.decode(video=0))
        assert {tag: int(getattr(frame, tag)) for tag in tags} == tags


def light_of(signal, transfer):
    """Light by the formulas of ITU-R BT.2100 and IEC 61966-2-1; of PQ in 10000 cd/m2."""
    if transfer == 16:
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        root = signal ** (1 / m2)
        return (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    if transfer == 18:
        a = 0.17883277
        c = 0.5 - a * np.log(4 * a)
        high = (np.exp((signal - c) / a) + 1 - 4 * a) / 12
        return np.where(signal <= 0.5, signal**2 / 3, high)
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


XYZ_OF_2020 = np.array(  # of ITU-R BT.2020
    [[0.636958, 0.144617, 0.168881], [0.262700, 0.677998, 0.059302], [0, 0.028073, 1.060985]]
)
XYZ_OF_P3 = np.array(  # of Display P3
    [[0.486571, 0.265668, 0.198217], [0.228975, 0.691739, 0.079287], [0, 0.045113, 1.043944]]
)


@pytest.mark.parametrize(
    ("transfer", "primaries", "matrix", "to_xyz"),
    [(16, 9, 9, XYZ_OF_2020), (18, 9, 9, XYZ_OF_2020), (14, 9, 9, XYZ_OF_2020),
     (13, 12, 1, XYZ_OF_P3)],
)  # fmt: skip
def test_colours_of_wide_films_have_the_chromaticity_that_is_wanted(
    transfer, primaries, matrix, to_xyz
):
    """Against the standards' formulas, and scikit-image's Lab."""
    rng = np.random.default_rng(0)
    luma = rng.uniform(0.25, 0.6, (20, 30)).astype(np.float32)
    ab = rng.uniform(-20, 20, (20, 30, 2)).astype(np.float32)
    coding = Coding(matrix, False, 10, transfer, primaries)
    rgb = to_rgb(luma, *solve_chroma(luma, ab, coding), matrix)
    kr, kb = MATRICES[matrix]
    assert np.abs(rgb @ [kr, 1 - kr - kb, kb] - luma).max() < 1e-5
    xyz = light_of(rgb, transfer) @ to_xyz.T
    wanted = color.lab2xyz(np.dstack([coding.lightness(luma), ab]))
    got, wanted = (values[..., :2] / values.sum(axis=2, keepdims=True) for values in (xyz, wanted))
    error = np.abs(got - wanted).max(axis=2)
    assert np.quantile(error, 0.9) < 5e-4 and error.max() < 0.04  # the rest is outside sRGB
    assert np.ptp(wanted[..., 0]) > 0.1


def test_greys_of_hdr_films_are_tone_mapped_from_black_to_white():
    for transfer, white in ((16, 0.5807), (18, 0.75)):  # BT.2408: 203 cd/m2
        coding = Coding(9, False, 10, transfer, 9)
        L = coding.lightness(np.linspace(0, 1, 99, dtype=np.float32))
        assert L[0] < 0.1 and L[-1] > 99.5 and (np.diff(L) >= 0).all()
        assert coding.lightness(np.float32([white]))[0] == pytest.approx(92.4, abs=0.5)
        # A grey card has 26 cd/m2 there, of 203, as in SDR.
        assert coding.lightness(np.float32([0.38]))[0] == pytest.approx(43, abs=2)


def test_rgb_films_keep_their_depth(run_video, tmp_path):
    deep = [frame.astype(np.uint16) * 3 + 99 for frame in draw_frames(2, 64, 48)]
    with av.open(str(tmp_path / "rgb.mkv"), "w") as made:
        stream = made.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gbrp10le"
        for y in deep:
            frame = av.VideoFrame(64, 48, "gbrp10le")
            for plane in frame.planes:
                np.frombuffer(memoryview(plane), np.uint16).reshape(48, -1)[:, :64] = y
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    assert run_video(tmp_path / "rgb.mkv", tmp_path / "out.mp4")[0] == 0
    assert run_video(tmp_path / "rgb.mkv", tmp_path / "out.mkv", "--codec", "ffv1")[0] == 0
    y = read_planes(tmp_path / "out.mkv")[1]
    assert np.abs(y - (64 + np.stack(deep) * (876 / 1023))).max() < 3  # as FFmpeg rounds them


def test_frames_are_deinterlaced_where_they_are_marked_or_always_or_never(run_video, tmp_path):
    """A film of four frames that are not marked as interlaced, and four that are."""
    plain, woven = list(weave_frames(4, 64, 48)), list(weave_frames(4, 64, 48, step=3))
    film = tmp_path / "a.mkv"
    with av.open(str(film), "w") as made:
        stream = made.add_stream("ffv1", rate=25, options={"level": "3"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
        for n, y in enumerate(plain + woven):
            frame = av.VideoFrame.from_ndarray(y, "gray")
            frame.pts, frame.time_base = n, Fraction(1, 25)
            if n >= 4:
                (frame,) = mark_interlaced([frame])
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))

    def luma(mode):
        film_ = read_film(film, deinterlace=mode)
        return [frame.y for frame in read_frames(film_, [])]

    auto, on, off = (luma(mode) for mode in ("auto", "on", "off"))
    assert len(auto) == len(on) == len(off) == 8
    for n, y in enumerate(plain + woven):
        assert np.array_equal(off[n], y)
        assert np.array_equal(auto[n], y) == (n < 4)
        assert not np.array_equal(on[n], y) and np.array_equal(on[n][::2], y[::2])
    assert np.array_equal(auto[6], on[6])
    assert run_video(film, tmp_path / "b.mkv", "--deinterlace", "sometimes")[0] == 2
    assert run_video(film, tmp_path / "b.mkv", "--deinterlace", "off", "-q")[0] == 0


def test_the_film_is_the_stream_that_moves_and_a_picture_before_it_is_told(run_video, tmp_path):
    frames = list(draw_frames(6, 64, 48))
    jpeg = BytesIO()
    Image.fromarray(frames[0]).save(jpeg, "JPEG")
    with av.open(str(tmp_path / "a.mkv"), "w") as made:
        cover = made.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        video = made.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "gray"
        made.start_encoding()
        packet = av.Packet(jpeg.getvalue())
        packet.stream, packet.pts, packet.dts = cover, 0, 0
        packet.time_base = Fraction(1, 1000)
        made.mux(packet)
        for y in frames:
            made.mux(video.encode(av.VideoFrame.from_ndarray(y, "gray")))
        made.mux(video.encode(None))
    code, _, err = run_video(tmp_path / "a.mkv", tmp_path / "out.mkv", "--codec", "ffv1")
    assert code == 0 and "its other video (stream 0) is not copied" in err
    assert np.array_equal(read_planes(tmp_path / "out.mkv")[1], np.stack(frames))


@pytest.mark.parametrize(("degrees", "flips"), [(0, "hflip"), (0, "vflip"), (90, "hflip")])
def test_mirrored_films_stay_mirrored_and_are_seen_as_they_are_shown(
    run_video, tmp_path, degrees, flips
):
    """A hint is at its place in the displayed frame."""
    grey = np.full((48, 64), 128, np.uint8)
    with av.open(str(tmp_path / "a.mp4"), "w") as made:
        stream = made.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(degrees, **{flips: True})
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(grey, "gray")
            made.mux(stream.encode(frame.reformat(format="yuv420p")))
        made.mux(stream.encode(None))
    film = read_film(tmp_path / "a.mp4")
    corner = np.zeros((48, 64), np.uint8)
    corner[:16, :16] = 1
    # set_display_rotation turns first, clockwise in pixels that go down, and then flips.
    shown = np.rot90(corner, degrees // 90)
    shown = shown[:, ::-1] if flips == "hflip" else shown[::-1]
    assert np.array_equal(film.upright(corner), shown)
    assert np.array_equal(film.stored(shown), corner)
    assert run_video(tmp_path / "a.mp4", tmp_path / "out.mp4", "--hint", "0.1,0.1,#c02020")[0] == 0
    assert read_film(tmp_path / "out.mp4").display == film.display


def test_frames_too_small_for_a_codec_and_shapes_of_pixels_it_loses_are_told(run_video, tmp_path):
    film = write_film(tmp_path / "a.mp4", draw_frames(2, 64, 48), codec="libx264",
                      aspect=Fraction(16, 15))  # fmt: skip
    code, _, err = run_video(film, tmp_path / "out.mkv", "--codec", "ffv1")
    assert code == 0 and "its pixels are 16:15, which is lost with ffv1" in err
    tiny = write_film(tmp_path / "t.mkv", [np.full((5, 3), 90, np.uint8)] * 2, codec="rawvideo",
                      pix_fmt="gray")  # fmt: skip
    for codec in ("h265", "ffv1"):
        code, _, err = run_video(tiny, tmp_path / "t.out.mkv", "--codec", codec)
        assert code == 1 and f"{codec} cannot encode frames of 3x5" in err
    assert run_video(tiny, tmp_path / "t.out.mkv")[0] == 0
    assert not list(tmp_path.glob(".*.condiff"))


def test_names_that_ffmpeg_or_the_disk_would_not_take(run_video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_film(tmp_path / "a.mkv", draw_frames(2, 64, 48))
    (tmp_path / "a.mkv").rename(tmp_path / "reel:1.mkv")
    assert run_video("reel:1.mkv", "concat:1.mp4")[0] == 0
    (tmp_path / "there" / "reel:1.mkv").mkdir(parents=True)
    for target, word in (("y" * 260 + ".mkv", "too long"), ("there", "is a folder"),
                         ("out", "is not a film")):  # fmt: skip
        code, out, err = run_video("reel:1.mkv", target, "--force")
        wanted = (2 if target == "out" else 1, "", 1)  # a wrong name exits 2, a wrong file 1
        assert (code, out, err.count("\n")) == wanted and word in err, err


def test_frames_of_another_size_and_a_film_as_their_target_are_refused_before_the_work(
    run_video, tmp_path
):
    folder = tmp_path / "roll [1]"
    folder.mkdir()
    for n, y in enumerate(draw_frames(3, 64, 48)):
        Image.fromarray(y).save(folder / f"{n}.png")
    assert run_video(f"{folder}/*.png", tmp_path / "out")[0] == 0
    assert len(list((tmp_path / "out").iterdir())) == 3
    Image.new("L", (64, 40)).save(folder / "9.png")
    for target, word in (("film.mp4", "names a film"), ("other", "64x40")):
        code, _, err = run_video(folder, tmp_path / target)
        assert code == 1 and word in err and err.count("\n") == 1, err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "roll [1]"]


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_the_parts_stay(tiny_folder, tmp_path):
    """A limit on the size of files simulates a full disk."""
    resource = pytest.importorskip("resource")
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (96, 128)).astype(np.uint8) for _ in range(12)]
    film = write_film(tmp_path / "a.mkv", noise)
    command = [sys.executable, "-m", "condiff", "video", film, tmp_path / "out.mkv", "-m",
               tiny_folder, *QUICK, "--codec", "ffv1"]  # fmt: skip

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "File too large" in done.stderr and not (tmp_path / "out.mkv").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_parts_of_a_film_that_is_being_made_are_left_alone(tmp_path):
    program = f"""
import sys
from pathlib import Path
from condiff.errors import FilmError
from condiff.video.parts import Parts
try:
    Parts(Path({str(tmp_path / "film.mp4")!r})).begin({{"seed": 2}}, force=True)
except FilmError as error:
    print(error)
"""
    parts = Parts(tmp_path / "film.mp4")
    parts.begin({"seed": 1}, force=False)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "is being made by another run" in done.stdout, done.stderr
    assert parts.seed() == 1
    parts.close()


@pytest.mark.parametrize("content", ["", "[]", '{"seed": [1]}'])
def test_settings_of_a_film_that_are_damaged_begin_it_anew(tmp_path, content):
    parts = Parts(tmp_path / "film.mp4")
    parts.begin({"seed": 1}, force=False)
    parts.close()
    (parts.folder / "settings.json").write_text(content, "utf-8")
    assert parts.seed() is None
    assert not parts.begin({"seed": 2}, force=False)
    assert parts.seed() == 2
    parts.remove()
