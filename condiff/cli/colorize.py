"""`condiff colorize`: a photo gets its colours."""

import json
import secrets
import sys
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer

from condiff.cli import options

DEFAULT_STEPS = 4
DEFAULT_SCHEDULER = "ddim"
DEFAULT_SIZE = 256


def colorize(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="A photo, or - for standard input.")
    ],
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="OUTPUT", help="Where to, or - for standard output.", show_default=False
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", help="The same as OUTPUT (default: photo.jpg -> photo.color.jpg)."
        ),
    ] = None,
    model: options.Model = "colorize",
    steps: options.Steps = DEFAULT_STEPS,
    scheduler: options.Scheduler = DEFAULT_SCHEDULER,
    seed: options.Seed = None,
    samples: options.Samples = 1,
    size: options.Size = None,
    quality: options.Quality = None,
    provenance: options.Provenance = True,
    page: Annotated[
        int | None, typer.Option(min=1, help="Which page or frame, where a file has several.")
    ] = None,
    max_pixels: options.MaxPixels = options.DEFAULT_MAX_PIXELS,
    device: options.Device = "auto",
    threads: options.Threads = 1,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Give a black-and-white photo its colours; a colour photo is coloured anew from its L*.

    The result has the photo's size and its L*, pixel for pixel; its path is printed on stdout.
    """
    from condiff.encoding import losses
    from condiff.images import check_target, read_photo, write_photo
    from condiff.provenance import add_provenance

    if target is not None and output is not None:
        raise typer.BadParameter("Give the output once: as OUTPUT or with -o, not both.")
    targets = plan_targets(source, output or target, samples)
    for path in targets:
        if isinstance(path, Path):
            check_target(path, force)
    started = time.perf_counter()
    stdin = source == "-"
    photo = read_photo(
        BytesIO(sys.stdin.buffer.read()) if stdin else Path(source),
        max_pixels=max_pixels,
        page=page,
    )
    seed = secrets.randbits(31) if seed is None else seed
    if dry_run:
        for path in targets:
            print(path or "-")
        return
    import torch

    from condiff.pipeline import Pipeline

    torch.set_num_threads(threads)
    options.quiet_libraries()
    pipeline = Pipeline.from_pretrained(model, device=device)
    results = pipeline(
        photo, steps=steps, scheduler=scheduler, seed=seed, samples=samples, size=size
    )
    width, height = photo.size
    del photo  # the encoders of a large photo need its room
    seen = pipeline.loaded.condition_size if size is None else size
    settings = {"steps": steps, "scheduler": scheduler, "size": seen}
    for number, (result, path) in enumerate(zip(results, targets, strict=True)):
        if provenance:
            metadata = add_provenance(
                result.metadata, model=Path(model).name, seed=seed + number, settings=settings
            )
            result = replace(result, metadata=metadata)
        lost = losses(result, path.suffix if path else "png")
        if lost:
            options.say(f"{path or '-'}: this format has no place for {lost}", quiet=quiet)
        if path is None:
            write_photo(result, sys.stdout.buffer, quality=quality)
        else:
            write_photo(result, path, quality=quality, force=force)
        if path is not None or as_json:
            told = {"source": source, "target": str(path or "-"), "seed": seed + number}
            stream = sys.stdout if path is not None else sys.stderr
            print(json.dumps(told) if as_json else path, file=stream)
    seconds = time.perf_counter() - started
    chatter = f"{width}x{height}, seed {seed}, {steps} steps of {scheduler}"
    options.say(f"{chatter}, {pipeline.device}, {seconds:.1f} s", quiet=quiet)


def plan_targets(source: str, output: str | None, samples: int) -> list[Path | None]:
    """One target a sample, None for stdout; photo.color.jpg, or photo.color.1.jpg and on."""
    from condiff.images import default_target

    if output == "-":
        if samples > 1:
            raise typer.BadParameter("Several samples do not fit into one standard output: use -o.")
        return [None]
    if output is None and source == "-":
        raise typer.BadParameter("A photo from standard input needs an output: -o FILE, or -o -.")
    path = Path(output) if output else default_target(Path(source), "color")
    if path.is_dir():
        path = path / default_target(Path(source), "color").name
    if samples == 1:
        return [path]
    return [path.with_name(f"{path.stem}.{n}{path.suffix}") for n in range(1, samples + 1)]
