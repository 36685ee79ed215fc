"""Writes films: segments of coloured frames, and the film with the source's sound."""

import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from condiff.arrays import Levels
from condiff.errors import ConfigError, FilmError
from condiff.files import publish, reason_of, rename, unwritten
from condiff.video.reading import Film, FilmFrame, import_av, open_container, open_film

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame

COPIED = ("audio", "subtitle", "attachment")
CPU_AVX_512F = 13  # OpenCV's number for these instructions


@dataclass(frozen=True)
class Codec:
    """An FFmpeg encoder, its default quality and settings; `crf` None is lossless."""

    encoder: str
    crf: int | None
    worst: int  # the largest crf
    options: dict[str, str]
    only_even: bool = False  # refuses odd sides with halved U and V


CODECS: dict[str, Codec] = {
    "h264": Codec("libx264", 18, 51, {"preset": "veryfast"}, only_even=True),
    "h265": Codec(
        "libx265", 20, 51, {"preset": "fast", "x265-params": "log-level=error"}, only_even=True
    ),
    "vp9": Codec("libvpx-vp9", 24, 63, {"b": "0", "deadline": "good", "cpu-used": "4"}),
    "ffv1": Codec("ffv1", None, 0, {"level": "3", "slices": "4", "slicecrc": "1"}),
}
# By suffix: FFmpeg's name of the container, and its codecs, the default first.
CONTAINERS: dict[str, tuple[str, tuple[str, ...]]] = {
    ".mp4": ("mp4", ("h264", "h265", "vp9")),
    ".m4v": ("mp4", ("h264", "h265")),
    ".mov": ("mov", ("h264", "h265")),
    ".mkv": ("matroska", ("h264", "h265", "vp9", "ffv1")),
    ".webm": ("webm", ("vp9",)),
}


@dataclass(frozen=True)
class Encoding:
    """Encoding settings of a film."""

    codec: str
    crf: int | None = None  # None: the codec's default
    threads: int = 1  # of the encoder; affects the bytes written

    @property
    def quality(self) -> int | None:
        """The crf, None for a lossless codec."""
        return CODECS[self.codec].crf if self.crf is None else self.crf


def choose_encoding(target: Path, codec: str | None, crf: int | None, *, threads: int) -> Encoding:
    """The codec by a file's suffix, or the named one; ConfigError if they do not fit."""
    suffix = target.suffix.lower()
    if suffix not in CONTAINERS:
        raise ConfigError(
            f"{target} is not a film that can be written: name it {', '.join(CONTAINERS)}, or "
            "give a folder of frames for a folder of frames."
        )
    fitting = CONTAINERS[suffix][1]
    codec = codec or fitting[0]
    if codec not in CODECS:
        raise ConfigError(f"There is no codec {codec}: choose from {', '.join(CODECS)}.")
    if codec not in fitting:
        raise ConfigError(f"{suffix} cannot contain {codec}: name the film .mkv, or use another.")
    best = CODECS[codec]
    if crf is not None and (best.crf is None or not 0 <= crf <= best.worst):
        limit = "it is lossless" if best.crf is None else f"it is from 0 to {best.worst}"
        raise ConfigError(f"crf {crf} does not fit {codec}: {limit}.")
    return Encoding(codec, crf, threads)


def choose_format(film: Film, encoding: Encoding) -> Film:
    """The film in a pixel format that the codec supports: the depth of Y is always kept.

    U and V keep their size, or get the size of Y if the codec needs even sides. Raises FilmError if
    the codec does not support the depth.
    """
    codec = CODECS[encoding.codec]
    base = film.pix_fmt
    odd = film.width % 2 or (film.height % 2 and film.chroma_shift[1])
    if codec.only_even and film.chroma_shift[0] and odd:
        base = base.replace("yuv420p", "yuv444p").replace("yuv422p", "yuv444p")
    if base not in _formats_of(codec):
        # ffv1 supports all formats that frames are read in.
        deeper = "h265" if base in _formats_of(CODECS["h265"]) else "ffv1"
        raise FilmError(
            f"{film.path} has {film.coding.bits} bits a sample, which {encoding.codec} does not "
            f"support: add --codec {deeper}{' and a name in .mkv' if deeper == 'ffv1' else ''}"
        )
    if base == film.pix_fmt:
        return film
    return replace(film, pix_fmt=base, chroma_shift=(0, 0))


def _formats_of(codec: Codec) -> set[str]:
    av = import_av()
    return {format.name for format in av.Codec(codec.encoder, "w").video_formats}


def _add_video(container: "OutputContainer", film: Film, encoding: Encoding) -> Any:
    """Add the stream for the film's encoded frames."""
    codec = CODECS[encoding.codec]
    options = dict(codec.options)
    if encoding.quality is not None:
        options["crf"] = str(encoding.quality)
    if encoding.threads == 1 and codec.encoder == "libx265":
        options["x265-params"] += ":pools=none:frame-threads=1"
    if codec.encoder == "libx264" and cv2.checkHardwareSupport(CPU_AVX_512F):
        # With AVX-512, x264's rate control depends on old contents of memory.
        options["x264-params"] = "asm=AVX2,FMA3,BMI2"
    stream: Any = container.add_stream(codec.encoder, rate=film.rate, options=options)
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = film.width, film.height, film.pix_fmt
    context.time_base = stream.time_base = film.time_base
    context.sample_aspect_ratio = film.aspect
    context.thread_count = encoding.threads
    for name, value in film.tags.items():
        if value:
            setattr(context, name, value)
    return stream


class SegmentWriter:
    """Encodes frames to a separate file, with the film's times."""

    def __init__(self, path: Path, film: Film, encoding: Encoding):
        av = import_av()
        self.film, self.path = film, path
        bitexact = {"fflags": "+bitexact", "avoid_negative_ts": "disabled"}
        self._container = av.open(str(path), "w", format="nut", options=bitexact)
        self._stream = _add_video(self._container, film, encoding)

    def write(self, frame: FilmFrame, u: Levels, v: Levels) -> None:
        """Encode Y of a frame with these U and V."""
        self._container.mux(self._stream.encode(_join_planes(frame, u, v)))

    def close(self) -> None:
        """Encode pending frames, and finish the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """Close the file without finishing it."""
        self._container.close()


def _join_planes(frame: FilmFrame, u: Levels, v: Levels) -> "VideoFrame":
    av = import_av()
    film = frame.film
    made = av.VideoFrame(film.width, film.height, film.pix_fmt)
    for plane, levels in zip(made.planes, (frame.y, u, v), strict=True):
        rows = np.frombuffer(memoryview(plane), levels.dtype).reshape(
            -1, plane.line_size // levels.itemsize
        )
        rows[: levels.shape[0], : levels.shape[1]] = levels
    made.pts, made.time_base = frame.pts, film.time_base
    for name, value in film.tags.items():
        if value:
            setattr(made, name, value)
    return made


def choose_streams(
    film: Film, target: Path, encoding: Encoding, *, skip: Sequence[str] = ()
) -> list[str]:
    """Check that the target's container supports all copied streams.

    `skip` are kinds to leave out. Returns sentences on streams that are not copied. Raises
    FilmError for a stream that the container refuses.
    """
    av = import_av()
    notes = []
    if film.aspect != 1 and encoding.codec in ("ffv1", "vp9"):  # PyAV cannot store it there
        notes.append(
            f"its pixels are {film.aspect.numerator}:{film.aspect.denominator}, which is lost with "
            f"{encoding.codec}: players show them as square; h264 and h265 keep it"
        )
    last: Stream | None = None
    with open_film(film.path) as (container, video):
        for stream in container.streams:
            left_out = stream.type not in COPIED and stream.index != video.index
            if left_out and not _is_chapter_track(container, stream):
                cover = stream.disposition & av.stream.Disposition.attached_pic
                kind = "cover" if cover else f"other {stream.type}"
                notes.append(f"its {kind} (stream {stream.index}) is not copied")
        try:
            streams = _streams_to_copy(container, skip)
            with av.open(BytesIO(), "w", format=CONTAINERS[target.suffix.lower()][0]) as trial:
                _add_video(trial, film, encoding)
                for stream in streams:
                    last = stream
                    _copy_stream(trial, stream)
                last = None  # a failure from here on is not due to a stream
                trial.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            if last is None:
                raise FilmError(
                    f"{encoding.codec} cannot encode frames of {film.width}x{film.height} like "
                    f"those of {film.path}: try another --codec"
                ) from error
            name = last.codec_context.name if last.codec_context else "unknown"
            what = f"its {last.type} ({name})"
            flag = "--no-audio" if last.type == "audio" else "--no-subtitles"
            other = "" if target.suffix.lower() == ".mkv" else "name the film .mkv, or "
            raise FilmError(
                f"{target.suffix} cannot contain all of {film.path}: {what} does not fit; {other}"
                f"leave it out with {flag}"
            ) from error
    return notes


def _is_chapter_track(container: "InputContainer", stream: "Stream") -> bool:
    """Whether a stream holds the titles of the chapters, as in MP4; a muxer writes it anew."""
    chapters = len(container.chapters())
    of_mp4 = "mp4" in container.format.name.split(",")
    return of_mp4 and stream.type == "data" and chapters > 0 and stream.frames == chapters


def _streams_to_copy(container: "InputContainer", skip: Sequence[str]) -> list["Stream"]:
    return [s for s in container.streams if s.type in COPIED and s.type not in skip]


def _copy_stream(made: "OutputContainer", stream: "Stream") -> "Stream":
    """A stream for another file's packets; ValueError if the container refuses it."""
    if stream.codec_context is None:
        return made.add_stream_from_template(stream)
    copy = made.add_stream_from_template(stream, opaque=True)  # needs no encoder of that codec
    copy.metadata.update(stream.metadata)
    copy.disposition = stream.disposition
    return copy


def join_film(
    film: Film,
    segments: Sequence[Path],
    target: Path,
    *,
    force: bool,
    skip: Sequence[str] = (),
    comment: str = "",
) -> None:
    """Write the segments' frames and the source's sound, subtitles and chapters into one film.

    The target is written atomically. Raises FilmError if it cannot be written.
    """
    av = import_av()
    try:
        with publish(target, force) as file, open_film(film.path) as (source, _):
            options = {"fflags": "+bitexact"}
            format = CONTAINERS[target.suffix.lower()][0]
            if format in ("mp4", "mov"):
                options["movflags"] = "+faststart"
            name = os.path.abspath(file.name)
            with open_container(name, "w", format=format, options=options) as made:
                _fill(made, source, film, segments, skip, comment)
            os.fsync(file.fileno())  # the segments are removed next: a power cut must not lose both
    except (av.FFmpegError, OSError) as error:
        if isinstance(error, FileExistsError):
            raise unwritten(str(target), error) from error
        raise FilmError(
            f"cannot write {target}: {reason_of(error)}; try another place or format"
        ) from error


def _fill(
    made: "OutputContainer",
    source: "InputContainer",
    film: Film,
    segments: Sequence[Path],
    skip: Sequence[str],
    comment: str,
) -> None:
    """Write the header and all packets of a film."""
    av = import_av()
    made.metadata.update(source.metadata)
    if comment:
        _add_comment(made.metadata, comment)
    with av.open(str(segments[0])) as first:
        video = made.add_stream_from_template(first.streams.video[0])
    video.time_base = film.time_base
    video.codec_context.framerate = film.rate
    for name, value in film.tags.items():  # segments contain none, and ffv1 and vp9 not all
        if value:
            setattr(video.codec_context, name, value)
    video.metadata.update(film.metadata)
    if film.display:
        video.set_display_matrix(film.display)
    elif film.rotation:
        video.set_display_rotation(film.rotation)
    copies: dict[int, Stream] = {}
    for stream in _streams_to_copy(source, skip):
        copies[stream.index] = _copy_stream(made, stream)
    if chapters := source.chapters():
        made.set_chapters(chapters)
    followed = [s for s in source.streams if s.index in copies and s.type != "attachment"]
    others = _packets(source, followed, lambda p: copies[p.stream.index])
    for _, _, packet in heapq.merge(_segment_packets(segments, video), others):
        made.mux_one(packet)


def _add_comment(metadata: dict[str, str], comment: str) -> None:
    """Append a line to a film's comment, if it is not the last one."""
    name = next((name for name in metadata if name.lower() == "comment"), "comment")
    own = metadata.get(name, "")
    if not own.endswith(comment):
        metadata[name] = f"{own}\n{comment}" if own else comment


def _packets(
    container: "InputContainer", streams: Sequence["Stream"], place: Callable[..., "Stream"]
) -> Iterator[tuple[float, int, "Packet"]]:
    """Packets to be copied, with their time in seconds and a number that orders equal times."""
    av = import_av()
    last = 0.0
    if not streams:
        return
    packets = container.demux(*streams)
    number = 1
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the end of a truncated file
            return
        if packet is None:
            return
        if packet.dts is None and packet.pts is None:  # flushed by a demuxer at the end
            continue
        when = packet.dts if packet.dts is not None else packet.pts
        last = max(last, float((when or 0) * packet.time_base))
        packet.stream = place(packet)
        yield last, number, packet
        number += 2


def _segment_packets(
    segments: Sequence[Path], stream: "Stream"
) -> Iterator[tuple[float, int, "Packet"]]:
    """The packets of the segments one after the other, with new decoding times."""
    times = [int(packet.pts or 0) for packet in _read_segments(segments)]
    decoded = order_decoding(times)
    for number, packet in enumerate(_read_segments(segments)):
        packet.dts = decoded[number]
        packet.stream = stream
        yield float(packet.dts * packet.time_base), 2 * number, packet


def _read_segments(segments: Sequence[Path]) -> Iterator["Packet"]:
    av = import_av()
    for path in segments:
        with av.open(str(path)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size:  # a demuxer ends with an empty one
                    yield packet


def order_decoding(times: Sequence[int]) -> list[int]:
    """Decoding times of frames, from their presentation times in decoding order.

    They increase, and none is later than its presentation time: they are the sorted presentation
    times, delayed by as many frames as the codec reorders.
    """
    shown = sorted(times)
    rank = {time: n for n, time in enumerate(shown)}
    delay = max((n - rank[time] for n, time in enumerate(times)), default=0)
    step = max(1, shown[1] - shown[0]) if len(shown) > 1 else 1
    before = [shown[0] - step * n for n in range(delay, 0, -1)]
    return (before + shown)[: len(times)]


@contextmanager
def writing_segment(path: Path, film: Film, encoding: Encoding) -> Iterator[SegmentWriter]:
    """Write a segment atomically; FilmError if it cannot be written."""
    av = import_av()
    part = path.with_suffix(".part")
    writer = None
    try:
        writer = SegmentWriter(part, film, encoding)
        yield writer
        writer.close()
        rename(part, path)
    except (av.FFmpegError, OSError) as error:
        raise FilmError(
            f"cannot encode {film.path} as {encoding.codec}: {reason_of(error)}; try another "
            "--codec, or check the space on the disk"
        ) from error
    finally:
        if not path.exists():
            if writer is not None:
                writer.abandon()
            part.unlink(missing_ok=True)
