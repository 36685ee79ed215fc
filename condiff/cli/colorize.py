"""`condiff colorize`: colour a photo."""

import hashlib
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condiff.cli import options
from condiff.cli.outputs import (
    Extras,
    check_extras,
    check_pick,
    choose,
    choose_target,
    keep_source,
    name_sheet,
    number_targets,
    report_result,
    write_extras,
    write_film,
)

if TYPE_CHECKING:
    from condiff.batch.transform import Recipe
    from condiff.color.hints import Hints
    from condiff.photos.photo import Photo

DEFAULT_STEPS = 4
DEFAULT_SCHEDULER = "ddim"


def colorize(
    source: options.Input,
    target: Annotated[
        str | None,
        typer.Argument(metavar="OUTPUT", help="The same as -o.", show_default=False),
    ] = None,
    output: options.Output = None,
    model: options.Model = "colorize",
    steps: options.Steps = DEFAULT_STEPS,
    scheduler: options.Scheduler = DEFAULT_SCHEDULER,
    seed: options.Seed = None,
    samples: options.Samples = 1,
    guidance_scale: options.GuidanceScale = None,
    variety: options.Variety = None,
    hint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y,COLOR",
            help="Put a colour at a place; may be repeated. Numbers with a point are shares of "
            "width and height (0.5,0.25,#3c5ac8), whole numbers are pixels (300,200,#3c5ac8).",
        ),
    ] = None,
    hints: Annotated[
        Path | None,
        typer.Option(
            help="Take hints from a PNG of the photo's aspect: strokes of colour on transparency."
        ),
    ] = None,
    saturation: options.Saturation = 1.0,
    temperature: options.Temperature = 0.0,
    pick: Annotated[
        str | None,
        typer.Option(
            help="Write only one of the samples: median (the nearest to the mean of all), colorful "
            "(the most chroma), or best (the rule that measured best, which is median)."
        ),
    ] = None,
    sheet: Annotated[
        bool,
        typer.Option(
            "--sheet/--no-sheet",
            help="Write several samples side by side, too: photo.color.sheet.jpg.",
        ),
    ] = True,
    uncertainty: Annotated[
        Path | None, typer.Option(help="Write a map of how far the samples differ to this file.")
    ] = None,
    gif: Annotated[
        Path | None,
        typer.Option(help="Film the way from noise to the result, as .gif, .webp or .mp4."),
    ] = None,
    size: options.Size = None,
    quality: options.Quality = None,
    provenance: options.Provenance = True,
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
    """Give a black-and-white photo its colours.

    The result has the photo's size and, pixel for pixel, its lightness. Colours of a colour photo
    are ignored and made anew. The result of photo.jpg is written beside it as photo.color.jpg,
    unless -o says otherwise; its path is printed on stdout.
    """
    from condiff.photos.reading import read_photo
    from condiff.photos.writing import check_target

    if target is not None and output is not None:
        raise typer.BadParameter("Give the output once: as OUTPUT or with -o, not both.")
    check_pick(pick, samples)
    targets = plan_targets(source, output or target, 1 if pick else samples)
    many = len(targets) > 1 and sheet
    extras = Extras(sheet=name_sheet(targets[0]) if many else None, map=uncertainty, film=gif)
    keep_source(source, [*targets, *extras.paths()])
    if hints is not None:
        keep_source(str(hints), [*targets, *extras.paths()], what="picture of hints")
    check_extras(extras, targets, samples=samples, force=force)
    for path in targets:
        if isinstance(path, Path):
            check_target(path, force)
    started = time.perf_counter()
    photo = read_photo(options.open_input(source), max_pixels=max_pixels, page=page)
    given = read_hints(hint or [], hints)
    report_shortfall(photo, given, quiet=quiet)
    seed = secrets.randbits(31) if seed is None else seed
    if dry_run:
        for path in [*targets, *extras.paths()]:
            print(path or "-")
        return
    from condiff.batch.transform import Recipe, note_making
    from condiff.pipelines.pipeline import Pipeline

    options.quiet_libraries()
    pipeline = Pipeline.from_pretrained(model, device=device, engine=engine, threads=threads)
    recipe = Recipe(
        model=Path(model).name,
        device=pipeline.device,
        engine=pipeline.engine.name,
        steps=steps,
        scheduler=scheduler,
        size=size,
        guidance_scale=guidance_scale,
        variety=variety,
        saturation=saturation,
        temperature=temperature,
        provenance=provenance,
        quality=quality,
        page=page,
        max_pixels=max_pixels,
    )
    results = pipeline(photo, seed=seed, samples=samples, hints=given, **recipe.arguments())
    report_grey(photo, results[0], recipe, quiet=quiet)
    write_extras(results, extras, force=force, quiet=quiet)
    results = choose(results, pick)
    if gif:
        picked = int(results[0].info["seed"])
        frames = pipeline.frames(photo, seed=picked, hints=given, **recipe.arguments())
        write_film(frames, gif, force=force, quiet=quiet)
    width, height = photo.size
    del photo  # the encoders of a large photo need its room
    strokes = hashlib.sha256(hints.read_bytes()).hexdigest() if hints else None
    for made, path in zip(results, targets, strict=True):
        result = note_making(made, pipeline, recipe, points=hint or (), strokes=strokes)
        write_result(result, path, quality=quality, force=force, quiet=quiet)
        told = {"source": source, "target": str(path or "-"), "seed": result.info["seed"]}
        report_result(told, path, as_json=as_json)
    seconds = time.perf_counter() - started
    chatter = f"{width}x{height}, seed {seed}, {steps} steps of {scheduler}"
    options.report(
        f"{chatter}, {pipeline.engine.name} on {pipeline.device}, {seconds:.1f} s", quiet=quiet
    )


def plan_targets(source: str, output: str | None, samples: int) -> list[Path | None]:
    """The target of each sample, None for stdout: photo.color.jpg, or photo.color.1.jpg and on."""
    from condiff.photos.writing import default_target

    beside = default_target(Path(source), "color")
    return number_targets(choose_target(output, beside, source=source), samples)


def write_result(
    result: "Photo", path: Path | None, *, quality: int | None, force: bool, quiet: bool
) -> None:
    """Write a photo to a file, or to stdout; stderr says what of it the format cannot hold."""
    from condiff.photos.writing import losses, write_photo

    lost = losses(result, path.suffix if path else "png")
    if lost:
        options.report(f"{path or '-'}: this format has no place for {lost}", quiet=quiet)
    if path is None:
        write_photo(result, sys.stdout.buffer, quality=quality)
    else:
        write_photo(result, path, quality=quality, force=force)


def read_hints(points: list[str], strokes: Path | None) -> "Hints":
    """The hints of --hint, or those of --hints; BadParameter if both are given."""
    from condiff.color.hints import parse_hint
    from condiff.photos.reading import read_image

    if points and strokes:
        raise typer.BadParameter("Give hints as --hint or as --hints, not both.")
    return read_image(strokes) if strokes else [parse_hint(text) for text in points]


def report_grey(photo: "Photo", result: "Photo", recipe: "Recipe", *, quiet: bool) -> None:
    """Say so if a result shows no colour although colour was wanted."""
    from condiff.batch.transform import is_blank, is_grey

    if not recipe.saturation:
        return
    if is_blank(photo.pixels):
        why = "the photo has no greys between black and white, where sRGB has room for it"
        options.report(f"no colour: {why}", quiet=quiet)
    elif is_grey(result.pixels):
        options.report("no colour: the model gave it none; try another --size", quiet=quiet)


def report_shortfall(photo: "Photo", hints: "Hints", *, quiet: bool) -> None:
    """Say so if sRGB cannot show a hint's colour at the photo's lightness."""
    from condiff.color.hints import draw_strokes, find_shortfall
    from condiff.pipelines.pipeline import small_lightness

    if isinstance(hints, list) and not hints:
        return
    L = small_lightness(photo.pixels)
    strokes = draw_strokes(hints, photo=photo.size, size=L.shape)
    if strokes and (share := find_shortfall(strokes, L)) > 0.01:
        options.report(
            f"{share:.0%} of the hints' area is too dark or too light for their colour in sRGB: its"
            " hue is kept, its chroma reduced",
            quiet=quiet,
        )
