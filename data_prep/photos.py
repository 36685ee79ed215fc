"""Prepare a folder of photos (or parquet, or tar files) as a training set for a task.

python data_prep/photos.py PHOTOS OUT --task sketch --size 256
"""

import argparse
import os
from pathlib import Path

import output
from condiff.errors import CondiffError
from condiff.prep.prepare import PrepConfig
from condiff.sources.folders import open_source
from condiff.tasks import PREPARED_TASKS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Prepare photos for a task.")
    parser.add_argument("source", help="folder, parquet or tar file")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--task", choices=PREPARED_TASKS, default="colorize")
    parser.add_argument("--size", type=int, default=256, help="short side (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--license", help="licence of the photos, for the card")
    options = parser.parse_args(argv)
    task = PREPARED_TASKS[options.task]
    recipe = PrepConfig(
        kinds=task.prepares,
        size=options.size,
        min_chroma=task.min_chroma,
        license=options.license,
    )
    try:
        source = open_source(options.source)
        return output.prepare(source, options.out, recipe, workers=options.workers)
    except CondiffError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    raise SystemExit(main())
