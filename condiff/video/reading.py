"""Reads films: the properties of a file, and its frames as decoded planes."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from condiff.arrays import Levels, Pixels
from condiff.errors import DependencyError, FilmError
from condiff.files import reason_of
from condiff.video.deinterlacing import Deinterlace, deinterlace
from condiff.video.light import HDR, WIDE
from condiff.video.motion import Guide, guide_size
from condiff.video.yuv import MATRICES, Coding

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.format import VideoFormat
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

OTHER_CURVES = {8: "linear", 9: "logarithmic", 10: "logarithmic", 17: "SMPTE ST 428"}  # of H.273
FULL_RANGE = 2  # of FFmpeg's color_range
BT_2020 = 9  # of primaries and matrix
DEPTHS = (8, 9, 10, 12, 14, 16)  # bits a sample, of planar YUV
UNSPECIFIED = 2  # of primaries, transfer and matrix
_PLANAR = re.compile(r"yuv[aj]?4\d\dp(\d+le)?|gray(16le)?")  # also supported by bwdif
# Planar formats by their number of halvings of width and height of U and V; with depth and "le".
LAYOUTS = {(1, 1): "yuv420p", (1, 0): "yuv422p", (0, 0): "yuv444p"}
FIRST = 8  # frames at the start that are examined
SEEN = 512  # largest short side of the model's input picture
MISSING = 0.02  # tolerated share missing at the end, at most a second: rounding
GAP_SECONDS, GAP_STEPS = 1.0, 10  # without a frame, and lengths of a frame: both are a gap
EVEN = 0.9  # share of equal steps from frame to frame, from which a rate is constant
MAX_DAMAGED = 1000  # packets in a row, after which reading stops


@dataclass(frozen=True)
class Film:
    """The video stream of a file. Colour tags are numbers of H.273, as in the file."""

    path: Path
    width: int
    height: int
    pix_fmt: str
    coding: Coding
    chroma_shift: tuple[int, int]  # number of halvings of width and height of U and V
    tags: dict[str, int]  # color_primaries, color_trc, colorspace, color_range
    time_base: Fraction
    rate: Fraction  # average, frames a second
    aspect: Fraction  # width of a pixel by its height
    rotation: int  # for display, in degrees counterclockwise
    display: tuple[int, ...]  # the matrix of a film mirrored for display, else empty
    codec: str
    seconds: float | None  # length by the header
    seconds_of_all: bool  # whether `seconds` counts from zero to the end of the longest stream
    expected: int | None  # frames by the header, or by length and rate
    interlaced: bool = False  # whether its first frames are marked as interlaced
    deinterlace: Deinterlace = "auto"
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # sentences for the user

    @property
    def guide_size(self) -> tuple[int, int]:
        """Width and height of guides."""
        return guide_size(self.width, self.height)

    @property
    def turns(self) -> int:
        """Quarter turns counterclockwise that put a frame upright."""
        return round(self.rotation / 90) % 4

    def upright(self, values: NDArray[Any]) -> NDArray[Any]:
        """Turn a frame's (h,w,...) for display."""
        return np.ascontiguousarray(np.rot90(values[:, :: -1 if self.display else 1], self.turns))

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `upright`."""
        turned = np.rot90(values, -self.turns)
        return np.ascontiguousarray(turned[:, :: -1 if self.display else 1])

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of a frame with square pixels, before it is turned upright."""
        return max(1, round(self.width * self.aspect)), self.height

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of an upright frame with square pixels."""
        width, height = self.shown_size
        return (height, width) if self.turns % 2 else (width, height)

    @property
    def chroma_size(self) -> tuple[int, int]:
        """Rows and columns of U and V in the written film."""
        across, down = self.chroma_shift
        return -(-self.height >> down), -(-self.width >> across)


@dataclass
class FilmFrame:
    """A decoded frame: Y as in the file, and its time in units of the film's time base."""

    film: Film
    y: Levels  # (H,W)
    pts: int

    @cached_property
    def guide(self) -> Guide:
        """L* (h,w) uint8 at the size for motion estimation."""
        small = cv2.resize(self.y, self.film.guide_size, interpolation=cv2.INTER_AREA)
        coding = self.film.coding
        L = coding.lightness(coding.luma(small))
        return np.rint(L * np.float32(2.55)).astype(np.uint8)

    def luma_of_chroma(self) -> NDArray[Any]:
        """Y' in [0,1], averaged over the pixels of each sample of U and V."""
        rows, columns = self.film.chroma_size
        across, down = self.film.chroma_shift
        y = self.y
        if (rows << down, columns << across) != y.shape:  # odd sides: a smaller last sample
            pad = ((0, (rows << down) - y.shape[0]), (0, (columns << across) - y.shape[1]))
            y = np.pad(y, pad, mode="edge")
        small = cv2.resize(y, (columns, rows), interpolation=cv2.INTER_AREA)
        return self.film.coding.luma(small)

    def picture(self) -> Pixels:
        """The upright grey picture (H,W,3) uint8 with square pixels, short side at most 512."""
        width, height = self.film.shown_size
        scale = min(1.0, SEEN / min(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(self.y, size, interpolation=cv2.INTER_AREA)
        coding = self.film.coding
        grey = np.rint(coding.to_srgb(coding.luma(small)) * 255).astype(np.uint8)
        return self.film.upright(grey)[..., None].repeat(3, axis=2)


def import_av() -> Any:
    """PyAV; DependencyError without it."""
    try:
        import av
    except ImportError:
        raise DependencyError.of("Films need PyAV", extra="video") from None
    return av


def open_container(file: Any, mode: str = "r", **options: Any) -> Any:
    """`av.open`, where tags in other encodings than UTF-8 keep their bytes."""
    av = import_av()
    if int(av.__version__.partition(".")[0]) < 19:  # later ones do so themselves
        options["metadata_errors"] = "surrogateescape"
    return av.open(file, mode, **options)


@contextmanager
def open_film(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """The file and its video stream, FFmpeg's choice of several, without cover pictures.

    Raises FilmError for a file that is not a film or cannot be read.
    """
    av = import_av()
    if path.exists() and not path.is_file():
        raise FilmError(f"cannot read {path}: it is not a file, and a film is read twice: save it")
    try:
        # An absolute path: in "a:b.mkv" FFmpeg would treat "a" as a protocol.
        container = open_container(os.path.abspath(path))
    except (av.FFmpegError, OSError) as error:
        reason = "it is not a film, or its header is damaged"
        if not isinstance(error, av.error.InvalidDataError):
            reason = reason_of(error)
        raise FilmError(f"cannot read {path}: {reason}; try another file") from error
    with container:
        cover = av.stream.Disposition.attached_pic
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            raise FilmError(f"{path} is a photo: use `condiff colorize {path}`")
        stream = container.streams.best("video")
        if not stream or stream.disposition & cover or not stream.codec_context:
            raise FilmError(f"{path} has no pictures: it is not a film, or its header is damaged")
        yield container, stream


def read_film(path: Path, *, deinterlace: Deinterlace = "auto") -> Film:
    """Read the properties of a film from its header and first frames.

    Raises FilmError if its colours cannot be computed.
    """
    with open_film(path) as (container, stream):
        first = [*islice(_decode(container, stream, [], []), FIRST)]
        if not first:
            raise FilmError(f"cannot read {path}: none of its frames can be decoded")
        frame = first[0]
        interlaced = any(frame.interlaced_frame for frame in first)
        tags = _read_tags(frame, stream)
        _check_matrix(path, tags)
        seconds, of_all = _find_seconds(container, stream)
        rates = (stream.average_rate, stream.guessed_rate)
        rate = min((_as_fraction(rate) for rate in rates if rate), default=Fraction(25))
        expected = stream.frames or (round(seconds * rate) if seconds else None)
        layout, coding, shift = _find_layout(frame, tags)
        time_base = stream.time_base or 1 / rate
        rotation, display = _read_display(frame)
        return Film(
            path=path,
            width=frame.width,
            height=frame.height,
            pix_fmt=layout,
            coding=coding,
            chroma_shift=shift,
            tags=tags | {"colorspace": coding.matrix, "color_range": 1 + coding.full_range},
            time_base=_as_fraction(time_base),
            rate=rate,
            aspect=_as_fraction(stream.sample_aspect_ratio or 1),
            rotation=rotation,
            display=display,
            codec=stream.codec_context.name,
            seconds=seconds,
            seconds_of_all=of_all,
            expected=expected,
            interlaced=interlaced,
            deinterlace=deinterlace,
            metadata=dict(stream.metadata),
            notes=(*_find_notes(frame, interlaced, deinterlace), *_find_color_notes(tags)),
        )


def read_frames(film: Film, faults: list[str], *, threads: int = 1) -> Iterator[FilmFrame]:
    """The frames in order, with times that increase; `faults` gets a sentence for each fault.

    Interlaced frames become whole pictures, according to `film.deinterlace`. Damaged packets are
    skipped; a missing end is detected from the header's length.
    """
    with open_film(film.path) as (container, stream):
        stream.codec_context.thread_count = threads
        timed = _read_timed(film, container, stream, faults)
        planar = ((_to_planar(frame, film), pts) for frame, pts in timed)
        for frame, pts in deinterlace(planar, film.deinterlace):
            yield FilmFrame(film, _read_luma(frame, film), pts)


def _read_timed(
    film: Film, container: "InputContainer", stream: "VideoStream", faults: list[str]
) -> Iterator[tuple["VideoFrame", int]]:
    """Decoded frames with increasing times; FilmError for another size or depth, or a jump back."""
    step = max(1, round(1 / (film.rate * film.time_base)))
    last: int | None = None
    count = shown = 0
    gaps = Gaps(film)
    ends: list[float] = []
    for frame in _decode(container, stream, faults, ends):
        pts = frame.pts
        if change := _find_change(film, frame, last):
            raise FilmError(
                f"{film.path} changes its {change} at frame {count}: cut it there into two files"
            )
        if pts is None:
            pts = 0 if last is None else last + step
        elif last is not None and pts <= last:
            pts = last + 1
        gaps.add(last, pts)
        last, count, shown = pts, count + 1, max(step, frame.duration or 0)
        yield frame, pts
    if last is None:
        return
    seconds = float((last + shown) * film.time_base)
    if film.seconds_of_all:  # from zero, and the sound may be longer than the video
        seconds = max(seconds, *ends)
    else:
        seconds -= float(int(stream.start_time or 0) * film.time_base)
    faults += [fault for fault in (gaps.describe(), _find_shortage(film, count, seconds)) if fault]


def _find_change(film: Film, frame: "VideoFrame", last: int | None) -> str | None:
    """What of a frame does not continue the film, whose last frame was at the time `last`."""
    if (frame.width, frame.height) != (film.width, film.height):
        return f"size from {film.width}x{film.height} to {frame.width}x{frame.height}"
    bits = _count_bits(frame.format)
    if bits != film.coding.bits and not _is_rgb(frame.format):  # RGB is converted
        return f"depth from {film.coding.bits} to {bits} bits a sample"
    if last is not None and frame.pts is not None:
        before, now = (float(pts * film.time_base) for pts in (last, frame.pts))
        if before - now > _longest_step(film):
            return f"time from {before:.1f} back to {now:.1f} s"
    return None


def _longest_step(film: Film) -> float:
    """The seconds from frame to frame beyond which a film has a gap."""
    return max(GAP_SECONDS, GAP_STEPS / float(film.rate))


class Gaps:
    """Times without frames, in a film whose frames otherwise have equal distances.

    A demuxer that finds the next frame after a damaged place does not report the lost ones.
    """

    def __init__(self, film: Film):
        self._film = film
        self._step: int | None = None  # time from the frame before the last one to the last one
        self._count = self._even = 0  # steps, and those that are about as long as the one before
        self._first: tuple[int, int] | None = None
        self._lost = 0.0  # seconds

    def add(self, last: int | None, pts: int) -> None:
        """Note the time of a frame, and that of the frame before."""
        if last is None:
            return
        step = pts - last
        seconds = float(step * self._film.time_base)
        self._count += 1
        if seconds > _longest_step(self._film):
            self._first = self._first or (last, pts)
            self._lost += seconds
        else:
            self._even += self._step is None or 0.5 < step / self._step < 2
            self._step = step

    def describe(self) -> str | None:
        """A sentence on the gaps; None without, or if the film's rate is variable."""
        if self._first is None or self._even < EVEN * self._count:
            return None
        begin, end = (float(pts * self._film.time_base) for pts in self._first)
        return f"it has no frames for {self._lost:.1f} s, first from {begin:.1f} to {end:.1f} s"


def _decode(
    container: "InputContainer", stream: "VideoStream", faults: list[str], ends: list[float]
) -> Iterator["VideoFrame"]:
    """Frames of all packets that can be decoded; `ends` gets the end time of the other streams."""
    av = import_av()
    packets = container.demux()
    damaged = in_a_row = corrupt = 0
    end = 0.0
    while in_a_row < MAX_DAMAGED:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            if packet.stream.index != stream.index:
                if packet.pts is not None and packet.time_base:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                continue
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            if isinstance(error, av.error.EOFError):
                break
            damaged, in_a_row = damaged + 1, in_a_row + 1
            continue
        in_a_row = 0
        corrupt += sum(frame.is_corrupt for frame in frames)
        yield from frames
    ends.append(end)
    if damaged:
        faults.append(f"{damaged} of its packets are damaged")
    if corrupt:
        faults.append(f"{corrupt} of its frames are damaged")


def _find_shortage(film: Film, count: int, seconds: float) -> str | None:
    """A sentence if a film is shorter than its header states."""
    if film.expected is None or film.seconds is None:
        return None
    slack = max(2 / float(film.rate), min(MISSING * film.seconds, 1.0))
    if film.seconds - seconds > slack and count < film.expected:
        return (
            f"it is cut short: {seconds:.1f} of {film.seconds:.1f} s could be read, {count} frames"
        )
    return None


def _as_fraction(value: Any) -> Fraction:
    """A fraction, an integer, or PyAV 19's AVRational, which is no number for `Fraction`."""
    return Fraction(value.numerator, value.denominator)


def _find_seconds(container: "InputContainer", stream: "VideoStream") -> tuple[float | None, bool]:
    """The length in the header; True if it counts from zero and may be that of the sound."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base), False
    tag = stream.metadata.get("DURATION", "")  # Matroska's, hours:minutes:seconds
    parts = tag.split(":")
    if len(parts) == 3:
        try:
            units = zip(parts, (3600, 60, 1), strict=True)
            return sum(float(part) * unit for part, unit in units), True
        except ValueError:
            pass
    return (container.duration / 1e6 if container.duration else None), True


def _read_tags(frame: "VideoFrame", stream: "VideoStream") -> dict[str, int]:
    """The colour tags of a frame, or of its stream."""
    context = stream.codec_context
    return {
        name: int(getattr(frame, name) or getattr(context, name) or 0)
        for name in ("color_primaries", "color_trc", "colorspace", "color_range")
    }


def _read_display(frame: "VideoFrame") -> tuple[int, tuple[int, ...]]:
    """The rotation for display, and the matrix if frames are first mirrored left to right."""
    av = import_av()
    side_data: Any = frame.side_data  # its iterator gives values, from PyAV 19 on keys
    stored = side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    if stored is not None:
        matrix = tuple(int(n) for n in np.frombuffer(bytes(stored), np.int32))
        a, b, _, c, d = matrix[:5]
        if a * d < b * c:
            return round(-math.degrees(math.atan2(-b, -a))), matrix
    return int(frame.rotation), ()


def _find_notes(frame: "VideoFrame", interlaced: bool, mode: Deinterlace) -> tuple[str, ...]:
    notes = []
    if interlaced and mode == "off":
        notes.append(
            "it is interlaced: its lines are kept, but the result is not marked as interlaced"
        )
    elif interlaced:
        notes.append(
            "it is interlaced: every other line is interpolated (--deinterlace off keeps all lines)"
        )
    if frame.format.name.startswith("yuva") or len(frame.format.components) in (2, 4):
        notes.append("its transparency is not kept")
    return tuple(notes)


def _find_color_notes(tags: dict[str, int]) -> Iterator[str]:
    """Sentences on a film with colours other than sRGB."""
    hdr, wide = HDR.get(tags["color_trc"]), WIDE.get(tags["color_primaries"])
    primaries = wide[0] if wide else "BT.709"
    if hdr:
        yield (
            f"it is HDR ({hdr}, {primaries}): its Y and tags are kept, the model's input is "
            f"tone-mapped, and U and V encode sRGB colours in {primaries}"
        )
    elif wide:
        yield f"its Y and tags are kept, and sRGB colours are written in {primaries}"
    if curve := OTHER_CURVES.get(tags["color_trc"]):
        yield f"its {curve} curve is read as sRGB's: convert it first if it looks too light or dark"


def _check_matrix(path: Path, tags: dict[str, int]) -> None:
    if tags["colorspace"] not in (0, UNSPECIFIED, *MATRICES):
        raise FilmError(
            f"{path} has the colour matrix {tags['colorspace']}, which is not supported: convert "
            "it to BT.709 first"
        )


def _find_layout(frame: "VideoFrame", tags: dict[str, int]) -> tuple[str, Coding, tuple[int, int]]:
    """The pixel format of written frames, their coding, and the shifts of U and V."""
    name, format = frame.format.name, frame.format
    matrix = tags["colorspace"]
    if matrix not in MATRICES:  # untagged: as players guess, by primaries and size
        large = frame.height > 576 or frame.width > 1024
        matrix = BT_2020 if tags["color_primaries"] == BT_2020 else 1 if large else 6
    light = {"transfer": tags["color_trc"], "primaries": tags["color_primaries"]}
    bits = _count_bits(format)
    if _is_rgb(format):
        layout = "yuv444p" if bits == 8 else f"yuv444p{bits}le"
        return layout, Coding(matrix, full_range=False, bits=bits, **light), (0, 0)
    grey = name.startswith("gray")
    full = tags["color_range"] == FULL_RANGE or name.startswith("yuvj")
    full = full or (grey and tags["color_range"] == 0)
    across, down = (8 // format.chroma_width(8), 8 // format.chroma_height(8))
    shift = (across.bit_length() - 1, down.bit_length() - 1)
    if grey or shift not in LAYOUTS:
        shift = (1, 1)
    base = LAYOUTS[shift]
    return base if bits == 8 else f"{base}{bits}le", Coding(matrix, full, bits, **light), shift


def _count_bits(format: "VideoFormat") -> int:
    """Bits a sample, one of DEPTHS."""
    bits = max((c.bits for c in format.components), default=8)
    return next((depth for depth in DEPTHS if bits <= depth), 8)  # floats become 8 bits


def _is_rgb(format: "VideoFormat") -> bool:
    """Whether Y must be computed, as frames of a format have none of the film's coding."""
    no_coding = ("mono", "ya", "xyz", "pal", "bayer")
    return format.is_rgb or not format.components or format.name.startswith(no_coding)


def _to_planar(frame: "VideoFrame", film: Film) -> "VideoFrame":
    """The frame in a layout with Y as first plane: decoded values, or computed from RGB.

    Raises FilmError for a pixel format that FFmpeg does not convert.
    """
    if _PLANAR.fullmatch(frame.format.name):
        return frame
    # The same levels in another order: no range is converted.
    how: dict[str, Any] = {"src_color_range": "JPEG", "dst_color_range": "JPEG"}
    if _is_rgb(frame.format):
        coding = film.coding
        range_ = "JPEG" if coding.full_range else "MPEG"
        matrix = {6: 5}.get(coding.matrix, coding.matrix)  # FFmpeg names one of BT.601's two
        how = {"dst_colorspace": matrix, "dst_color_range": range_}
    try:
        return frame.reformat(format=film.pix_fmt, **how)
    except import_av().FFmpegError as error:
        raise FilmError(
            f"{film.path} has the pixel format {frame.format.name}, which is not supported: "
            "convert it to yuv420p first"
        ) from error


def _read_luma(frame: "VideoFrame", film: Film) -> Levels:
    """Y (H,W) of a planar frame."""
    plane = frame.planes[0]
    data = np.frombuffer(memoryview(plane), np.uint16 if film.coding.bits > 8 else np.uint8)
    rows = data.reshape(-1, plane.line_size // data.itemsize)
    return rows[: film.height, : film.width].copy()
