"""Small films for tests, written and read by PyAV."""

from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np

from condiff.video.yuv import MATRICES

# Fast flags of `condiff video`.
QUICK = ["--steps", "1", "--size", "32", "--device", "cpu", "--seed", "5", "--every", "4"]


def draw_frames(count: int, width: int, height: int, *, step: int = 1, seed: int = 0):
    """Grey pictures (H,W) uint8 of a texture that moves `step` pixels to the left a frame."""
    rng = np.random.default_rng(seed)
    wide = width + count * step
    coarse = rng.uniform(30, 220, (height // 6 + 2, wide // 6 + 2))
    texture = np.kron(coarse, np.ones((6, 6)))[:height, :wide]
    blurred = (texture + np.roll(texture, 1, 0) + np.roll(texture, 1, 1)) / 3
    for n in range(count):
        yield blurred[:, n * step : n * step + width].astype(np.uint8)


def write_film(
    path: Path,
    frames,
    *,
    codec: str = "ffv1",
    pix_fmt: str = "yuv420p",
    times=None,
    time_base: Fraction = Fraction(1, 1000),
    sound: bool = False,
    rotation: int = 0,
    aspect: Fraction = Fraction(1),
    tags: dict[str, int] | None = None,
    subtitles: bool = False,
    chapters: bool = False,
    interlaced: str = "",
    comment: str = "",
    options: dict[str, str] | None = None,
) -> Path:
    """A film whose Y planes are the frames (H,W); U and V are neutral. 25 a second, or `times`."""
    frames = list(frames)
    height, width = frames[0].shape
    with av.open(str(path), "w") as made:
        made.metadata["comment"] = comment
        stream = made.add_stream(codec, rate=25, options=options or {})
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        context.time_base = stream.time_base = time_base
        context.sample_aspect_ratio = aspect
        for name, value in (tags or {}).items():
            setattr(context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        audio = (
            made.add_stream("pcm_s16le" if codec == "ffv1" else "aac", rate=8000) if sound else None
        )
        if subtitles:
            text = BytesIO(b"1\n00:00:00,040 --> 00:00:00,120\nAt the station\n")
            titles = av.open(text, format="srt")
            copy = made.add_stream_from_template(titles.streams.subtitles[0])
        if chapters:
            mark = {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000)}
            made.set_chapters([mark | {"metadata": {"title": "Arrival"}}])
        for n, y in enumerate(frames):
            frame = av.VideoFrame(width, height, pix_fmt)
            for plane, levels in zip(frame.planes, [y, None, None], strict=False):
                kind = np.uint16 if "le" in pix_fmt else np.uint8
                rows = np.frombuffer(memoryview(plane), kind)
                rows = rows.reshape(-1, plane.line_size // rows.itemsize)
                rows[:] = 512 if "10le" in pix_fmt else 128
                if levels is not None:
                    rows[:height, :width] = levels
            frame.pts = n * 40 if times is None else times[n]
            frame.time_base = time_base
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            if interlaced:
                (frame,) = mark_interlaced([frame], interlaced)
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
        if subtitles:
            for packet in titles.demux():
                if packet.size:
                    packet.stream = copy
                    made.mux(packet)
            titles.close()
        if audio is not None:
            wave = np.random.default_rng(0).integers(-9000, 9000, (1, 3200)).astype(np.int16)
            sounds = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            sounds.sample_rate, sounds.pts = 8000, 0
            made.mux(audio.encode(sounds))
            made.mux(audio.encode(None))
    return path


def weave_frames(count: int, width: int, height: int, *, step: int = 4):
    """Interlaced frames (H,W): the lines 1, 3, ... are half a frame later than the others."""
    fields = list(draw_frames(2 * count, width, height, step=step))
    for first, second in zip(fields[::2], fields[1::2], strict=True):
        frame = first.copy()
        frame[1::2] = second[1::2]
        yield frame


def mark_interlaced(frames, mode: str = "tff"):
    """PyAV frames marked as interlaced, the upper field first or last."""
    graph = None
    for frame in frames:
        if graph is None:
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format.name,
                time_base=frame.time_base,
            )
            mark, sink = graph.add("setfield", mode), graph.add("buffersink")
            source.link_to(mark)
            mark.link_to(sink)
            graph.configure()
        graph.push(frame)
        yield graph.pull()


def read_planes(path: Path):
    """Times in seconds (N), Y (N,H,W), U and V of a film."""
    times, planes = [], []
    with av.open(str(path)) as film:
        for frame in film.decode(video=0):
            times.append(float(frame.pts * frame.time_base))
            kind = np.uint16 if "le" in frame.format.name else np.uint8
            arrays = []
            for plane in frame.planes:
                rows = np.frombuffer(memoryview(plane), kind)
                rows = rows.reshape(-1, plane.line_size // rows.itemsize)
                arrays.append(rows[: plane.height, : plane.width].copy())
            planes.append(arrays)
    return times, *(np.stack(parts) for parts in zip(*planes, strict=True))


def to_rgb(luma, cb, cr, matrix: int) -> np.ndarray:
    """Y', Cb, Cr (h,w) -> R', G', B' (h,w,3), outside [0,1] for colours out of gamut."""
    kr, kb = MATRICES[matrix]
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.dstack([red, green, blue])


def read_packets(path: Path, kind: str) -> list[tuple[int, bytes]]:
    """The packets of the first stream of a kind: time in ms, content."""
    with av.open(str(path)) as film:
        stream = next(s for s in film.streams if s.type == kind)
        packets = [p for p in film.demux(stream) if p.size]
        return [(round(float(p.pts * p.time_base) * 1000), bytes(p)) for p in packets]
