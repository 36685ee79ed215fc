"""`condiff render`: make pictures that follow the lines of a drawing."""

import math
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condiff.cli import options
from condiff.cli.outputs import (
    check_distinct,
    choose_target,
    do_each,
    keep_sources,
    make_folders,
    number_targets,
    report_plan,
    report_result,
)
from condiff.cli.sampling import Group, SamplingFlagsOfDrawings, expand_groups
from condiff.files import shorten_stem
from condiff.platforms import expand_globs

if TYPE_CHECKING:
    from PIL import Image

    from condiff.color.edits import ColorEdits
    from condiff.config import SamplingConfig
    from condiff.inputs import Opened
    from condiff.models.info import ModelInfo
    from condiff.photos.photo import Photo
    from condiff.pipelines.cascade import Cascade

MAX_SIZE = 4096
CELL, LARGEST_CELL = 128, 512  # longer side of a picture on the contact sheet
FRAMES, FILM = 60, 512  # of an animation: how many at most, and their longer side


@dataclass(frozen=True)
class Targets:
    """The files of one command; None among the pictures is standard output."""

    source: str | None
    pictures: list[Path | None]
    sheet: Path | None
    animation: Path | None

    def check(self, *, force: bool) -> None:
        """Raise ImageError or ConfigError for files that cannot be written, before any work."""
        from condiff.figures import check_animation
        from condiff.photos.writing import check_target

        for path in (*self.pictures, self.sheet):
            if path is not None:
                check_target(path, force, new_folder=True)
        if self.animation is not None:
            check_animation(self.animation, force, new_folder=True)

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ImageError where a picture's format does not hold its size."""
        from condiff.photos.writing import check_size

        for path in self.pictures:
            check_size(size, path.suffix if path else "png", str(path or "standard output"))

    def paths(self) -> list[Path | None]:
        """All files that are written; None is standard output."""
        others = [path for path in (self.sheet, self.animation) if path is not None]
        return [*self.pictures, *others]


Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="DRAWING...",
        help="Drawings, or other pictures that the model takes, such as depth maps; - for "
        "standard input; leave it out for a model that takes none.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class PictureFlags(Group):
    """How a picture looks, besides the hints."""

    panel = options.HintFlags.panel

    size: Annotated[
        int | None,
        typer.Option(
            min=32,
            max=MAX_SIZE,
            help="Short side of a picture, in pixels (default: the drawing's own size, up to a "
            "long side of 2048; without a drawing, or with a model that enlarges, the side at "
            "which the model sees its condition).",
        ),
    ] = None
    upscale: Annotated[
        str,
        typer.Option(
            metavar="auto|lines|none|FOLDER",
            help="What enlarges a picture: lines (spreads its colours up to the drawing's lines), "
            "a model of the task upscale by its name or folder, none (plain resampling), or auto "
            "(the model that the model folder names, otherwise lines).",
        ),
    ] = "auto"
    keep_lines: Annotated[
        bool,
        typer.Option(
            "--keep-lines/--no-keep-lines",
            help="Draw the lines of the drawing over the colours.",
        ),
    ] = True
    flat: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="How even colours are inside closed lines, from 0, as the model samples them, to "
            "1, one colour for each region.",
        ),
    ] = 1.0


@dataclass(frozen=True)
class RenderFlags(Group):
    """The model, and the files of a command."""

    output: options.Output = None
    model: options.Model = "sketch"
    samples: options.Samples = 1
    seed: options.Seed = None
    gif: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Film the denoising of the first sample, as .gif, .webp or .mp4."
        ),
    ] = None
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Neither clean the drawing nor refuse photos: dark is ink, light is paper.",
        ),
    ] = False
    provenance: Annotated[
        bool,
        typer.Option(
            "--provenance/--no-provenance", help="Note in the file that a model made the picture."
        ),
    ] = True
    force: options.Force = False
    dry_run: options.DryRun = False


@expand_groups
def render(
    sampling: SamplingFlagsOfDrawings,
    hints: options.HintFlags,
    reading: options.Reading,
    machine: options.Machine,
    messages: options.Messages,
    looks: PictureFlags,
    flags: RenderFlags,
    sources: Sources = None,
) -> None:
    """Make pictures that follow the lines of drawings.

    A picture has the drawing's own size. The drawing may be a file, a scan or a phone's photo of
    paper: uneven light and grain are removed, white lines on black inverted, and transparency is
    taken for paper; what was done is reported on stderr. The picture for sketch.jpg is written
    beside it as sketch.render.png, and without a drawing as sample.png, unless -o names another
    file, or a folder, which is made if there is none. Several samples are numbered, and get a
    contact sheet. Paths are printed on stdout.
    """
    from condiff.color.edits import ColorEdits
    from condiff.models.info import read_model_info

    quiet, as_json = messages.quiet, messages.as_json
    jobs = plan_jobs(sources, flags)
    for targets in jobs:
        keep_sources(hints.paths(), targets.paths(), what="picture of hints")
        targets.check(force=flags.force)
    info = read_model_info(flags.model)
    info.check_sampling(sampling.override(info.sampling))
    machine.check(info)
    hinted = hints.describe()
    given = hints.read(max_pixels=reading.max_pixels)
    edits = ColorEdits(hints=given, keep_lines=looks.keep_lines, flat=looks.flat)
    open_source = partial(_open, info=info, reading=reading, as_is=flags.as_is, quiet=quiet)
    if flags.dry_run:
        for targets in jobs:
            open_source(targets.source)
            report_plan(targets.source, targets.paths(), as_json=as_json)
        return

    seed = secrets.randbits(31) if flags.seed is None else flags.seed
    load = cache(partial(_load, flags.model, looks, machine, quiet=quiet))

    def work(targets: Targets) -> None:
        started = time.perf_counter()
        opened = open_source(targets.source)
        cascade = load()
        config = sampling.override(cascade.pipeline.sampling)
        pictures = _render(targets, opened, cascade, config, edits, seed, hinted, flags, messages)
        label = f"{targets.source}: " if len(jobs) > 1 else ""
        options.report(
            f"{label}{pictures[0].width}x{pictures[0].height}, seed {seed}, {config.describe()}, "
            f"{cascade.pipeline.backend.name} on {cascade.pipeline.device}, "
            f"{time.perf_counter() - started:.1f} s",
            quiet=quiet,
        )

    do_each(jobs, work, lambda job: job.source or "", quiet=quiet, what="drawings")


def _load(model: str, looks: PictureFlags, machine: options.Machine, *, quiet: bool) -> "Cascade":
    from condiff.pipelines.cascade import Cascade

    options.quiet_libraries()
    cascade = Cascade.from_pretrained(
        model,
        size=looks.size,
        upscale=looks.upscale,
        device=machine.device,
        engine=machine.engine,
        threads=machine.threads,
    )
    if cascade.remark:
        options.report(cascade.remark, quiet=quiet)
    return cascade


def _render(
    targets: Targets,
    opened: "Opened | None",
    cascade: "Cascade",
    config: "SamplingConfig",
    edits: "ColorEdits",
    seed: int,
    hinted: dict[str, Any],
    flags: RenderFlags,
    messages: options.Messages,
) -> "list[Image.Image]":
    """Make all pictures of one drawing, and write each as soon as it is made."""
    side = cascade.size or cascade.native_side
    targets.check_size(cascade.fit(opened.size if opened else (side, side)))
    make_folders(targets.paths())
    pictures: list[Image.Image] = []
    encoded = cascade.encode(opened, config=config, edits=edits)
    for number, path in enumerate(targets.pictures, start=seed):
        picture = cascade.sample(encoded, opened, config=config, seed=number)
        pictures.append(picture)
        noted = cascade.note(picture, config=config, edits=edits, hints=hinted)
        _write(noted if flags.provenance else picture, path, force=flags.force)
        record = {"source": targets.source, "target": str(path or "-"), "seed": number}
        report_result(record, path, as_json=messages.as_json)
    if targets.sheet is not None:
        _write_sheet(pictures, opened, targets.sheet, seed=seed, force=flags.force)
        options.report(f"contact sheet: {targets.sheet}", quiet=messages.quiet)
    if targets.animation is not None:
        film = list(cascade.frames(opened, config=config, seed=seed, encoded=encoded))
        _write_film(film, targets.animation, force=flags.force)
        options.report(f"film: {targets.animation}", quiet=messages.quiet)
    return pictures


def plan_jobs(sources: Sequence[str] | None, flags: RenderFlags) -> list[Targets]:
    """The files of each drawing; raises BadParameter for those that would be written twice."""
    names: list[str | None] = [*dict.fromkeys(expand_globs(sources))] if sources else [None]
    many = len(names) > 1
    if many and flags.gif:
        raise typer.BadParameter("--gif is for a single drawing.")
    jobs = [plan_targets(name, flags.output, flags.samples, flags.gif, many=many) for name in names]
    written = [path for job in jobs for path in job.paths()]
    check_distinct(written, [job.source or "" for job in jobs for _ in job.paths()])
    keep_sources([job.source for job in jobs if job.source], written, what="drawing")
    return jobs


def plan_targets(
    source: str | None,
    output: str | None,
    samples: int,
    animation: Path | None,
    *,
    many: bool = False,
) -> Targets:
    """sketch.render.png, or sketch.render.1.png and so on beside sketch.render.sheet.png."""
    name = Path("sample.png" if source in (None, "-") else source or "")
    beside = name.parent / shorten_stem(name.stem, ".render.png") if source else name
    path = choose_target(output, beside, source=source, what="drawing", many=many)
    pictures = number_targets(path, samples)
    sheet = None
    if path and samples > 1:
        sheet = path.with_name(shorten_stem(path.stem, f".sheet{path.suffix}"))
    return Targets(source, pictures, sheet, animation)


def _open(
    source: str | None, *, info: "ModelInfo", reading: options.Reading, as_is: bool, quiet: bool
) -> "Opened | None":
    """The user's picture as the model takes it, if any; reports on stderr how it was cleaned."""
    from condiff.errors import ImageError

    if source is None:
        return None
    name = "standard input" if source == "-" else source
    photo = options.read_input(source, reading, quiet=quiet)
    try:
        opened = info.open(photo, as_is=as_is)
    except ImageError as error:
        raise ImageError(f"cannot take {name}: {error}") from None
    if opened.done:
        options.report(f"{name}: {', '.join(opened.done)}", quiet=quiet)
    return opened


def _write_film(frames: "list[Image.Image]", path: Path, *, force: bool) -> None:
    """Write at most FRAMES frames at the size of the last one, but at most FILM pixels long."""
    from PIL import Image

    from condiff.figures import pick_frames, write_animation

    scale = min(1, FILM / max(frames[-1].size))
    size = (max(1, round(frames[-1].width * scale)), max(1, round(frames[-1].height * scale)))
    write_animation(
        [
            frame if frame.size == size else frame.resize(size, Image.Resampling.BICUBIC)
            for frame in pick_frames(frames, FRAMES)
        ],
        path,
        force=force,
    )


def _write(picture: "Image.Image | Photo", path: Path | None, *, force: bool) -> None:
    """Write a picture to a file, or as a PNG to stdout."""
    from condiff.photos.metadata import Metadata
    from condiff.photos.photo import Photo
    from condiff.photos.writing import write_photo

    if not isinstance(picture, Photo):
        picture = replace(Photo.from_image(picture), metadata=Metadata(format="PNG"))
    if path is None:
        write_photo(picture, sys.stdout.buffer)
    else:
        write_photo(picture, path, force=force)


def _write_sheet(
    pictures: "list[Image.Image]", opened: "Opened | None", path: Path, *, seed: int, force: bool
) -> None:
    """A sheet, about square, of what the model was given and the pictures."""

    from condiff.figures import make_contact_sheet
    from condiff.photos.writing import write_image

    scale = min(max(pictures[0].size), LARGEST_CELL) / max(pictures[0].size)
    scale = max(scale, CELL / max(pictures[0].size))
    width, height = (max(1, round(side * scale)) for side in pictures[0].size)
    cells = [*pictures]
    names = [f"seed {seed + i}" for i in range(len(pictures))]
    if opened is not None:
        cells.insert(0, opened.show(width, height))
        names.insert(0, "input")
    across = min(5, len(cells)) if len(cells) <= 10 else math.ceil(math.sqrt(len(cells)))
    starts = range(0, len(cells), across)
    sheet = make_contact_sheet(
        [cells[i : i + across] for i in starts],
        side=max(width, height),
        captions=[names[i : i + across] for i in starts],
    )
    write_image(sheet, path, force=force)
