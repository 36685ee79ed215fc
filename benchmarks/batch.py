"""Speed of `condiff batch` relative to one photo after the other, and its growth with the count.

    python benchmarks/batch.py --count 200 --megapixels 2 --workers 2

Compares several ways with the same photos and the same model, each in a process of its own, in
turns, without the loading of the model: one by one with one thread in the network, one by one with
one thread per core, the batch with one worker and with several; and a new `condiff colorize` for
each of some photos, with loading. The best round counts, because other programs only add time; they
affect processor seconds less than wall time. Then the batch with an eighth, a quarter, a half and
all of the photos: seconds per photo and peak memory.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "examples" / "grey.jpg"
DISTINCT = 20  # generated photos; the others are links to them


def main() -> None:
    """Parse the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--megapixels", type=float, default=2)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="colorize")
    parser.add_argument("--cold", type=int, default=6, help="photos that a command each is for")
    parser.add_argument("--brief", action="store_true", help="leave out the ways between")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--photos", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        way, number = arguments.measure
        ways = {"loop": loop, "batch": batch}
        with tempfile.TemporaryDirectory() as out:
            print(json.dumps(ways[way](arguments.photos, Path(out), arguments.model, int(number))))
        return
    with tempfile.TemporaryDirectory() as folder:
        photos = make_photos(Path(folder), arguments.count, arguments.megapixels)
        print_ratios(photos, arguments)
        print_growth(Path(folder), arguments)
    print("load:", " ".join(f"{load:.1f}" for load in os.getloadavg()))


def print_ratios(photos: Path, arguments: argparse.Namespace) -> None:
    """Photos per second of the four ways, and the ratio to the first."""
    ways = {
        "one by one, 1 thread": ("loop", 1),
        f"one by one, {os.cpu_count()} threads": ("loop", os.cpu_count()),
        "batch, 1 worker": ("batch", 1),
        f"batch, {arguments.workers} workers": ("batch", arguments.workers),
    }
    if arguments.brief:
        ways = {name: way for name, way in ways.items() if name in (list(ways)[0], list(ways)[-1])}
    rounds_of = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            rounds_of[name].append(measure(photos, arguments.model, way))
    speed = {
        name: arguments.count / min(t["seconds"] for t in rounds)
        for name, rounds in rounds_of.items()
    }
    first = next(iter(speed.values()))
    started = time.perf_counter()
    some = sorted(photos.iterdir())[: arguments.cold]
    for path in some:
        command = [
            sys.executable,
            "-m",
            "condiff",
            "colorize",
            path,
            "-o",
            photos.parent / "one.jpg",
        ]
        command += ["-f", "-q", "--seed", "1", "--device", "cpu", "-m", arguments.model]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    cold = len(some) / (time.perf_counter() - started)
    print(f"{arguments.count} photos of {arguments.megapixels:g} MP")
    print("|  | photos/s | ratio | processor s a photo | peak RSS, MB |\n|---|---|---|---|---|")
    print(f"| a command each ({len(some)}) | {cold:.2f} | {cold / first:.2f} | | |")
    for name, rounds in rounds_of.items():
        rss = max(t["rss"] for t in rounds)
        busy = min(t["busy"] for t in rounds) / arguments.count
        figures = f"{speed[name]:.2f} | {speed[name] / first:.2f} | {busy:.2f} | {rss:.0f}"
        print(f"| {name} | {figures} |", flush=True)


def print_growth(folder: Path, arguments: argparse.Namespace) -> None:
    """Seconds per photo and peak memory by the number of photos."""
    print("| photos | s a photo | processor s a photo | peak RSS, MB |\n|---|---|---|---|")
    for count in (arguments.count // n for n in (8, 4, 2, 1)):
        photos = make_photos(folder / str(count), count, arguments.megapixels)
        measured = measure(photos, arguments.model, ("batch", arguments.workers))
        each = f"{measured['seconds'] / count:.3f} | {measured['busy'] / count:.3f}"
        print(f"| {count} | {each} | {measured['rss']:.0f} |", flush=True)


def measure(photos: Path, model: str, way: tuple[str, int]) -> dict[str, float]:
    """Seconds and peak memory of one way, in a process of its own."""
    command = [sys.executable, __file__, "--photos", photos, "--model", model, "--measure", *way]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def loop(photos: Path, out: Path, model: str, threads: int) -> dict[str, float]:
    """Read, colour and write one photo after the other."""
    import torch

    from condiff.photos.reading import list_images, read_image
    from condiff.photos.writing import write_image
    from condiff.pipelines.pipeline import Pipeline

    torch.set_num_threads(threads)
    colorize = Pipeline.from_pretrained(model, device="cpu")
    files = list_images(photos)
    colorize(read_image(files[0]), seed=0)
    started, busy = time.perf_counter(), time.process_time()
    for path in files:
        (result,) = colorize(read_image(path), seed=1)
        write_image(result, out / path.name)
    return tell(started, busy)


def batch(photos: Path, out: Path, model: str, workers: int) -> dict[str, float]:
    """The same by condiff.batch.local."""
    from condiff.batch.journal import open_journal
    from condiff.batch.local import run
    from condiff.batch.plan import plan
    from condiff.batch.storage import open_storage
    from condiff.batch.worker import build_transform
    from condiff.photos.reading import list_images, read_photo
    from condiff.pipelines.colorizing import ColorizeSettings
    from condiff.pipelines.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained(model, device="cpu")
    how = {"device": "cpu", "engine": pipeline.backend.name, "provenance": False}
    recipe = ColorizeSettings(model=model, sampling=pipeline.sampling, **how)
    transform = build_transform(pipeline, recipe)
    transform(read_photo(list_images(photos)[0]), 0, None)
    started, busy = time.perf_counter(), time.process_time()
    target = open_storage(out)
    with open_journal(target, {"seed": 1}) as journal:
        todo = plan(open_storage(photos), target)
        for result in run(todo, journal, transform, seed=1, workers=workers):
            assert result.outcome == "done", result
    return tell(started, busy)


def tell(started: float, busy: float) -> dict[str, float]:
    """Wall and processor seconds since then, and the peak memory in MB."""
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "busy": time.process_time() - busy,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def make_photos(folder: Path, count: int, megapixels: float) -> Path:
    """The example photo enlarged to 3:2 with this many megapixels, with different grain."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    with Image.open(EXAMPLE) as image:
        large = np.asarray(image.convert("L").resize((round(height * 1.5), height)), np.float32)
    for index in range(count):
        path = photos / f"{index:05d}.jpg"
        if index < DISTINCT:
            grain = np.random.default_rng(index).normal(0, 6, large.shape)
            Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(path, quality=92)
        else:
            path.hardlink_to(photos / f"{index % DISTINCT:05d}.jpg")
    return photos


if __name__ == "__main__":
    main()
