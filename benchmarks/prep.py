"""Speed of prep relative to the decoding and encoding that it cannot avoid.

    python benchmarks/prep.py PHOTOS --count 1000 --size 128 --workers 2

Both read the same photos, shrink them and write WebP, in as many processes, in turns; the bare
conversion does not filter or select and writes no shards. Prints a line of JSON: photos per second
of both in their best round, their ratio (goal: 0.8), the same ratio for processor time, which other
programs disturb less, and the peak memory of all processes.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from condiff.prep.dataset import plan, run
from condiff.prep.prepare import CHUNK_ITEMS, WEBP_METHOD, PrepConfig, shrink
from condiff.sources.folders import open_source


def convert(path: Path, size: int, quality: int) -> int:
    """Decode, shrink, encode; nothing else."""
    with Image.open(path) as image:
        pixels = shrink(np.asarray(image.convert("RGB")), size)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=quality, method=WEBP_METHOD)
    return file.tell()


def convert_many(paths: list[Path], size: int, quality: int) -> int:
    cv2.setNumThreads(1)
    return sum(convert(path, size, quality) for path in paths)


def processor_seconds() -> float:
    """Processor seconds of this process and of all its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, processor = time.perf_counter(), processor_seconds()
    work()
    return time.perf_counter() - wall, processor_seconds() - processor


def bare(paths: list[Path], recipe: PrepConfig, workers: int) -> None:
    """The bare conversion, including the start of its processes."""
    assert recipe.size is not None
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for first in range(0, len(paths), CHUNK_ITEMS):
            chunk = paths[first : first + CHUNK_ITEMS]
            pool.submit(convert_many, chunk, recipe.size, recipe.quality)


def whole(folder: Path, out: Path, recipe: PrepConfig, workers: int) -> None:
    """Prep from the listing of the folder to the card, including the start of its processes."""
    shutil.rmtree(out, ignore_errors=True)
    for _ in run(plan(open_source(str(folder)), out, recipe), workers=workers):
        pass


def resident(pid: int) -> int:
    """Resident bytes of a process and its descendants; shared pages count once per process."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return pages * 4096 + sum(resident(int(child)) for child in children)


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Samples the memory of this process and its workers."""
    samples, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            samples.append(resident(os.getpid()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description="Prep against bare decode and encode.")
    parser.add_argument("source", help="folder, parquet or tar file of photos")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kind", action="append", default=[], help="conditions for prep to draw")
    options = parser.parse_args()
    recipe = PrepConfig(kinds=tuple(options.kind), size=options.size, min_chroma=1)
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "photos", Path(name) / "out"
        folder.mkdir()
        for n, item in enumerate(islice(open_source(options.source).items(0), options.count)):
            (folder / f"{n:06d}.webp").write_bytes(item.image.read())
        paths = sorted(folder.iterdir())
        import pyarrow

        pyarrow.array([0])  # imports pandas: a second, once, whatever the number of photos

        times: dict[str, list[tuple[float, float]]] = {"bare": [], "prep": []}
        with peak_memory() as samples:
            for _ in range(options.rounds):
                times["bare"].append(timed(lambda: bare(paths, recipe, options.workers)))
                times["prep"].append(timed(lambda: whole(folder, out, recipe, options.workers)))
    clock, processor = (
        {name: min(run[i] for run in runs) for name, runs in times.items()} for i in range(2)
    )
    result: dict[str, float] = {"photos": len(paths), "workers": options.workers}
    for name, seconds in clock.items():
        result[f"{name}_photos_per_second"] = round(len(paths) / seconds, 1)
    result["ratio"] = round(clock["bare"] / clock["prep"], 3)
    result["processor_ratio"] = round(processor["bare"] / processor["prep"], 3)
    result["peak_mib"] = round(max(samples) / 2**20)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
