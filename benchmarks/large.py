"""Growth of time and memory with the photo: one whole `condiff colorize` process per row.

    python benchmarks/large.py                     12, 25, 50 and 100 MP, a JPEG
    python benchmarks/large.py --deep --suffix tif the same in 16 bits, as a TIFF

Memory is the process's peak resident set. Seconds are cold, including the import of torch: wall
time, and processor time, which other programs disturb less. A photo of 1 MP measures the start.
The processor time per megapixel beyond it is the same in every row if time is linear: "to the
first" is the row's value divided by the first row's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from colorize import make_photo

from condiff.photos.photo import Photo
from condiff.photos.reading import read_photo
from condiff.photos.writing import write_photo

MEGAPIXELS = (12, 25, 50, 100)


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=int, nargs="+", default=MEGAPIXELS)
    parser.add_argument("--suffix", default="jpg", help="of the photo and of the result")
    parser.add_argument("--deep", action="store_true", help="16 bits a channel (png, tif)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", default="colorize")
    arguments = parser.parse_args()
    print("| photo | file, MB | s | processor s | a MP | to the first | peak RSS, MB |")
    print("|---|---|---|---|---|---|---|")
    start = measure(1, arguments)
    first = None
    for megapixels in arguments.megapixels:
        size, seconds, busy, rss = measure(megapixels, arguments)
        slope = (busy - start[2]) / (megapixels - 1)
        first = first or slope
        name = f"{megapixels} MP {arguments.suffix}, {16 if arguments.deep else 8} bits"
        times = f"{seconds:.1f} | {busy:.1f} | {slope:.3f} | {slope / first:.2f}"
        print(f"| {name} | {size:.0f} | {times} | {rss:.0f} |", flush=True)
    print(f"1 MP: {start[1]:.1f} s, {start[2]:.1f} processor s; load {os.getloadavg()[0]:.1f}")


def measure(megapixels: int, arguments: argparse.Namespace) -> tuple[float, float, float, float]:
    """Megabytes of the file; best wall and processor seconds; peak megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_photo(Path(folder), megapixels)
        if arguments.deep or arguments.suffix != "jpg":
            path = convert(path, arguments.suffix, deep=arguments.deep)
        size = path.stat().st_size / 1e6
        rounds = [measure_command(path, arguments.model) for _ in range(arguments.rounds)]
    seconds, busy, rss = zip(*rounds, strict=True)
    return size, min(seconds), min(busy), max(rss)


def measure_command(photo: Path, model: str) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak resident megabytes of one `condiff colorize` process."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "condiff", "colorize", str(photo), "-m", model, "-f", "-q"]
    program = (  # a small process between: a child starts with the peak of its parent
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    between = [sys.executable, "-c", program, *command]
    done = subprocess.run(between, check=True, capture_output=True, text=True)
    busy, rss = done.stdout.split()
    return time.perf_counter() - started, float(busy), int(rss) / 1024


def convert(path: Path, suffix: str, *, deep: bool) -> Path:
    """The photo in another format; in 16 bits with grain below the 8-bit step."""
    photo = read_photo(path)
    pixels = photo.pixels
    if deep:
        pixels = pixels.astype(np.uint16) * 257
        grain = np.random.default_rng(0).integers(0, 128, pixels.shape[:2], dtype=np.uint16)
        pixels = np.where(pixels > 65_000, pixels, pixels + grain[..., None])
    target = path.with_suffix(f".{suffix}")
    write_photo(Photo(pixels.astype(np.uint16 if deep else np.uint8)), target)
    return target


if __name__ == "__main__":
    main()
