"""Colours a whole film in segments, which a later run reuses."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condiff.errors import FilmError
from condiff.video.coloring import Coloring, chroma_planes, steady_for
from condiff.video.parts import SEGMENT, Parts
from condiff.video.reading import Film, FilmFrame, read_frames
from condiff.video.steady import Colored
from condiff.video.writing import Encoding, SegmentWriter, join_film, writing_segment


@dataclass(frozen=True)
class Progress:
    """The number of frames done, including an earlier run's, and the total, if known."""

    done: int
    total: int | None


def describe_settings(film: Film, coloring: Coloring, encoding: Encoding) -> dict[str, Any]:
    """All settings that a film depends on, to check that a resumed run has the same."""
    status = film.path.stat()
    return {
        "film": [film.path.name, status.st_size, status.st_mtime_ns],
        **coloring.describe(),
        "deinterlace": film.deinterlace,
        "encoding": [encoding.codec, encoding.quality, encoding.threads],
    }


def color_segments(
    film: Film, parts: Parts, coloring: Coloring, encoding: Encoding
) -> Iterator[Progress]:
    """Colour and encode all frames that are not in finished segments.

    A segment ends before a key frame, where the next run continues with the same bytes.
    """
    if parts.end() is not None:
        return
    number, first, key, _ = parts.resume()
    faults: list[str] = []
    frames = read_frames(film, faults, threads=encoding.threads)
    for _ in range(first):
        next(frames)
    done, shots = first, key.shot if key else 0
    colored = steady_for(film, coloring).run(frames, key)
    item = next(colored, None)
    while item is not None:
        with writing_segment(parts.path(number), film, encoding) as writer:
            start = done
            while item is not None and not (item.key and done - start >= SEGMENT):
                _write(item, writer)
                shots = item.key.shot if item.key else shots
                done += 1
                yield Progress(done, film.expected)
                item = next(colored, None)
        if item is not None and item.key is not None:
            parts.save(number + 1, done, item.key, [parts.path(number)])
            number += 1
    if not done:
        raise FilmError(f"cannot read {film.path}: none of its frames can be decoded")
    parts.finish(done, shots, faults, number=number, made=[parts.path(number)])


def _write(item: Colored[FilmFrame], writer: SegmentWriter) -> None:
    writer.write(item.frame, *chroma_planes(item))


def finish_film(
    film: Film,
    parts: Parts,
    target: Path,
    *,
    force: bool,
    skip: tuple[str, ...] = (),
    comment: str = "",
) -> dict[str, Any]:
    """Join the finished segments to the film; returns the record of `Parts.finish`."""
    end = parts.end()
    assert end is not None, "all frames are in segments"
    join_film(film, parts.segments(), target, force=force, skip=skip, comment=comment)
    parts.remove()
    return end
