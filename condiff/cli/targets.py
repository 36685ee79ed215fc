"""Where a command's results go, and how they are told."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from PIL import Image


def choose_target(
    output: str | None, beside: Path, *, source: str | None, what: str = "photo"
) -> Path | None:
    """The file that -o names, `beside` in the folder that it names, or `beside`; None for stdout.

    `what` names the input in the error that standard input needs an output.
    """
    if output == "-":
        return None
    if output is None and source == "-":
        raise typer.BadParameter(f"A {what} from standard input needs an output: -o FILE, or -o -.")
    path = Path(output) if output else beside
    return path / beside.name if path.is_dir() else path


def number_targets(target: Path | None, samples: int) -> list[Path | None]:
    """One target a sample: the target itself, or photo.color.1.jpg, photo.color.2.jpg, …"""
    if samples == 1:
        return [target]
    if target is None:
        raise typer.BadParameter("Several samples do not fit into one standard output: use -o.")
    numbers = range(1, samples + 1)
    return [target.with_name(f"{target.stem}.{n}{target.suffix}") for n in numbers]


def keep_source(source: str, written: Iterable[Path | None], *, what: str = "photo") -> None:
    """Raise BadParameter if the input is among the files to be written, even with --force."""
    for path in written:
        if path is not None and path.exists() and Path(source).exists() and path.samefile(source):
            raise typer.BadParameter(f"{source} is the {what} itself: give another output.")


def write_picture(image: "Image.Image", target: Path | None, *, force: bool) -> None:
    """Write a picture and print its path; without a target, write a PNG to stdout."""
    from condiff.photos.writing import write_image

    if target is None:
        write_image(image, sys.stdout.buffer, format="PNG")
    else:
        write_image(image, target, force=force)
        print(target)


def tell_result(told: dict[str, Any], target: Path | None, *, as_json: bool) -> None:
    """Print a result's path or, as JSON, what is told of it.

    It goes to stdout. Where the result itself went there (target None), JSON goes to stderr.
    """
    if target is not None or as_json:
        stream = sys.stderr if target is None else sys.stdout
        print(json.dumps(told) if as_json else target, file=stream)
