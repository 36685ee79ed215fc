"""`condiff render`: a drawing becomes pictures that follow its lines."""

import json
import math
import secrets
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condiff.cli import options
from condiff.cli.colorize import DEFAULT_SCHEDULER

if TYPE_CHECKING:
    from PIL import Image

    from condiff.conditions.drawing import Drawing
    from condiff.images.photo import Photo
    from condiff.pipeline import Pipeline
    from condiff.upscale import Upscaler

DEFAULT_STEPS = 25
MAX_SIZE = 4096
CELL = 128  # least side of a picture on the contact sheet
FRAMES = 60  # at most, of an animation
AUTO, NONE = "auto", "none"  # of --upscale


@dataclass(frozen=True)
class Targets:
    """Where everything goes; a picture's None is standard output."""

    pictures: list[Path | None]
    sheet: Path | None
    animation: Path | None


def render(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help="A drawing, or - for standard input; nothing for a model without condition.",
            show_default=False,
        ),
    ] = None,
    output: options.Output = None,
    model: options.Model = "sketch",
    samples: options.Samples = 1,
    seed: options.Seed = None,
    guidance_scale: options.GuidanceScale = None,
    variety: options.Variety = None,
    steps: options.Steps = DEFAULT_STEPS,
    scheduler: options.Scheduler = DEFAULT_SCHEDULER,
    size: Annotated[
        int | None,
        typer.Option(
            min=32,
            max=MAX_SIZE,
            help="Short side of a picture, in pixels (default: the model's). A larger one is drawn "
            "at the model's own size, then enlarged by --upscale.",
        ),
    ] = None,
    upscale: Annotated[
        str,
        typer.Option(
            metavar="auto|none|FOLDER",
            help="What enlarges: a model of the task upscale, which sees the lines; auto: the "
            "one that the model names; none: plain resampling.",
        ),
    ] = "auto",
    gif: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Film the first sample: a .gif, .webp or .mp4."),
    ] = None,
    as_is: Annotated[
        bool,
        typer.Option("--as-is", help="Clean nothing: dark is ink, light is paper, photo or not."),
    ] = False,
    provenance: Annotated[
        bool,
        typer.Option(
            "--provenance/--no-provenance", help="Note in the file that a model made the picture."
        ),
    ] = True,
    page: options.Page = None,
    max_pixels: options.MaxPixels = options.DEFAULT_MAX_PIXELS,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    threads: options.Threads = 1,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Make pictures that follow the lines of a drawing: a scan, a phone's photo, a file.

    Paper is flattened, white lines on black are inverted, transparency is paper; what was done is
    said. Of sketch.jpg the picture is sketch.render.png, without a drawing sample.png, unless -o
    says otherwise; several samples get numbers and a contact sheet. Paths are printed on stdout.
    """
    from condiff.figures import check_animation, pick_frames, write_animation
    from condiff.images.files import check_target, read_photo

    if upscale not in (AUTO, NONE) and size is None:
        raise typer.BadParameter(f"--upscale {upscale} enlarges to --size: give one.")
    targets = plan_targets(source, output, samples, gif)
    for path in [*targets.pictures, targets.sheet]:
        if path is not None:
            check_target(path, force)
    if targets.animation is not None:
        check_animation(targets.animation, force)
    started = time.perf_counter()
    photo = None
    if source is not None:
        photo = read_photo(options.open_input(source), max_pixels=max_pixels, page=page)
    drawing = _clean(photo, source or "", as_is=as_is, quiet=quiet) if photo else None
    if dry_run:
        for path in [*targets.pictures, targets.sheet, targets.animation]:
            if path is not None or path in targets.pictures:
                print(path or "-")
        return
    from condiff.errors import ConfigError
    from condiff.pipeline import Pipeline

    options.quiet_libraries()
    pipeline = Pipeline.from_pretrained(model, device=device, engine=engine, threads=threads)
    if pipeline.loaded.task.enlarges:
        raise ConfigError(
            f"The model {model} enlarges pictures: give it with --upscale, and a model of drawings "
            "with -m."
        )
    if pipeline.loaded.task.x_0 != "rgb":
        raise ConfigError(
            f"The model {model} colours photos: use `condiff colorize`, or give a model of "
            "drawings with -m."
        )
    own = pipeline.loaded.condition_size // pipeline.cell
    if size is None and pipeline.cell > 1:  # it sees its lines at more than it draws
        size = pipeline.loaded.condition_size
    enlarged = size is not None and size > own
    upscaler = None
    if enlarged:
        upscaler = _load_upscaler(upscale, pipeline, drawing, quiet=quiet)
    elif upscale not in (AUTO, NONE):
        options.say(f"{model} draws at {own}: there is nothing to enlarge", quiet=quiet)
    settings = {
        "steps": steps,
        "scheduler": scheduler,
        "size": None if enlarged or size is None else size * pipeline.cell,
        "guidance_scale": (guidance := pipeline.find_guidance_scale(guidance_scale)),
        "variety": pipeline.find_variety(variety),
    }
    seed = secrets.randbits(31) if seed is None else seed

    pictures: list[Image.Image] = []
    for number, path in enumerate(targets.pictures, start=seed):
        if number == seed and targets.animation is not None:
            frames = list(pipeline.frames(drawing, seed=number, **settings))  # type: ignore[arg-type]
            write_animation(pick_frames(frames, FRAMES), targets.animation, force=force)
            picture = frames[-1]
        else:
            (picture,) = pipeline(drawing, seed=number, **settings)  # type: ignore[arg-type]
        if size is not None and enlarged:
            picture = _enlarge(picture, drawing, upscaler, size=size, seed=number)
        how = upscaler.loaded.folder.name if upscaler else NONE
        noted = {**settings, "upscale": how} if provenance else None
        _write(picture, path, model=model, seed=number, settings=noted, force=force)
        pictures.append(picture)
        told = {"source": source, "target": str(path or "-"), "seed": number}
        if path is not None or as_json:
            _tell(told, path, as_json=as_json, stream=sys.stderr if path is None else sys.stdout)
    if targets.sheet is not None:
        _write_sheet(pictures, drawing, targets.sheet, seed=seed, force=force)
        _tell({"source": source, "sheet": str(targets.sheet)}, targets.sheet, as_json=as_json)
    if targets.animation is not None:
        told = {"source": source, "animation": str(targets.animation), "seed": seed}
        _tell(told, targets.animation, as_json=as_json)
    width, height = pictures[0].size
    guided = f", guidance {guidance:g}" if guidance != 1 else ""
    options.say(
        f"{width}x{height}, seed {seed}, {steps} steps of {scheduler}{guided}, "
        f"{pipeline.engine.name} on {pipeline.device}, {time.perf_counter() - started:.1f} s",
        quiet=quiet,
    )


def plan_targets(
    source: str | None, output: str | None, samples: int, animation: Path | None
) -> Targets:
    """sketch.render.png, or sketch.render.1.png and on beside sketch.render.sheet.png."""
    if output == "-":
        if samples > 1:
            raise typer.BadParameter("Several samples do not fit into one standard output: use -o.")
        return Targets([None], None, animation)
    if output is None and source == "-":
        raise typer.BadParameter("A drawing from standard input needs an output: -o FILE, or -o -.")
    name = Path(source) if source else Path("sample.png")
    beside = name.with_name(f"{name.stem}.render.png") if source else name
    path = Path(output) if output else beside
    if path.is_dir():
        path = path / beside.name
    if samples == 1:
        return Targets([path], None, animation)
    numbered = [path.with_name(f"{path.stem}.{n}{path.suffix}") for n in range(1, samples + 1)]
    return Targets([*numbered], path.with_name(f"{path.stem}.sheet{path.suffix}"), animation)


def _clean(photo: "Photo", source: str, *, as_is: bool, quiet: bool) -> "Drawing":
    """The drawing in a photo, or ImageError; what was done to it is said."""
    from condiff.conditions.drawing import clean_drawing
    from condiff.errors import ImageError

    drawing = clean_drawing(photo.pixels, photo.alpha, as_is=as_is)
    name = "standard input" if source == "-" else source
    if drawing.doubt:
        raise ImageError(f"cannot take {name}: {drawing.doubt}")
    if drawing.done:
        options.say(f"{name}: {', '.join(drawing.done)}", quiet=quiet)
    return drawing


def _load_upscaler(
    upscale: str, pipeline: "Pipeline", drawing: "Drawing | None", *, quiet: bool
) -> "Upscaler | None":
    """The model that enlarges, None for plain resampling; what `auto` could not do is said."""
    from condiff.errors import ConfigError
    from condiff.upscale import Upscaler

    if upscale == NONE:
        return None
    second = pipeline.loaded.second_stage
    if upscale == AUTO and (drawing is None or second is None):
        name = pipeline.loaded.folder.name
        why = "there are no lines" if drawing is None else f"{name} names no second stage"
        options.say(f"{why}: resampled plainly", quiet=quiet)
        return None
    if drawing is None:
        raise ConfigError(
            f"--upscale {upscale} enlarges along the lines of a drawing, and the model "
            f"{pipeline.loaded.folder.name} takes none: use --upscale none."
        )
    name = second if upscale == AUTO and second else upscale
    return Upscaler.from_pretrained(name, device=pipeline.device)


def _enlarge(
    picture: "Image.Image",
    drawing: "Drawing | None",
    upscaler: "Upscaler | None",
    *,
    size: int,
    seed: int,
) -> "Image.Image":
    from condiff.upscale import resample

    if upscaler is None or drawing is None:
        return resample(picture, size)
    return upscaler(picture, drawing, size=size, seed=seed)


def _write(
    picture: "Image.Image",
    path: Path | None,
    *,
    model: str,
    seed: int,
    settings: dict[str, Any] | None,
    force: bool,
) -> None:
    """The picture with a note of its making, unless settings are None, to a file or to stdout."""
    from condiff.images.files import write_photo
    from condiff.images.metadata import Metadata
    from condiff.images.photo import Photo
    from condiff.images.provenance import DRAWN, add_provenance

    result = replace(Photo.from_image(picture), metadata=Metadata(format="PNG"))
    if settings is not None:
        name = Path(model).name
        noted = add_provenance(
            result.metadata, model=name, seed=seed, settings=settings, source_type=DRAWN
        )
        result = replace(result, metadata=noted)
    if path is None:
        write_photo(result, sys.stdout.buffer)
    else:
        write_photo(result, path, force=force)


def _write_sheet(
    pictures: "list[Image.Image]", drawing: "Drawing | None", path: Path, *, seed: int, force: bool
) -> None:
    """The drawing as it was understood, then the pictures, in rows of about a square."""
    from PIL import Image

    from condiff.figures import make_contact_sheet
    from condiff.images.files import write_image

    cells = [*pictures]
    names = [f"seed {seed + i}" for i in range(len(pictures))]
    if drawing is not None:
        cells.insert(0, Image.fromarray(255 - drawing.ink))
        names.insert(0, "drawing")
    across = min(5, len(cells)) if len(cells) <= 10 else math.ceil(math.sqrt(len(cells)))
    starts = range(0, len(cells), across)
    sheet = make_contact_sheet(
        [cells[i : i + across] for i in starts],
        side=max(CELL, *pictures[0].size),
        captions=[names[i : i + across] for i in starts],
    )
    write_image(sheet, path, force=force)


def _tell(told: dict[str, Any], path: Path | None, *, as_json: bool, stream: Any = None) -> None:
    print(json.dumps(told) if as_json else path, file=stream or sys.stdout)
