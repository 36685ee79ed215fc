"""`condiff condition`: draw condition images of a photo."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condiff.cli import options
from condiff.cli.outputs import (
    check_distinct,
    choose_target,
    do_each,
    keep_sources,
    write_picture,
)
from condiff.cli.sampling import expand_groups
from condiff.platforms import expand_globs

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

COLUMNS = 4
CELL = 384  # pixels of a picture on the contact sheet


@expand_groups
def condition(
    sources: options.Inputs,
    reading: options.Reading,
    kind: Annotated[
        str | None,
        typer.Option(
            "-k",
            "--kind",
            help="What to draw: gray, canny, softedge, sketch, … or image:PATH; --all shows them.",
        ),
    ] = None,
    all_kinds: Annotated[
        bool, typer.Option("--all", help="Draw a contact sheet of all kinds that are installed.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=NUMBER", help="Set a parameter of the kind; may be repeated."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Draw the parameters at random with this seed (default: do not)."),
    ] = None,
    output: options.Output = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Draw the edges, lines or other condition images of photos.

    They have the photos' sizes. For photo.jpg and the kind canny the image is written beside it as
    photo.canny.png, unless -o names another file, or a folder, which is made if there is none.
    --all draws a contact sheet of all kinds instead.
    """
    if (kind is None) != all_kinds:
        raise typer.BadParameter("Choose a condition: --kind NAME, or --all, but not both.")
    if all_kinds and settings:
        raise typer.BadParameter("--set is for one --kind, not for --all.")
    numbers = dict(map(parse_setting, settings or []))
    import numpy as np

    from condiff.conditions.table import apply, choose_params

    targets = plan_targets(sources, kind, output, force=force)
    chosen = choose_params(kind, seed, **numbers) if kind is not None else {}

    def draw(source: str) -> None:
        photo = options.read_input(source, reading, quiet=quiet).to_image().convert("RGB")
        if kind is None:
            result = make_sheet(photo, seed=seed, quiet=quiet)
        else:
            result = to_image(apply(kind, np.asarray(photo), seed=None, **chosen))
            described = ", ".join(f"{name} {value:.4g}" for name, value in chosen.items())
            size = f"{photo.width}x{photo.height}"
            options.report(f"{size}, {kind}: {described or 'no parameters'}", quiet=quiet)
        write_picture(result, targets[source], force=force)

    do_each([*targets], draw, str, quiet=quiet)


def plan_targets(
    sources: Sequence[str], kind: str | None, output: str | None, *, force: bool
) -> dict[str, Path | None]:
    """The file for each photo; None is standard output.

    Raises BadParameter or ImageError for files that cannot be written, before any work.
    """
    from condiff.photos.writing import check_target, default_target

    word, _, picture = (kind or "conditions").partition(":")
    sources = list(dict.fromkeys(expand_globs(sources)))
    targets = {}
    for source in sources:
        # PNG, whatever the photo is: lines do not survive JPEG.
        beside = default_target(Path(source), word).with_suffix(".png")
        targets[source] = choose_target(output, beside, source=source, many=len(sources) > 1)
    check_distinct(targets.values(), sources)
    keep_sources(sources, targets.values())
    keep_sources([picture] if picture else [], targets.values(), what="picture of --kind")
    for target in targets.values():
        if target is not None:
            check_target(target, force, new_folder=True)
    return targets


def make_sheet(photo: "Image.Image", *, seed: int | None, quiet: bool) -> "Image.Image":
    """A sheet of the photo and all its condition images; reports what missing kinds need."""
    import numpy as np

    from condiff.conditions.table import CONDITIONS, apply
    from condiff.errors import ConditionError
    from condiff.figures import make_contact_sheet

    cells, missing = {"photo": photo}, dict[str, list[str]]()
    for name in CONDITIONS:
        if name == "image":
            continue
        try:
            cells[name] = to_image(apply(name, np.asarray(photo), seed=seed))
        except ConditionError as error:
            missing.setdefault(str(error), []).append(name)
    for reason, kinds in missing.items():
        several = f"{', '.join(kinds)}: " if len(kinds) > 1 else ""
        options.report(f"left out: {several}{reason}", quiet=quiet)
    names = [[*cells][start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    rows = [[cells[name] for name in row] for row in names]
    return make_contact_sheet(rows, side=CELL, captions=names)


def to_image(pixels: "np.ndarray") -> "Image.Image":
    """(H,W,1 or 3) uint8 as a picture of mode L or RGB."""
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def parse_setting(text: str) -> tuple[str, float]:
    """`low=50` as a name and a number."""
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise typer.BadParameter(
            f"--set takes NAME=NUMBER, such as low=50, not {text!r}."
        ) from None
