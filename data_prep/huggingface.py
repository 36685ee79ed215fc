"""Prepare a data set of the Hugging Face hub by streaming: only used photos are downloaded.

python data_prep/huggingface.py m1guelpf/nouns OUT --task sketch --limit 5000
"""

import argparse
import os
from pathlib import Path

import output
from condiff.errors import CondiffError
from condiff.prep.prepare import PrepConfig
from condiff.sources.hub import hub_source
from condiff.tasks import PREPARED_TASKS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Prepare a hub data set for a task.")
    parser.add_argument("name", help="data set on the hub: OWNER/NAME")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--task", choices=PREPARED_TASKS, default="colorize")
    parser.add_argument("--limit", type=int, help="only the first LIMIT photos")
    parser.add_argument("--drawings", action="store_true", help="keep near-duplicates")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--license", help="licence in the data set's card")
    options = parser.parse_args(argv)
    task = PREPARED_TASKS[options.task]
    recipe = PrepConfig(
        kinds=task.prepares,
        min_chroma=task.min_chroma,
        max_distance=None if options.drawings else 3,
        limit=options.limit,
        license=options.license,
    )
    try:
        source = hub_source(options.name)
        return output.prepare(source, options.out, recipe, workers=options.workers)
    except CondiffError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    raise SystemExit(main())
