"""Jobs: a film or a folder of frames, from its options to the published result."""

import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args

from condiff.checks import as_int_within, as_path, as_tuple, check_kind
from condiff.color.edits import OF_DRAWINGS
from condiff.errors import ConfigError, FilmError, UsageError
from condiff.files import EXISTS, find_obstacle
from condiff.pipelines.options import ColorOptions
from condiff.pipelines.pipeline import Pipeline
from condiff.platforms import SLASHES
from condiff.video.coloring import Coloring, to_shares
from condiff.video.deinterlacing import Deinterlace
from condiff.video.film import Progress, color_segments, describe_settings, finish_film
from condiff.video.frames import (
    begin_frames,
    check_sizes,
    color_frames,
    find_notes,
    is_frames,
    list_frames,
    plan_targets,
    read_frame,
)
from condiff.video.parts import Parts
from condiff.video.reading import Film, read_film
from condiff.video.steady import EVERY
from condiff.video.writing import (
    CONTAINERS,
    COPIED,
    Encoding,
    choose_encoding,
    choose_format,
    choose_streams,
)


@dataclass(frozen=True, kw_only=True)
class FilmOptions(ColorOptions):
    """Options of a film or a folder of frames; None means the default of model or program.

    Without a `seed`, that of a resumed run or a random one is used. The hints of `edits` are placed
    on the first frame of a shot; they do not invert, and have no background and no album. Raises
    ConfigError for a value of a wrong type or out of range.
    """

    every: int = EVERY  # frames from one key frame to the next
    hint_shots: tuple[int, ...] = ()  # the shots that get the hints, from 1; none: all
    codec: str | None = None  # h264, h265, vp9 or ffv1
    crf: int | None = None  # quality of the codec, 0 to 63
    deinterlace: Deinterlace = "auto"
    skip: tuple[str, ...] = ()  # kinds of streams that are not copied, such as audio
    threads: int = 1
    no_edits = ("invert", "background", "album", *OF_DRAWINGS)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least, most in (("every", 1, 100), ("threads", 1, 1024), ("crf", 0, 63)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, as_int_within(name, value, least, most))
        shots = as_tuple("hint_shots", self.hint_shots)
        shots = tuple(as_int_within("a shot's number", shot, 1) for shot in shots)
        object.__setattr__(self, "hint_shots", shots)
        object.__setattr__(self, "skip", as_tuple("skip", self.skip))
        if unknown := [kind for kind in self.skip if kind not in COPIED]:
            raise ConfigError(f"skip takes {', '.join(COPIED)}, not {unknown[0]!r}.")
        if self.deinterlace not in (kinds := get_args(Deinterlace)):
            raise ConfigError(
                f"deinterlace is one of {', '.join(kinds)}, not {self.deinterlace!r}."
            )


class FilmResult(NamedTuple):
    """A coloured film or folder of frames, and the faults of its source."""

    target: Path
    seed: int
    frames: int
    shots: int
    faults: list[str]


def colorize_film(
    source: str | Path,
    target: str | Path,
    options: FilmOptions | None = None,
    *,
    on_frame: Callable[[Progress], Any] | None = None,
) -> FilmResult:
    """Colour a film, or a folder or glob of frames, as `condiff video` does.

    `target` may be a folder for the film (see `choose_target`). `on_frame` is called after each
    frame. The results of an interrupted call are reused. Raises FilmError for a film that cannot be
    read or written, ConfigError for settings that differ from those of the resumed run.
    """
    options = FilmOptions() if options is None else options
    check_kind("options", options, FilmOptions)
    source = str(as_path("source", source))
    as_path("target", target)
    job = plan_film(source, choose_target(source, target), options)
    coloring = load_coloring(job)
    with closing(job.parts):
        job.begin(coloring)
        for progress in job.steps(coloring):
            if on_frame is not None:
                on_frame(progress)
        return job.finish(coloring)


def choose_target(source: str, target: str | Path) -> Path:
    """The target, or the film's name in it if it is a folder or ends with a slash.

    A suffix that is not one of CONTAINERS becomes .mkv. The target of frames is always a folder.
    """
    is_folder = os.path.isdir(target) or str(target).endswith(SLASHES)
    if not is_folder or is_frames(source):
        return Path(target)
    name = Path(Path(source).name)
    return Path(target) / (name if name.suffix.lower() in CONTAINERS else name.with_suffix(".mkv"))


def plan_film(source: str, target: Path, options: FilmOptions) -> "Job":
    """The job to do; raises an error before any work if it is impossible.

    Nothing is written, and no model is loaded.
    """
    if "-" in (source, str(target)):
        raise UsageError(
            "Films are not read from standard input or written to standard output: name a file."
        )
    kind = FramesJob if is_frames(source) else FilmJob
    return kind.plan(source, target, options)


def load_coloring(job: "Job") -> Coloring:
    """Load the model, and collect the settings of the colours for a job."""
    options = job.options
    seed = options.seed if options.seed is not None else job.parts.seed()
    pipeline = Pipeline.from_pretrained(
        options.model, device=options.device, engine=options.engine, threads=options.threads
    )
    pipeline.loaded.check_colorizes()
    config, edits = pipeline.loaded.configure(
        options.edits, look=options.look, overrides=dict(options.overrides)
    )
    return Coloring(
        pipeline,
        config,
        secrets.randbits(31) if seed is None else seed,
        to_shares(edits, job.size),
        every=options.every,
        hint_shots=options.hint_shots,
    )


@dataclass
class Job(ABC):
    """Colouring a film or a folder of frames: call begin, then steps, then finish."""

    source: str
    target: Path
    options: FilmOptions
    parts: Parts
    notes: tuple[str, ...]  # on parts of the source that the result will lack

    @classmethod
    @abstractmethod
    def plan(cls, source: str, target: Path, options: FilmOptions) -> Self:
        """Read the source's properties; raises an error for an impossible job."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Width and height of an upright frame."""

    @property
    @abstractmethod
    def expected(self) -> int | None:
        """The number of frames, if known."""

    @property
    def written(self) -> Sequence[Path]:
        """The files of the result."""
        return [self.target]

    @abstractmethod
    def begin(self, coloring: Coloring) -> bool:
        """Check existing results; returns whether an earlier run is resumed."""

    @abstractmethod
    def steps(self, coloring: Coloring) -> Iterator[Progress]:
        """Colour the missing frames."""

    @abstractmethod
    def finish(self, coloring: Coloring) -> FilmResult:
        """Publish the result."""


@dataclass
class FilmJob(Job):
    """From a film to a film."""

    film: Film
    encoding: Encoding

    @classmethod
    def plan(cls, source: str, target: Path, options: FilmOptions) -> Self:
        path = Path(source)
        if not path.exists():
            raise FilmError(f"cannot read {path}: there is no such file; check the path")
        encoding = choose_encoding(target, options.codec, options.crf, threads=options.threads)
        film = read_film(path, deinterlace=options.deinterlace)
        film = choose_format(film, encoding)
        notes = (*choose_streams(film, target, encoding, skip=options.skip), *film.notes)
        _check_target(film.path, target, force=options.force)
        return cls(source, target, options, Parts(target), notes, film, encoding)

    @property
    def size(self) -> tuple[int, int]:
        return self.film.upright_size

    @property
    def expected(self) -> int | None:
        return self.film.expected

    def begin(self, coloring: Coloring) -> bool:
        settings = describe_settings(self.film, coloring, self.encoding)
        return self.parts.begin(settings, force=self.options.force)

    def steps(self, coloring: Coloring) -> Iterator[Progress]:
        return color_segments(self.film, self.parts, coloring, self.encoding)

    def finish(self, coloring: Coloring) -> FilmResult:
        end = finish_film(
            self.film,
            self.parts,
            self.target,
            force=self.options.force,
            skip=self.options.skip,
            comment=coloring.describe_making() if self.options.provenance else "",
        )
        return FilmResult(self.target, coloring.seed, **end)


@dataclass
class FramesJob(Job):
    """From a folder of frames to a folder of frames."""

    paths: list[Path]
    targets: list[Path]
    frame_size: tuple[int, int]

    @classmethod
    def plan(cls, source: str, target: Path, options: FilmOptions) -> Self:
        of_films = (options.codec, options.crf is not None, options.skip)
        if any(of_films) or options.deinterlace != "auto":
            raise UsageError(
                "A codec, its crf, deinterlacing, and streams that are left out, are for films, "
                "not for folders of frames."
            )
        if target.exists() and not target.is_dir():
            raise FilmError(f"cannot write {target}: it is a file; give a folder for the frames")
        if target.suffix.lower() in CONTAINERS and not target.is_dir():
            raise FilmError(f"{source} has frames, which need a folder, but {target} names a film")
        paths = list_frames(source)
        targets = plan_targets(paths, target)
        first = read_frame(paths[0])
        check_sizes(paths, first.size)
        notes = tuple(find_notes(first, targets[0]))
        return cls(source, target, options, Parts(target), notes, paths, targets, first.size)

    @property
    def size(self) -> tuple[int, int]:
        return self.frame_size

    @property
    def expected(self) -> int | None:
        return len(self.paths)

    @property
    def written(self) -> Sequence[Path]:
        return self.targets

    def begin(self, coloring: Coloring) -> bool:
        force = self.options.force
        return begin_frames(self.paths, self.targets, self.parts, coloring, force=force)

    def steps(self, coloring: Coloring) -> Iterator[Progress]:
        provenance = self.options.provenance
        return color_frames(self.paths, self.targets, self.parts, coloring, provenance=provenance)

    def finish(self, coloring: Coloring) -> FilmResult:
        end = self.parts.end()
        assert end is not None, "all frames are written"
        self.parts.remove()
        return FilmResult(self.target, coloring.seed, **end)


def _check_target(source: Path, target: Path, *, force: bool) -> None:
    """Raise FilmError if the film exists, or cannot be written into its folder."""
    if target.is_dir():
        raise FilmError(f"cannot write {target}: it is a folder; name a file")
    if target.exists() and target.samefile(source):
        raise FilmError(f"cannot write {target}: it is the film itself; name another file")
    if target.exists() and not force:
        raise FilmError(f"cannot write {target}: {EXISTS}")
    if why := find_obstacle(target.parent, new=True):
        raise FilmError(f"cannot write {target}: {why}")
