"""Whole pictures from interlaced frames, in which odd and even lines are of different times."""

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Deinterlace = Literal["auto", "on", "off"]

T = TypeVar("T")


def deinterlace(
    frames: Iterator[tuple["VideoFrame", T]], mode: Deinterlace
) -> Iterator[tuple["VideoFrame", T]]:
    """Planar YUV or grey frames as whole pictures, one each, with their accompanying values.

    The lines of an interlaced frame's first field are kept; the others are interpolated by FFmpeg's
    bwdif from the frames before and after. "auto" changes only frames marked as interlaced, "on"
    changes all, "off" none.
    """
    graph: Any = None
    waiting: deque[T] = deque()
    pushed = 0
    for frame, extra in frames:
        if mode == "off" or (graph is None and mode == "auto" and not frame.interlaced_frame):
            yield frame, extra
            continue
        frame.pts, frame.time_base = pushed, _TIME_BASE
        graph = graph or _make_graph(frame, mode)
        waiting.append(extra)
        pushed += 1
        for made in _push(graph, frame):
            yield made, waiting.popleft()
    if graph is not None:
        for made in _push(graph, None):
            yield made, waiting.popleft()


_TIME_BASE = Fraction(1, 1000)  # arbitrary: only the order of frames matters


def _make_graph(frame: "VideoFrame", mode: Deinterlace) -> Any:
    from av.filter import Graph

    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=_TIME_BASE
    )
    which = "interlaced" if mode == "auto" else "all"
    filter = graph.add("bwdif", f"mode=send_frame:parity=auto:deint={which}")
    sink = graph.add("buffersink")
    source.link_to(filter)
    filter.link_to(sink)
    graph.configure()
    return graph


def _push(graph: Any, frame: "VideoFrame | None") -> Iterator["VideoFrame"]:
    from av.error import BlockingIOError, EOFError

    graph.push(frame)
    while True:
        try:
            yield graph.pull()
        except (BlockingIOError, EOFError):
            return
