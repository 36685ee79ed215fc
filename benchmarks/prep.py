"""How fast is prep against the bare decode and encode that it cannot do without?

    python benchmarks/prep.py PHOTOS --count 300 --size 128 --workers 2

Both read the same photos, shrink them and write WebP, in as many processes, in turns; the bare one
filters nothing, decides nothing and writes no shards. Prints a line of JSON: photos a second of
both, their ratio (goal: 0.8), and the peak memory of prep with all its processes.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from condiff.prep import plan, run
from condiff.recipe import CHUNK_ITEMS, WEBP_METHOD, Recipe, shrink
from condiff.sources import open_source


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


def bare(paths: list[Path], recipe: Recipe, workers: int) -> float:
    """Seconds of the bare conversion, without the start of its processes."""
    chunks = [paths[i : i + CHUNK_ITEMS] for i in range(0, len(paths), CHUNK_ITEMS)]
    assert recipe.size is not None
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(convert_many, [paths[:1]] * 2 * workers, [recipe.size] * 2 * workers,
                      [recipe.quality] * 2 * workers))  # fmt: skip
        start = time.perf_counter()
        list(
            pool.map(
                convert_many, chunks, [recipe.size] * len(chunks), [recipe.quality] * len(chunks)
            )
        )
        return time.perf_counter() - start


def whole(folder: Path, out: Path, recipe: Recipe, workers: int) -> float:
    """Seconds of prep from its first verdict to the card, without the start of its processes."""
    shutil.rmtree(out, ignore_errors=True)
    start, first, count = time.perf_counter(), 0.0, 0
    for _ in run(plan(open_source(str(folder)), out, recipe), workers=workers):
        count += 1
        first = first or time.perf_counter() - start
    seconds = time.perf_counter() - start
    # The first chunk's work is counted as the others' is, its wait for the processes is not.
    return (seconds - first) * count / max(1, count - CHUNK_ITEMS)


def resident(pid: int) -> int:
    """Bytes of a process and all below it, shared pages counted once a process."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return pages * 4096 + sum(resident(int(child)) for child in children)


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Samples of the memory of this process and its workers."""
    import os

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
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kind", action="append", default=[], help="conditions for prep to draw")
    options = parser.parse_args()
    recipe = Recipe(kinds=tuple(options.kind), size=options.size, min_chroma=1)
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "photos", Path(name) / "out"
        folder.mkdir()
        for n, item in enumerate(islice(open_source(options.source).items(0), options.count)):
            data = item.data.read_bytes() if isinstance(item.data, Path) else item.data
            (folder / f"{n:06d}.webp").write_bytes(data)
        paths = sorted(folder.iterdir())
        ratios, speeds, bare_speeds = [], [], []
        with peak_memory() as samples:
            for _ in range(options.rounds):
                bare_speeds.append(len(paths) / bare(paths, recipe, options.workers))
                speeds.append(len(paths) / whole(folder, out, recipe, options.workers))
                ratios.append(speeds[-1] / bare_speeds[-1])
    result = {
        "photos": len(paths),
        "workers": options.workers,
        "bare_photos_per_second": round(statistics.median(bare_speeds), 1),
        "prep_photos_per_second": round(statistics.median(speeds), 1),
        "ratio": round(statistics.median(ratios), 3),
        "peak_mib": round(max(samples) / 2**20),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
