"""Films that are unlike a plain one: interlaced, HDR, of odd layouts, with missing parts."""

from fractions import Fraction

import av
import numpy as np
import pytest

from condiff.cli import main
from condiff.video.reading import read_film, read_frames

from .films import mark_interlaced, read_planes, weave_frames, write_film

QUICK = ["--steps", "1", "--size", "32", "--device", "cpu", "--seed", "5", "--every", "4"]


@pytest.fixture
def run(tiny_folder, capsys):
    def call(*arguments):
        code = main(["video", "-m", str(tiny_folder), *QUICK, *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def combing(y):
    """How much lines differ from the mean of both neighbours, beyond what two lines apart do."""
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
    run, tmp_path, codec, pix_fmt, first, options
):
    frames = list(weave_frames(9, 64, 48))
    if "10le" in pix_fmt:
        frames = [frame.astype(np.uint16) * 4 for frame in frames]
    film = write_film(
        tmp_path / "a.mkv", frames, codec=codec, pix_fmt=pix_fmt, interlaced=first,
        options=options, times=range(9), time_base=Fraction(1, 25),
    )  # fmt: skip
    times, before, *_ = read_planes(film)
    code, _, err = run(film, tmp_path / "out.mkv", "--codec", "ffv1")
    assert code == 0 and "--deinterlace off" in err, err
    got, after, u, v = read_planes(tmp_path / "out.mkv")
    assert got == pytest.approx(times, abs=1e-3)
    kept = slice(0 if first == "tff" else 1, None, 2)
    assert np.array_equal(after[:, kept], before[:, kept])
    assert combing(after) < 0.4 * combing(before)
    with av.open(str(tmp_path / "out.mkv")) as made:
        assert not any(frame.interlaced_frame for frame in made.decode(video=0))


def test_frames_are_deinterlaced_where_they_are_marked_or_always_or_never(run, tmp_path):
    """A film of four frames that are not marked, and four that are."""
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
    assert run(film, tmp_path / "b.mkv", "--deinterlace", "sometimes")[0] == 2
    assert run(film, tmp_path / "b.mkv", "--deinterlace", "off", "-q")[0] == 0
