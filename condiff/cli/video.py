"""`condiff video`: colour a film, or the frames in a folder."""

import json
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from condiff.cli import options, outputs
from condiff.cli.process import on_one_line
from condiff.cli.progress import stopped_by_sigterm
from condiff.cli.sampling import Group, SamplingFlags, expand_groups
from condiff.video.deinterlacing import Deinterlace

if TYPE_CHECKING:
    from condiff.color.edits import ColorEdits
    from condiff.color.hints import Hints
    from condiff.video.coloring import Coloring
    from condiff.video.jobs import FilmResult, Job


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
            help="Deinterlace frames before they are coloured: those that are marked as "
            "interlaced, all, or none.",
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
    """Which part of the frames is coloured, and how often the model runs."""

    panel = "What the film contains"

    mask: Annotated[
        Path | None,
        typer.Option(
            help="A grey picture of the film's aspect: white places are coloured, black ones stay "
            "grey."
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
            help="Frames from key frame to key frame. The model colours key frames; between them, "
            "colours are carried along motion. At 1 the model colours all frames.",
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
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="The film to write, a folder for it, or the folder of frames."
        ),
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

    Y of every frame is kept as it was decoded, and U and V are replaced. Sound, subtitles and
    chapters are copied. The same command resumes a film that was stopped or killed. Hints are
    placed on the first frame of a shot, and follow what moves.
    """
    from condiff.video.jobs import FilmOptions, choose_target, load_coloring, plan_film

    target = choose_target(source, output)
    outputs.keep_source(source, [target], what="film")
    asked = FilmOptions(
        model=model,
        look=adjustment.look,
        overrides=sampling.given(),
        edits=content.edit(adjustment, references, hints.read()),
        seed=seed,
        every=content.every,
        hint_shots=tuple(content.hint_shot),
        codec=film.codec,
        crf=film.crf,
        deinterlace=film.deinterlace,
        skip=film.skip,
        provenance=film.provenance,
        force=film.force,
        device=machine.device,
        engine=machine.engine,
        threads=machine.threads,
    )
    job = plan_film(source, target, asked)
    outputs.keep_sources(hints.paths(), job.written, what="picture of hints")
    outputs.keep_sources([content.mask] if content.mask else [], job.written, what="mask")
    outputs.keep_sources(references.paths(), job.written, what="reference")
    for note in job.notes:
        options.report(f"{source}: {note}", quiet=messages.quiet)
    if film.dry_run:
        outputs.report_plan(source, [target], as_json=messages.as_json)
        return
    options.quiet_libraries()
    coloring = load_coloring(job)
    with closing(job.parts):
        report(job, run(job, coloring, quiet=messages.quiet), messages)


class Timed(NamedTuple):
    """The result of a run, and how fast it coloured the frames that were missing."""

    result: "FilmResult"
    frames_per_second: float


def run(job: "Job", coloring: "Coloring", *, quiet: bool) -> Timed:
    """Colour all frames and publish them."""
    from tqdm import tqdm

    if job.begin(coloring):
        options.report(f"{job.target}: resumed where it was stopped", quiet=quiet)
    started, done = time.perf_counter(), 0
    hidden = quiet or not sys.stderr.isatty()
    with stopped_by_sigterm(), tqdm(total=job.expected, unit="frame", disable=hidden) as bar:
        try:
            for progress in job.steps(coloring):
                if not done:  # frames done before do not count
                    bar.initial = bar.n = progress.done - 1
                done += 1
                bar.update()
        except KeyboardInterrupt:
            options.report("the same command resumes the film", quiet=quiet)
            raise
    result = job.finish(coloring)
    return Timed(result, done / max(time.perf_counter() - started, 1e-9))


def report(job: "Job", made: Timed, messages: options.Messages) -> None:
    """Print what was made; exits with 1 if the source is damaged."""
    result = made.result
    record = {"source": job.source, **result._asdict(), "target": str(job.target)}
    print(json.dumps(record) if messages.as_json else job.target)
    frames = f"{result.frames} frame{'s' if result.frames != 1 else ''}"
    shots = f"{result.shots} shot{'s' if result.shots != 1 else ''}"
    options.report(
        f"{frames}, {shots}, seed {result.seed}, {made.frames_per_second:.1f} frames/s",
        quiet=messages.quiet,
    )
    for shot in job.options.hint_shots:
        if shot > result.shots:
            options.report(f"there is no shot {shot} for the hints", quiet=messages.quiet)
    if result.faults:
        told = on_one_line(f"{job.source}: {'; '.join(result.faults)}.")
        print(f"condiff: {told}", file=sys.stderr)
        raise typer.Exit(1)
