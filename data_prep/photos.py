"""A folder of photos (or parquet, or tar files) as a training set, with conditions for a task.

python data_prep/photos.py PHOTOS OUT --task sketch --size 256
"""

import argparse
import os
from pathlib import Path

import output
from condiff.errors import CondiffError
from condiff.prep.prepare import MIN_CHROMA, TASK_KINDS, PrepConfig
from condiff.sources.folders import open_source


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Prepare photos for a task.")
    parser.add_argument("source", help="folder, parquet or tar file")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--task", choices=TASK_KINDS, default="colorize")
    parser.add_argument("--size", type=int, default=256, help="short side (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--license", help="licence of the photos, for the card")
    options = parser.parse_args(argv)
    recipe = PrepConfig(
        kinds=TASK_KINDS[options.task],
        size=options.size,
        min_chroma=MIN_CHROMA if options.task == "colorize" else 0,
        license=options.license,
    )
    try:
        source = open_source(options.source)
        return output.prepare(source, options.out, recipe, workers=options.workers)
    except CondiffError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    raise SystemExit(main())
