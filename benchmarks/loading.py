"""Photos per second of data loading, by where the photos are kept.

    python benchmarks/loading.py PHOTOS --count 500 --size 256 --task colorize --workers 0

PHOTOS is a folder of images or of parquet files, as `condiff train --data` takes it; for parquet
files a stream is measured too. The ways take turns, round after round, and the best round of each
counts. Prints a line of JSON: photos per second, their ratio to `none`, and the seconds for opening
the data, decoding included.
"""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from condiff.config import TrainConfig
from condiff.data.crops import Batch
from condiff.data.loading import build_dataset, load_batches
from condiff.tasks import find_task


def open_batches(args: argparse.Namespace, way: str) -> Iterator[Batch]:
    """An endless loader of the photos, kept in this way."""
    device = torch.device(args.device)
    keeping = {"streaming": True} if way == "stream" else {"cache": way, "max_photos": args.count}
    config = TrainConfig.model_validate(
        {
            "task": args.task,
            "max_train_steps": 1,
            "data": {"size": args.size, "num_workers": args.workers, **keeping},
        }
    )
    with TemporaryDirectory() as cache:
        dataset = build_dataset(
            config,
            find_task(args.task),
            args.photos,
            cache_dir=Path(cache),
            feature_channels={},
            device=device,
        )
    return load_batches(dataset, batch_size=args.batch_size, device=device)


def seconds(batches: Iterator[Batch], count: int) -> float:
    """The time for this many batches."""
    started = time.perf_counter()
    for batch in islice(batches, count):
        last = batch["x_0"]
    float(last.sum())  # waits for the device
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=500, help="photos (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--task", default="colorize")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=8, help="a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    ways = ["none", "ram"]
    if not find_task(args.task).picture:
        ways.append("device")
    if args.photos.suffix == ".parquet" or any(args.photos.glob("**/*.parquet")):
        ways.append("stream")
    loaders, opened, best = {}, {}, {}
    for way in ways:
        started = time.perf_counter()
        loaders[way] = open_batches(args, way)
        next(loaders[way])  # workers, and a stream's first block
        opened[way] = round(time.perf_counter() - started, 2)
    for _ in range(args.rounds):
        for way in ways:
            took = seconds(loaders[way], args.batches)
            best[way] = min(best.get(way, took), took)
    rate = {way: args.batches * args.batch_size / took for way, took in best.items()}
    print(
        json.dumps(
            {
                "photos_per_second": {way: round(value, 1) for way, value in rate.items()},
                "ratio_to_none": {way: round(rate[way] / rate["none"], 2) for way in ways},
                "seconds_to_open": opened,
                "task": args.task,
                "size": args.size,
                "workers": args.workers,
                "device": args.device,
            }
        )
    )


if __name__ == "__main__":
    main()
