"""`condiff figure`: draw noise schedules, and how noise is added to pictures and removed."""

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condiff.cli import options
from condiff.cli.outputs import choose_target, keep_source, make_folders, write_picture
from condiff.cli.sampling import FILM_STEPS, SamplingFlagsOfFilms, expand_groups
from condiff.files import shorten_stem

if TYPE_CHECKING:
    from PIL import Image

    from condiff.config import DiffusionConfig

figure = typer.Typer(
    help="Draw pictures of the diffusion process.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Shift = Annotated[
    float, typer.Option(min=0.01, max=100, help="schedule_shift: adds 2 log of this to log SNR.")
]
ZeroSnr = Annotated[
    bool,
    typer.Option("--zero-snr", help="Rescale the schedule so that the last step is pure noise."),
]


@figure.command()
def schedule(
    output: Annotated[str, options.OUTPUT] = "schedule.png",
    shift: Shift = 1.0,
    zero_snr: ZeroSnr = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Plot beta_t and alpha_bar_t of the noise schedules."""
    from condiff.photos.writing import check_target

    target = choose_target(output, Path("schedule.png"), source=None)
    if target:
        check_target(target, force, new_folder=True)
    if dry_run:
        print(target or "-")
        return
    from condiff.figures import make_schedule_plot

    options.quiet_libraries()
    write_picture(make_schedule_plot(processes(shift, zero_snr)), target, force=force)


@figure.command(no_args_is_help=True)
@expand_groups
def forward(
    source: options.Input,
    reading: options.Reading,
    output: options.Output = None,
    size: Annotated[
        int, typer.Option(min=16, max=2048, help="Longer side of each picture, in pixels.")
    ] = 224,
    shift: Shift = 1.0,
    zero_snr: ZeroSnr = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the noise.")] = 0,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show how noise is added to a photo.

    One row per noise schedule; for photo.jpg it is written beside it as photo.forward.png.
    """
    from condiff.photos.writing import check_target

    target = choose_target(output, _name(source, "forward.png"), source=source)
    keep_source(source, [target])
    if target:
        check_target(target, force, new_folder=True)
    photo = options.read_input(source, reading, quiet=quiet).to_image()
    if dry_run:
        print(target or "-")
        return
    from condiff.figures import make_forward_strip

    options.quiet_libraries()
    strip = make_forward_strip(photo, processes(shift, zero_snr), side=size, seed=seed)
    write_picture(strip, target, force=force)


@figure.command()
@expand_groups
def reverse(
    sampling: SamplingFlagsOfFilms,
    reading: options.Reading,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help="A photo, or - for standard input; leave it out for a model that takes none.",
        ),
    ] = None,
    output: options.Output = None,
    model: options.Model = "colorize",
    seed: options.Seed = None,
    frames: Annotated[
        int,
        typer.Option(
            min=2, max=1000, help="Largest number of frames, the noise and the result included."
        ),
    ] = 60,
    fps: Annotated[float, typer.Option(min=1, max=50, help="Frames per second.")] = 12.0,
    size: Annotated[
        int, typer.Option(min=16, max=4096, help="Largest longer side of a frame, in pixels.")
    ] = 512,
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Neither clean a drawing nor refuse a photo in its place; show the model a "
            "photo's own levels.",
        ),
    ] = False,
    device: options.Device = "auto",
    force: options.Force = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Film how noise becomes a picture.

    For photo.jpg the film is written beside it as photo.reverse.gif. -o takes a .gif, .webp or
    .mp4; on standard output it is a GIF.
    """
    from condiff.figures import check_animation, pick_frames, write_animation

    beside = _name(source, "reverse.gif") if source else Path("reverse.gif")
    target = choose_target(output, beside, source=source)
    if source:
        keep_source(source, [target])
    if target:
        check_animation(target, force, new_folder=True)
    photo = options.read_input(source, reading, quiet=quiet).to_image() if source else None
    if dry_run:
        print(target or "-")
        return
    from condiff.color.edits import ColorEdits
    from condiff.pipelines.pipeline import Pipeline

    options.quiet_libraries()
    pipeline = Pipeline.from_pretrained(model, device=device)
    seed = secrets.randbits(31) if seed is None else seed
    if photo is not None:
        photo.thumbnail((size, size))
    config = pipeline.sampling.override({"steps": FILM_STEPS, **sampling.given()})
    edits = ColorEdits(as_is=as_is)
    made = pipeline.frames(photo, config=config, seed=seed, edits=edits)
    shown = pick_frames([_shrink(frame, size) for frame in made], frames)
    make_folders([target])
    write_animation(shown, target or sys.stdout.buffer, fps=fps, force=force)
    if target:
        print(target)
    width, height = shown[0].size
    how = f"seed {seed}, {config.describe()}"
    options.report(f"{len(shown)} frames of {width}x{height}, {how}", quiet=quiet)


def processes(shift: float, zero_snr: bool) -> Mapping[str, "DiffusionConfig"]:
    """The noise process of each schedule, by name."""
    from typing import get_args

    from condiff.config import BetaSchedule, DiffusionConfig

    return {
        name: DiffusionConfig(
            beta_schedule=name, schedule_shift=shift, rescale_betas_zero_snr=zero_snr
        )
        for name in get_args(BetaSchedule)
    }


def _name(source: str, ending: str) -> Path:
    """photo.jpg, "forward.png" -> photo.forward.png beside it."""
    path = Path(source)
    return path.parent / shorten_stem(path.stem, f".{ending}")


def _shrink(frame: "Image.Image", size: int) -> "Image.Image":
    frame.thumbnail((size, size))
    return frame
