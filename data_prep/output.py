"""What the scripts share: their flags, and where pictures go."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from condiff.items import Source
from condiff.prep import plan, run
from condiff.recipe import Recipe
from condiff.sources import write_folder


def add_options(parser: argparse.ArgumentParser, *, count: int) -> None:
    """The flags of the scripts that draw."""
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--count", type=int, default=count, help="pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other ones (default: %(default)s)")
    parser.add_argument("--parquet", action="store_true", help="shards instead of PNG files")
    parser.add_argument(
        "--kind", action="append", default=[], help="a condition to draw, with --parquet"
    )


def write(source: Source, options: argparse.Namespace, *, license: str) -> int:
    """A folder of PNG files with captions, or a prepared data set; the exit code."""
    if options.parquet:
        # Drawings are alike by nature: their dHash is of no use.
        recipe = Recipe(kinds=tuple(options.kind), max_distance=None, license=license)
        return prepare(source, options.out, recipe)
    paths = tqdm(write_folder(source, options.out), total=source.total, unit="picture")
    print(f"{sum(1 for _ in paths)} pictures in {options.out}")
    return 0


def prepare(source: Source, out: Path, recipe: Recipe, *, workers: int = 1) -> int:
    """Prepare a data set; 1 if something in it was broken, with the reasons on stderr."""
    outcomes: Counter[str] = Counter()
    todo = plan(source, out, recipe)
    for verdict in tqdm(run(todo, workers=workers), total=todo.total, unit="photo"):
        outcomes[verdict.outcome] += 1
        if verdict.outcome == "broken":
            print(f"{verdict.source}: {verdict.reason}", file=sys.stderr)
    print(", ".join(f"{n} {what}" for what, n in outcomes.items()) or "nothing to do")
    return 1 if outcomes["broken"] else 0
