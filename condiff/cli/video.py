"""`condiff video`: colour a film, or the frames in a folder."""

import json
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condiff.cli import options, outputs
from condiff.cli.progress import stopped_by_sigterm
from condiff.cli.sampling import Group, SamplingFlags, expand_groups
from condiff.errors import FilmError

if TYPE_CHECKING:
    from condiff.video.coloring import Coloring
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
            "colours are carried along motion. 1 colours each frame by itself.",
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
    from condiff.video.coloring import Parts, describe_settings
    from condiff.video.reading import read_film
    from condiff.video.writing import choose_encoding, choose_format, choose_streams

    encoding = choose_encoding(target, film.codec, film.crf, threads=machine.threads)
    outputs.keep_source(source, [target], what="film")
    found = read_film(Path(source))
    found = choose_format(found, encoding)
    notes = choose_streams(found, target, encoding, skip=film.skip)
    check_target(target, film.force)
    if film.dry_run:
        print(target)
        return
    for note in notes:
        options.report(f"{source}: {note}", quiet=messages.quiet)
    parts = Parts(target)
    seed = seed if seed is not None else parts.seed()
    seed = secrets.randbits(31) if seed is None else seed
    coloring = build_coloring(
        found, adjustment, hints, content, sampling, machine, model=model, seed=seed
    )
    resumed = parts.begin(describe_settings(found, coloring, encoding), force=film.force)
    if resumed:
        options.report(f"{target}: goes on where it was stopped", quiet=messages.quiet)
    run(found, target, parts, coloring, encoding, film, messages)


def check_target(target: Path, force: bool) -> None:
    """Raise FilmError for a film that is there, or whose folder is not."""
    from condiff.files import EXISTS

    if target.exists() and not force:
        raise FilmError(f"cannot write {target}: {EXISTS}")
    if not target.parent.is_dir():
        raise FilmError(f"cannot write {target}: there is no folder {target.parent}; make it first")


def build_coloring(
    film: "Film",
    adjustment: options.Adjustment,
    hints: options.HintFlags,
    content: ContentFlags,
    sampling: SamplingFlags,
    machine: options.Machine,
    *,
    model: str,
    seed: int,
) -> "Coloring":
    """The loaded model and what the flags say of colours."""
    from condiff.color.edits import ColorEdits
    from condiff.config import NATURAL
    from condiff.photos.reading import read_image
    from condiff.pipelines.pipeline import Pipeline
    from condiff.video.coloring import Coloring, check_model, to_shares

    given = hints.read()
    options.quiet_libraries()
    pipeline = Pipeline.from_pretrained(
        model, device=machine.device, engine=machine.engine, threads=machine.threads
    )
    check_model(pipeline)
    look = pipeline.loaded.find_look(adjustment.look or NATURAL)
    edits = ColorEdits(
        given,
        adjustment.saturation,
        adjustment.temperature,
        mask=read_image(content.mask) if content.mask else None,
        as_is=content.as_is,
    )
    return Coloring(
        pipeline,
        sampling.override(pipeline.sampling.override(look.sampling())),
        seed,
        to_shares(edits.with_saturation(look.saturation), film.upright_size),
        every=content.every,
        hint_shots=tuple(content.hint_shot),
    )


def run(
    film: "Film",
    target: Path,
    parts: Any,
    coloring: "Coloring",
    encoding: "Encoding",
    flags: FilmFlags,
    messages: options.Messages,
) -> None:
    """Colour all frames, join the film and report it; exits with 1 if the source is damaged."""
    import time

    from tqdm import tqdm

    from condiff.video.coloring import color_segments, describe_making, finish_film

    started, before, done = time.perf_counter(), None, 0
    hidden = messages.quiet or not sys.stderr.isatty()
    with stopped_by_sigterm(), tqdm(total=film.expected, unit="frame", disable=hidden) as bar:
        try:
            for progress in color_segments(film, parts, coloring, encoding):
                if before is None:
                    before = progress.done - 1
                    bar.update(before)
                bar.update()
                done = progress.done - before
        except KeyboardInterrupt:
            options.report("the same command goes on from here", quiet=messages.quiet)
            raise
    comment = describe_making(coloring) if flags.provenance else ""
    end = finish_film(film, parts, target, force=flags.force, skip=flags.skip, comment=comment)
    seconds = time.perf_counter() - started
    record = {"source": str(film.path), "target": str(target), "seed": coloring.seed, **end}
    print(json.dumps(record) if messages.as_json else target)
    options.report(
        f"{film.width}x{film.height}, {end['frames']} frames, {end['shots']} shots, "
        f"seed {coloring.seed}, {encoding.codec}, {done / max(seconds, 1e-9):.1f} frames/s",
        quiet=messages.quiet,
    )
    if end["faults"]:
        print(f"condiff: {film.path}: {'; '.join(end['faults'])}.", file=sys.stderr)
        raise typer.Exit(1)
