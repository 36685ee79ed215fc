"""Where the commands write: names of outputs, checks before the work, sheets, maps, films."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from condiff.cli import options
from condiff.cli.process import on_one_line
from condiff.errors import NO_MEMORY, CondiffError, ImageError
from condiff.files import find_shared, make_folder, shorten_stem
from condiff.platforms import SLASHES, comparable

if TYPE_CHECKING:
    from PIL import Image

    from condiff.photos.photo import Photo

Job = TypeVar("Job")


def choose_target(
    output: str | None,
    beside: Path,
    *,
    source: str | None,
    what: str = "photo",
    many: bool = False,
) -> Path | None:
    """The file that -o names, the name of `beside` in -o's folder, or `beside`; None for stdout.

    `what` names the input in the error that standard input needs an output. -o names a folder if
    it is one, ends with a slash, or is for `many` inputs; it need not exist. Raises BadParameter
    for many inputs and a name that is, or looks like, that of a file.
    """
    if output == "-":
        if sys.stdout is None:
            raise ImageError("cannot write to standard output: it is closed; give a file by -o.")
        if many:
            raise typer.BadParameter(f"-o - is for a single {what}.")
        return None
    if source == "-" and many:
        raise typer.BadParameter(f"Standard input, -, is a single {what}.")
    if output is None and source == "-":
        raise typer.BadParameter(f"A {what} from standard input needs an output: -o FILE, or -o -.")
    if output is None and source is not None and not os.path.isdir(beside.parent):
        raise ImageError(f"cannot read {source}: there is no such file; check the path")
    if output is None:
        return beside
    is_folder = os.path.isdir(output) or output.endswith(SLASHES)
    if many and not is_folder:
        if os.path.lexists(output):
            raise typer.BadParameter(f"{output} is not a folder, which several {what}s need.")
        if Path(output).suffix:
            raise typer.BadParameter(
                f"{output} looks like a file, but several {what}s need a folder: give {output}/ "
                "for a folder of that name."
            )
    return Path(output) / beside.name if many or is_folder else Path(output)


def number_targets(target: Path | None, samples: int) -> list[Path | None]:
    """One target a sample: the target itself, or photo.color.1.jpg, photo.color.2.jpg, …"""
    if samples == 1:
        return [target]
    if target is None:
        raise typer.BadParameter("Several samples cannot go to standard output: use -o.")
    numbers = range(1, samples + 1)
    return [target.with_name(shorten_stem(target.stem, f".{n}{target.suffix}")) for n in numbers]


def make_folders(paths: Iterable[Path | None]) -> None:
    """Make the folders of files that will be written; ImageError where that fails."""
    for folder in {path.parent for path in paths if path is not None}:
        make_folder(folder)


def keep_source(source: str, written: Iterable[Path | None], *, what: str = "photo") -> None:
    """Raise BadParameter if the input is among the files to be written, even with --force."""
    keep_sources([source], written, what=what)


def keep_sources(
    sources: Sequence[str | Path], written: Iterable[Path | None], *, what: str = "photo"
) -> None:
    """The same for several inputs: a result must not replace its own or another input."""
    targets = (path for path in written if path is not None)
    found, _ = next(find_shared(map(Path, sources), targets), (None, None))
    if found is None:
        return
    if len(sources) == 1:
        raise typer.BadParameter(f"{found} is the {what} itself: give another output.")
    raise typer.BadParameter(
        f"{found} is one of the {what}s, and a result would replace it: leave it out, or give "
        "another output."
    )


def check_distinct(paths: Iterable[Path | None], sources: Sequence[str] = ()) -> None:
    """Raise BadParameter if two results would be one file.

    `sources` are what each path is made of, where that is not the same for all.
    """
    taken: dict[str, int] = {}
    for number, path in enumerate(paths):
        name = "-" if path is None else comparable(os.path.realpath(path))
        first = taken.setdefault(name, number)
        if first == number:
            continue
        if sources and sources[first] != sources[number]:
            raise typer.BadParameter(
                f"{sources[first]} and {sources[number]} would both become "
                f"{path or 'standard output'}: give them to two commands, each with its own -o."
            )
        raise typer.BadParameter(
            f"{path or 'Standard output'} would be written twice: give each its own name."
        )


def do_each(
    jobs: Sequence[Job],
    work: Callable[[Job], None],
    source_of: Callable[[Job], str],
    *,
    quiet: bool,
    what: str = "photos",
) -> None:
    """Do the work of every job; of several, one that fails does not stop the others.

    Their errors go to stderr, and the command exits with 1 at the end.
    """
    failed = 0
    for job in jobs:
        try:
            work(job)
        except (CondiffError, MemoryError) as error:
            if len(jobs) == 1:
                raise
            failed += 1
            told = NO_MEMORY if isinstance(error, MemoryError) else str(error)
            name = "" if source_of(job) in told else f"{source_of(job)}: "
            print(f"condiff: {on_one_line(f'{name}{told}')}", file=sys.stderr)
    if failed:
        options.report(f"{failed} of {len(jobs)} {what} failed", quiet=quiet)
        raise typer.Exit(1)


def keep_date(source: Path, target: Path) -> None:
    """Give a result the modification date of its photo, if the disk allows it."""
    with suppress(OSError):  # the result counts, even if the photo is gone
        status = source.stat()
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def write_result(
    result: "Photo", path: Path | None, *, quality: int | None, force: bool, quiet: bool
) -> None:
    """Write a photo to a file, or to stdout; reports on stderr what the format cannot hold."""
    from condiff.photos.formats import HOLDS, NOTHING, find_format
    from condiff.photos.writing import losses, write_photo

    format = find_format(path.suffix if path else "png")
    if quality is not None and not HOLDS.get(format, NOTHING).quality:
        options.report(f"{path or '-'}: --quality has no effect on {format}", quiet=quiet)
    lost = losses(result, path.suffix if path else "png")
    if lost:
        options.report(f"{path or '-'}: this format has no place for {lost}", quiet=quiet)
    if path is None:
        write_photo(result, sys.stdout.buffer, quality=quality)
    else:
        write_photo(result, path, quality=quality, force=force)


def write_picture(image: "Image.Image", target: Path | None, *, force: bool) -> None:
    """Write a picture and print its path; without a target, write a PNG to stdout."""
    from condiff.photos.writing import write_image

    if target is None:
        write_image(image, sys.stdout.buffer, format="PNG")
    else:
        make_folder(target.parent)
        write_image(image, target, force=force)
        print(target)


def report_result(record: dict[str, Any], target: Path | None, *, as_json: bool) -> None:
    """Print a result's path or its whole record as JSON.

    It goes to stdout. Where the result itself went there (target None), JSON goes to stderr.
    """
    if target is not None or as_json:
        stream = sys.stderr if target is None else sys.stdout
        print(json.dumps(record) if as_json else target, file=stream)


def report_plan(source: str | None, paths: Iterable[Path | None], *, as_json: bool) -> None:
    """`--dry-run`: print each path that would be written, - for stdout, or JSON of it."""
    for path in paths:
        target = str(path or "-")
        print(json.dumps({"source": source, "target": target}) if as_json else target)


SHEET_SIDE = 384  # of a sample in the sheet, pixels
SHEET_COLUMNS = 4
FILM_SIDE = 512
FILM_SECONDS = 2.5  # length of a film, without the time that its last frame is held


@dataclass(frozen=True)
class Extras:
    """The files of a contact sheet, an uncertainty map and a film; None if not wanted."""

    sheet: Path | None = None
    map: Path | None = None
    film: Path | None = None

    def paths(self) -> list[Path]:
        """The files that are wanted."""
        return [path for path in (self.sheet, self.map, self.film) if path is not None]


def check_pick(pick: str | None, samples: int) -> None:
    """Raise BadParameter for an unknown rule, or for only one sample to pick from."""
    if pick is None:
        return
    from condiff.color.sample_selection import PICKS

    if pick not in PICKS:
        raise typer.BadParameter(f"--pick takes {', '.join(PICKS)}, not {pick}.")
    if samples < 2:
        raise typer.BadParameter("--pick needs several samples: add --samples 5.")


def check_extras(
    extras: Extras, targets: Sequence[Path | None], *, samples: int, force: bool
) -> None:
    """Raise an error for extras that cannot be made or written, before any work."""
    from condiff.figures import check_animation
    from condiff.photos.writing import check_target

    if extras.map and samples < 2:
        raise typer.BadParameter("--uncertainty needs several samples: add --samples 5.")
    check_distinct([*targets, *extras.paths()])
    if extras.sheet:
        check_target(extras.sheet, force, new_folder=True)
    if extras.map:
        check_target(extras.map, force, new_folder=True)
    if extras.film:
        check_animation(extras.film, force, new_folder=True)


def name_sheet(first: Path | None) -> Path | None:
    """photo.color.1.jpg -> photo.color.sheet.jpg, a PNG for formats other than JPEG."""
    if first is None:
        return None
    ending = first.suffix if first.suffix.lower() in (".jpg", ".jpeg") else ".png"
    return first.with_name(shorten_stem(first.stem.removesuffix(".1"), f".sheet{ending}"))


def write_extras(results: Sequence["Photo"], extras: Extras, *, force: bool, quiet: bool) -> None:
    """Write the sheet and the map; stderr names them, because stdout is for results."""
    from condiff.color.sample_selection import measure_deviation
    from condiff.figures import make_contact_sheet, make_uncertainty_map
    from condiff.photos.writing import write_image

    if extras.sheet:
        pictures = [shrink(result).to_image() for result in results]
        seeds = [f"{n}: seed {result.info['seed']}" for n, result in enumerate(results, 1)]
        starts = range(0, len(pictures), SHEET_COLUMNS)
        sheet = make_contact_sheet(
            [pictures[i : i + SHEET_COLUMNS] for i in starts],
            side=SHEET_SIDE,
            captions=[seeds[i : i + SHEET_COLUMNS] for i in starts],
        )
        write_image(sheet, extras.sheet, force=force)
        options.report(f"contact sheet: {extras.sheet}", quiet=quiet)
    if extras.map:
        spread = measure_deviation([result.pixels for result in results])
        write_image(make_uncertainty_map(spread), extras.map, force=force)
        options.report(f"uncertainty: {extras.map}, {spread.mean():.1f} on average", quiet=quiet)


def choose(results: list["Photo"], pick: str | None) -> list["Photo"]:
    """All results, or the one that the rule picks."""
    from condiff.color.sample_selection import PICKS

    if pick is None:
        return results
    return [results[PICKS[pick]([result.pixels for result in results])]]


def write_film(frames: Iterable["Image.Image"], target: Path, *, force: bool, quiet: bool) -> None:
    """Write frames of the reverse process as a film, with a long side of at most 512 pixels."""
    from condiff.figures import write_animation

    shown = []
    for frame in frames:
        frame.thumbnail((FILM_SIDE, FILM_SIDE))
        shown.append(frame)
    fps = min(12.0, max(2.0, len(shown) / FILM_SECONDS))
    write_animation(shown, target, fps=fps, force=force)
    options.report(f"film: {target}, {len(shown)} frames", quiet=quiet)


def shrink(result: "Photo") -> "Photo":
    """A result at the size that it has in a contact sheet, which takes little memory."""
    from condiff.photos.photo import Photo

    image = result.to_image().convert("RGB")
    image.thumbnail((SHEET_SIDE, SHEET_SIDE))
    return replace(Photo.from_image(image), info=result.info)
