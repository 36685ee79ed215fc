"""Shared by the scripts: flags, and the output of pictures."""

import argparse
import os
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from condiff.figures import make_contact_sheet
from condiff.photos.reading import read_image
from condiff.photos.writing import write_image
from condiff.prep.dataset import plan, run
from condiff.prep.prepare import PrepConfig
from condiff.sources.folders import write_folder
from condiff.sources.source import Source

ROWS, COLUMNS, SIDE = 5, 8, 160  # of a contact sheet


def add_options(parser: argparse.ArgumentParser, *, count: int) -> None:
    """The flags of the scripts that draw."""
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--count", type=int, default=count, help="pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--parquet", action="store_true", help="shards instead of PNG files")
    parser.add_argument(
        "--kind", action="append", default=[], help="a condition to draw, with --parquet"
    )
    parser.add_argument(
        "--sheet", type=Path, help="a contact sheet of the first of them, a PNG file"
    )


def write(source: Source, options: argparse.Namespace, *, license: str) -> int:
    """A folder of PNG files with captions, or a prepared data set; the exit code."""
    if options.sheet:
        write_image(make_sheet(source), options.sheet, force=True)
    if options.parquet:
        # Drawings are all similar: their dHash is not useful.
        recipe = PrepConfig(kinds=tuple(options.kind), max_distance=None, license=license)
        return prepare(source, options.out, recipe)
    pictures = write_folder(source, options.out)
    paths = tqdm(pictures, total=source.total, unit="picture", disable=None)
    print(f"{sum(1 for _ in paths)} pictures in {options.out}")
    return 0


def cache_folder() -> Path:
    """condiff in $XDG_CACHE_HOME, or else in ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "condiff"


def make_sheet(source: Source) -> Image.Image:
    """The first pictures of a source, in rows."""
    pictures = [read_image(item.image.opened()) for item in islice(source.items(0), ROWS * COLUMNS)]
    rows = [pictures[start : start + COLUMNS] for start in range(0, len(pictures), COLUMNS)]
    return make_contact_sheet(rows, side=SIDE)


def prepare(source: Source, out: Path, recipe: PrepConfig, *, workers: int = 1) -> int:
    """Prepare a data set; 1 if something in it was broken, with the reasons on stderr."""
    outcomes: Counter[str] = Counter()
    todo = plan(source, out, recipe)
    for verdict in tqdm(run(todo, workers=workers), total=todo.total, unit="photo", disable=None):
        outcomes[verdict.outcome] += 1
        if verdict.outcome == "broken":
            print(f"{verdict.source}: {verdict.reason}", file=sys.stderr)
    print(", ".join(f"{n} {what}" for what, n in outcomes.items()) or "nothing to do")
    return 1 if outcomes["broken"] else 0
