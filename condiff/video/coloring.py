"""The colours of a film: key frames by a pipeline, U and V from chroma, resumable segments."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from condiff import __version__
from condiff.color.edits import NO_EDITS, ColorEdits
from condiff.color.hints import DAB_RADIUS, Hint
from condiff.color.lab import lightness, upsample_chroma
from condiff.config import SamplingConfig
from condiff.errors import ConfigError, FilmError
from condiff.pipelines.pipeline import Pipeline
from condiff.video.reading import Film, FilmFrame, read_frames
from condiff.video.steady import EVERY, Colored, Key, Steady, Strokes
from condiff.video.writing import Encoding, SegmentWriter, join_film, writing_segment
from condiff.video.yuv import luma_to_lightness, solve_chroma

Plane = NDArray[Any]  # float32
Pixels = NDArray[Any]  # uint8 or uint16

SEGMENT = 240  # frames; a segment ends at the first key frame after so many


@dataclass(frozen=True)
class Coloring:
    """How the frames of a film get their chroma; a film is a function of these and its frames."""

    pipeline: Pipeline
    config: SamplingConfig
    seed: int
    edits: ColorEdits = NO_EDITS  # hints are placed on the first frame of a shot
    every: int = EVERY
    hint_shots: tuple[int, ...] = ()  # the shots that get the hints, from 1; none: all

    def sample(self, pixels: Pixels, size: tuple[int, int], strokes: Image.Image | None) -> Plane:
        """The chroma (h,w,2) of an upright picture (H,W,3), at the size (width, height).

        `strokes` are the hints at this frame, a transparent picture, or None.
        """
        edits = replace(self.edits, hints=strokes if strokes is not None else ())
        pipeline = self.pipeline
        encoded = pipeline.encode(pixels, config=self.config, edits=edits)
        *_, x_0 = pipeline.sample(encoded, config=self.config, seed=self.seed)
        space, (rows, columns) = pipeline.loaded.task.space, encoded.inside
        planes = pipeline.backend.to_numpy(x_0)[0, :, :rows, :columns]
        cells = np.ascontiguousarray(planes.clip(-space.clip, space.clip).transpose(1, 2, 0))
        prepared = encoded.edits
        (height, width), (wide, high) = pixels.shape[:2], size
        box = prepared.box or (slice(0, height), slice(0, width))
        inside = pixels[box]
        chroma = prepared.keep_hints(cells * space.scale, inside)
        down, across = high / height, wide / width
        top, bottom = round(box[0].start * down), round(box[0].stop * down)
        left, right = round(box[1].start * across), round(box[1].stop * across)
        fitting = (max(1, right - left), max(1, bottom - top))
        L = lightness(cv2.resize(inside, fitting, interpolation=cv2.INTER_AREA))
        fine = upsample_chroma(chroma, L)
        if prepared.adjust:
            fine = prepared.adjust(np.dstack([L, fine]))[..., 1:]
        if prepared.weight is not None:
            weight = cv2.resize(prepared.weight, fitting, interpolation=cv2.INTER_AREA)
            fine = fine * (weight[..., None] / np.float32(255))
        whole = np.zeros((high, wide, 2), np.float32)
        whole[top : top + fitting[1], left : left + fitting[0]] = fine[: high - top, : wide - left]
        return whole

    def strokes_of(self, shot: int, size: tuple[int, int]) -> Strokes | None:
        """The hints of a shot's first frame as RGBA (h,w,4) at the size (width, height)."""
        if self.hint_shots and shot not in self.hint_shots:
            return None
        hints = self.edits.hints
        if isinstance(hints, Image.Image):
            picture = hints.convert("RGBA")
            return np.array(picture.resize(size, Image.Resampling.NEAREST))
        return draw_dabs(hints, size) if hints else None


def draw_dabs(hints: Any, size: tuple[int, int]) -> Strokes:
    """Hints as discs on transparency, RGBA (h,w,4), on a picture of (width, height)."""
    from PIL import ImageColor

    width, height = size
    strokes = np.zeros((height, width, 4), np.uint8)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    for hint in hints:
        at_x, at_y = hint.locate(width, height)
        inside = np.hypot(x - at_x, y - at_y) <= max(2.0, DAB_RADIUS * min(size))
        strokes[inside] = (*ImageColor.getrgb(hint.color)[:3], 255)
    return strokes


def to_shares(edits: ColorEdits, film_size: tuple[int, int]) -> ColorEdits:
    """The edits with hints in pixels of a frame of (width, height) given as shares of it."""
    if isinstance(edits.hints, Image.Image):
        return edits
    width, height = film_size
    placed = []
    for hint in edits.hints:
        x, y = hint.locate(width, height)
        placed.append(Hint(float(x / width), float(y / height), hint.color))
    return replace(edits, hints=placed)


def check_model(pipeline: Pipeline) -> None:
    """Raise ConfigError for a model that is no colorizer."""
    if not pipeline.loaded.task.space.keeps_photo:
        raise ConfigError(
            f"The model {pipeline.loaded.path.name} colours no photos: take one of the task "
            "colorize."
        )


def describe_making(coloring: Coloring) -> str:
    """The note in a film that a model made its colours."""
    model = coloring.pipeline.loaded.path.name
    return f"Colours made by condiff {__version__}, model {model}, seed {coloring.seed}."


def steady_for(film: Film, coloring: Coloring) -> Steady[FilmFrame]:
    """How the frames of a film are coloured."""
    wide, high = film.guide_size
    upright = (high, wide) if film.turns % 2 else (wide, high)

    def sample(frame: FilmFrame, strokes: Strokes | None) -> Plane:
        picture = None if strokes is None else Image.fromarray(_turn(strokes, film.turns), "RGBA")
        chroma = coloring.sample(frame.picture(), upright, picture)
        return _turn(chroma, -film.turns)

    def strokes_of(shot: int) -> Strokes | None:
        strokes = coloring.strokes_of(shot, upright)
        return None if strokes is None else _turn(strokes, -film.turns)

    return Steady(sample, strokes_of, every=coloring.every)


def _turn(values: NDArray[Any], turns: int) -> NDArray[Any]:
    return np.ascontiguousarray(np.rot90(values, turns))


def chroma_planes(colored: Colored[FilmFrame]) -> tuple[NDArray[Any], NDArray[Any]]:
    """U and V of a frame at which it has its chroma, for the Y that it has."""
    frame, ab = colored.frame, colored.chroma
    coding = frame.film.coding
    luma = frame.luma_of_chroma()
    if ab.shape[:2] != luma.shape:
        ab = upsample_chroma(ab, luma_to_lightness(luma))
    return coding.chroma_levels(*solve_chroma(luma, ab, coding))


@dataclass(frozen=True)
class Progress:
    """How many frames are done, those of an earlier run included, and of how many, if known."""

    done: int
    total: int | None


class Parts:
    """The folder of a film's finished segments, beside the film that is written.

    00012.nut is a segment, and 00012.npz the state at the key frame with which the next one begins.
    """

    def __init__(self, target: Path):
        self.folder = target.with_name(f".{target.name}.condiff")

    def begin(self, settings: dict[str, Any], *, force: bool) -> bool:
        """Make the folder, or check that it was made with these settings; whether it goes on.

        Raises ConfigError for other settings; with `force` what they made is removed.
        """
        record = self.folder / "settings.json"
        if record.is_file():
            before = json.loads(record.read_text("utf-8"))
            if before != settings and not force:
                names = [n for n in settings if settings[n] != before.get(n)]
                raise ConfigError(
                    f"The film was begun with another {', '.join(names) or 'version'}: give the "
                    "same settings to go on, or --force to start over."
                )
            if before == settings:
                return True
        self.remove()
        try:
            self.folder.mkdir(exist_ok=True)
            record.write_text(json.dumps(settings), "utf-8")
        except OSError as error:
            raise FilmError(f"cannot write beside the film: {error.strerror}") from error
        return False

    def seed(self) -> int | None:
        """The seed of the film that was begun; None if there is none."""
        try:
            return int(json.loads((self.folder / "settings.json").read_text("utf-8"))["seed"])
        except (OSError, ValueError, KeyError):
            return None

    def segments(self) -> list[Path]:
        """The finished segments in order."""
        found: list[Path] = []
        while (path := self.path(len(found))).is_file():
            found.append(path)
        return found

    def path(self, number: int) -> Path:
        """The file of a segment."""
        return self.folder / f"{number:05}.nut"

    def save(self, number: int, first: int, key: Key) -> None:
        """Note that a segment begins at frame `first`, a key frame."""
        strokes = np.zeros(0, np.uint8) if key.strokes is None else key.strokes
        path = self.folder / f"{number:05}.npz"
        with open(path.with_suffix(".part"), "wb") as file:
            np.savez(file, first=first, chroma=key.chroma, strokes=strokes, shot=key.shot)
        path.with_suffix(".part").replace(path)

    def load(self, number: int) -> tuple[int, Key | None]:
        """The first frame of a segment and the state there; (0, None) of the film's first."""
        path = self.folder / f"{number:05}.npz"
        if number == 0 or not path.is_file():
            return 0, None
        with np.load(path) as saved:
            strokes = saved["strokes"] if saved["strokes"].size else None
            return int(saved["first"]), Key(saved["chroma"], strokes, int(saved["shot"]))

    def finish(self, frames: int, shots: int, faults: list[str]) -> None:
        """Note that all frames are in segments."""
        record = {"frames": frames, "shots": shots, "faults": faults}
        part = self.folder / "end.part"
        part.write_text(json.dumps(record), "utf-8")
        part.replace(self.folder / "end.json")

    def end(self) -> dict[str, Any] | None:
        """What `finish` noted, or None."""
        path = self.folder / "end.json"
        return json.loads(path.read_text("utf-8")) if path.is_file() else None

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def describe_settings(film: Film, coloring: Coloring, encoding: Encoding) -> dict[str, Any]:
    """All that a film depends on, for the check that a run goes on with the same."""
    status = film.path.stat()
    edits = coloring.edits
    hints: Any = edits.hints
    if isinstance(hints, Image.Image):
        hints = hashlib.sha256(hints.tobytes()).hexdigest()[:16]
    else:
        hints = [[hint.x, hint.y, hint.color] for hint in hints]
    return {
        "film": [film.path.name, status.st_size, status.st_mtime_ns],
        "version": __version__,
        "model": str(coloring.pipeline.loaded.path.name),
        "engine": coloring.pipeline.backend.name,
        "sampling": coloring.config.model_dump(mode="json"),
        "seed": coloring.seed,
        "every": coloring.every,
        "hints": hints,
        "hint_shots": list(coloring.hint_shots),
        "edits": [edits.saturation, edits.temperature, edits.mask_digest, edits.as_is],
        "encoding": [encoding.codec, encoding.quality, encoding.threads],
    }


def color_segments(
    film: Film, parts: Parts, coloring: Coloring, encoding: Encoding
) -> Iterator[Progress]:
    """Colour and encode all frames that are not in finished segments yet.

    A segment ends before a key frame, so that the next run goes on from there with the same bytes.
    """
    if parts.end() is not None:
        return
    number = len(parts.segments())
    first, key = parts.load(number)
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
                parts.save(number + 1, done, item.key)
        number += 1
    if not done:
        raise FilmError(f"cannot read {film.path}: none of its frames can be decoded")
    parts.finish(done, shots, faults)


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
    """Join the finished segments to the film; returns what `Parts.finish` noted."""
    end = parts.end()
    assert end is not None, "all frames are in segments"
    join_film(film, parts.segments(), target, force=force, skip=skip, comment=comment)
    parts.remove()
    return end
