"""`condiff video`: colour a film, or the frames in a folder."""

import json
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from condiff.cli import options, outputs
from condiff.cli.progress import stopped_by_sigterm
from condiff.cli.sampling import Group, SamplingFlags, expand_groups
from condiff.errors import FilmError
from condiff.video.deinterlacing import Deinterlace

if TYPE_CHECKING:
    from condiff.color.edits import ColorEdits
    from condiff.color.hints import Hints
    from condiff.video.coloring import Coloring
    from condiff.video.film import Progress
    from condiff.video.parts import Parts
    from condiff.video.reading import Film
    from condiff.video.writing import Encoding


@dataclass(frozen=True)
class FilmFlags(Group):
    """How the film is written."""

    panel = "Where it goes"

    codec: Annotated[
        str | None,
        typer.Option(
            metavar="h264|h265|vp9|ffv1",
            help="Codec of the film (default: h264, or vp9 in .webm). ffv1 is lossless, in .mkv.",
        ),
    ] = None
    crf: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=63,
            help="Quality of the codec, lower is better and larger (default: 18 for h264, 20 for "
            "h265, 24 for vp9).",
        ),
    ] = None
    deinterlace: Annotated[
        Deinterlace,
        typer.Option(
            help="Make whole pictures of interlaced frames before they are coloured: of those that "
            "are marked as interlaced, of all, or of none.",
        ),
    ] = "auto"
    audio: Annotated[
        bool, typer.Option("--audio/--no-audio", help="Copy the sound, or leave it out.")
    ] = True
    subtitles: Annotated[
        bool,
        typer.Option("--subtitles/--no-subtitles", help="Copy the subtitles, or leave them out."),
    ] = True
    provenance: Annotated[
        bool,
        typer.Option(
            "--provenance/--no-provenance",
            help="Note in the film's comment that a model made the colours.",
        ),
    ] = True
    force: options.Force = False
    dry_run: options.DryRun = False

    @property
    def skip(self) -> tuple[str, ...]:
        """The kinds of streams that are left out."""
        audio = () if self.audio else ("audio",)
        return audio if self.subtitles else (*audio, "subtitle", "attachment")


@dataclass(frozen=True)
class ContentFlags(Group):
    """What of the frames is coloured, and how often the model looks."""

    panel = "What the film contains"

    mask: Annotated[
        Path | None,
        typer.Option(
            help="A grey picture of the film's aspect: what is white in it is coloured, what is "
            "black stays grey."
        ),
    ] = None
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Colour black bars, too, and show the model dark and faded frames as they are.",
        ),
    ] = False
    every: Annotated[
        int,
        typer.Option(
            min=1,
            max=100,
            help="Frames from key frame to key frame: the model colours these; between them, "
            "colours are carried along motion. At 1 the model colours all.",
        ),
    ] = 12
    hint_shot: Annotated[
        list[int],
        typer.Option(
            min=1,
            help="Give the hints only to the shot of this number, from 1; may be repeated "
            "(default: to all).",
            show_default=False,
        ),
    ] = ()  # type: ignore[assignment]

    def edit(
        self, adjustment: options.Adjustment, references: options.ReferenceFlags, hints: "Hints"
    ) -> "ColorEdits":
        """These and other edits of the colours in one."""
        if self.mask is not None and self.mask.is_dir():
            raise typer.BadParameter(f"{self.mask} is a folder: a film takes one mask.")
        photo = options.Content(mask=self.mask, as_is=self.as_is)
        return photo.edit(adjustment, references, hints)


@expand_groups
def video(
    source: Annotated[
        str,
        typer.Argument(metavar="IN", help="A film, a folder of frames, or a glob in quotes."),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="The film to write, or the folder of frames.")
    ],
    film: FilmFlags,
    adjustment: options.Adjustment,
    hints: options.HintFlags,
    references: options.ReferenceFlags,
    content: ContentFlags,
    sampling: SamplingFlags,
    machine: options.Machine,
    messages: options.Messages,
    model: options.Model = "colorize",
    seed: options.Seed = None,
) -> None:
    """Give a black-and-white film steady colours.

    Y of every frame is kept as it was decoded, and U and V are written. Sound, subtitles and
    chapters are copied. The same command resumes a film that was stopped or killed. Hints are
    placed on the first frame of a shot, and follow what moves.
    """
    from condiff.video.frames import is_frames

    outputs.keep_source(source, [target], what="film")
    task = FramesTask if is_frames(source) else FilmTask
    job = task.plan(source, target, film, machine, quiet=messages.quiet)
    if film.dry_run:
        print(target)
        return
    seed = seed if seed is not None else job.parts.seed()
    seed = secrets.randbits(31) if seed is None else seed
    coloring = build_coloring(
        job.size,
        content.edit(adjustment, references, hints.read()),
        adjustment,
        content,
        sampling,
        machine,
        model=model,
        seed=seed,
    )
    with closing(job.parts):
        run(job, coloring, film, messages)


class Task(Protocol):
    """A film or a folder of frames that is to be coloured."""

    source: str
    target: Path
    parts: "Parts"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of an upright frame."""

    @property
    def expected(self) -> int | None:
        """How many frames there are, if that is known."""

    def begin(self, coloring: "Coloring", *, force: bool) -> bool:
        """Check what is there; whether an earlier run is gone on with."""

    def steps(self, coloring: "Coloring", flags: FilmFlags) -> Iterator["Progress"]:
        """Colour the frames."""

    def finish(self, coloring: "Coloring", flags: FilmFlags) -> dict[str, Any]:
        """Publish the result; what is to be reported: frames, shots, faults."""


@dataclass
class FilmTask:
    """A film, which becomes a film."""

    source: str
    target: Path
    film: "Film"
    encoding: "Encoding"
    parts: "Parts"

    @classmethod
    def plan(
        cls, source: str, target: Path, flags: FilmFlags, machine: options.Machine, *, quiet: bool
    ) -> "FilmTask":
        """Read the film's header, and raise an error for what cannot be done, before any work."""
        from condiff.video.parts import Parts
        from condiff.video.reading import read_film
        from condiff.video.writing import choose_encoding, choose_format, choose_streams

        encoding = choose_encoding(target, flags.codec, flags.crf, threads=machine.threads)
        film = read_film(Path(source), deinterlace=flags.deinterlace)
        film = choose_format(film, encoding)
        notes = choose_streams(film, target, encoding, skip=flags.skip)
        check_target(target, flags.force)
        for note in (*notes, *film.notes):
            options.report(f"{source}: {note}", quiet=quiet)
        return cls(source, target, film, encoding, Parts(target))

    @property
    def size(self) -> tuple[int, int]:
        return self.film.upright_size

    @property
    def expected(self) -> int | None:
        return self.film.expected

    def begin(self, coloring: "Coloring", *, force: bool) -> bool:
        from condiff.video.film import describe_settings

        settings = describe_settings(self.film, coloring, self.encoding)
        return self.parts.begin(settings, force=force)

    def steps(self, coloring: "Coloring", flags: FilmFlags) -> Iterator["Progress"]:
        from condiff.video.film import color_segments

        return color_segments(self.film, self.parts, coloring, self.encoding)

    def finish(self, coloring: "Coloring", flags: FilmFlags) -> dict[str, Any]:
        from condiff.video.film import finish_film

        comment = coloring.describe_making() if flags.provenance else ""
        return finish_film(
            self.film, self.parts, self.target, force=flags.force, skip=flags.skip, comment=comment
        )


@dataclass
class FramesTask:
    """A folder of frames, which becomes a folder of frames."""

    source: str
    target: Path
    paths: list[Path]
    targets: list[Path]
    parts: "Parts"
    size: tuple[int, int]

    @classmethod
    def plan(
        cls, source: str, target: Path, flags: FilmFlags, machine: options.Machine, *, quiet: bool
    ) -> "FramesTask":
        """List the frames, and raise an error for what cannot be done, before any work."""
        from condiff.photos.reading import read_photo
        from condiff.video.frames import check_sizes, list_frames, plan_targets
        from condiff.video.parts import Parts
        from condiff.video.writing import CONTAINERS

        if flags.codec or flags.crf is not None or flags.deinterlace != "auto":
            raise typer.BadParameter(
                "--codec, --crf and --deinterlace are for films, not for folders of frames."
            )
        if target.exists() and not target.is_dir():
            raise FilmError(f"cannot write {target}: it is a file; give a folder for the frames")
        if target.suffix.lower() in CONTAINERS and not target.is_dir():
            raise FilmError(f"{source} has frames, which become a folder: {target} names a film")
        paths = list_frames(source)
        targets = plan_targets(paths, target)
        size = read_photo(paths[0]).size
        check_sizes(paths, size)
        return cls(source, target, paths, targets, Parts(target), size)

    @property
    def expected(self) -> int | None:
        return len(self.paths)

    def begin(self, coloring: "Coloring", *, force: bool) -> bool:
        from condiff.video.frames import begin_frames

        return begin_frames(self.paths, self.targets, self.parts, coloring, force=force)

    def steps(self, coloring: "Coloring", flags: FilmFlags) -> Iterator["Progress"]:
        from condiff.video.frames import color_frames

        return color_frames(
            self.paths, self.targets, self.parts, coloring, provenance=flags.provenance
        )

    def finish(self, coloring: "Coloring", flags: FilmFlags) -> dict[str, Any]:
        end = self.parts.end()
        assert end is not None, "all frames are written"
        self.parts.remove()
        return end


def check_target(target: Path, force: bool) -> None:
    """Raise FilmError for a film that is there, or whose folder is not."""
    from condiff.files import EXISTS

    if target.is_dir():
        raise FilmError(f"cannot write {target}: it is a folder; name a file")
    if target.exists() and not force:
        raise FilmError(f"cannot write {target}: {EXISTS}")
    if not target.parent.is_dir():
        raise FilmError(f"cannot write {target}: there is no folder {target.parent}; make it first")


def build_coloring(
    size: tuple[int, int],
    edits: "ColorEdits",
    adjustment: options.Adjustment,
    content: ContentFlags,
    sampling: SamplingFlags,
    machine: options.Machine,
    *,
    model: str,
    seed: int,
) -> "Coloring":
    """The loaded model and what the flags say of colours, for frames of that width and height."""
    from condiff.pipelines.pipeline import Pipeline
    from condiff.video.coloring import Coloring, check_model, to_shares

    options.quiet_libraries()
    pipeline = Pipeline.from_pretrained(
        model, device=machine.device, engine=machine.engine, threads=machine.threads
    )
    check_model(pipeline)
    config, edits = pipeline.loaded.configure(
        edits, look=adjustment.look, overrides=sampling.given()
    )
    return Coloring(
        pipeline,
        config,
        seed,
        to_shares(edits, size),
        every=content.every,
        hint_shots=tuple(content.hint_shot),
    )


def run(job: Task, coloring: "Coloring", flags: FilmFlags, messages: options.Messages) -> None:
    """Colour all frames, publish them and report; exits with 1 if the source is damaged."""
    from tqdm import tqdm

    quiet = messages.quiet
    if job.begin(coloring, force=flags.force):
        options.report(f"{job.target}: goes on where it was stopped", quiet=quiet)
    started, done = time.perf_counter(), 0
    hidden = quiet or not sys.stderr.isatty()
    with stopped_by_sigterm(), tqdm(total=job.expected, unit="frame", disable=hidden) as bar:
        try:
            for progress in job.steps(coloring, flags):
                if not done:  # what is done already is not counted as fast
                    bar.initial = bar.n = progress.done - 1
                done += 1
                bar.update()
        except KeyboardInterrupt:
            options.report("the same command goes on from here", quiet=quiet)
            raise
    end = job.finish(coloring, flags)
    speed = done / max(time.perf_counter() - started, 1e-9)
    record = {"source": job.source, "target": str(job.target), "seed": coloring.seed, **end}
    print(json.dumps(record) if messages.as_json else job.target)
    shots = f"{end['shots']} shot{'s' if end['shots'] != 1 else ''}"
    options.report(
        f"{end['frames']} frames, {shots}, seed {coloring.seed}, {speed:.1f} frames/s", quiet=quiet
    )
    if end["faults"]:
        print(f"condiff: {job.source}: {'; '.join(end['faults'])}.", file=sys.stderr)
        raise typer.Exit(1)
