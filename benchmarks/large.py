"""How seconds and memory grow with the photo: one whole `condiff colorize` process a row.

    python benchmarks/large.py                     12, 25, 50 and 100 MP, a JPEG
    python benchmarks/large.py --deep --suffix tif the same in 16 bits, as a TIFF

Memory is the process's peak resident set. Seconds are cold, the import of torch among them; the
start is told by a photo of 1 MP, and what a megapixel takes beyond it is the same in every row
where time is linear: the last column is that of the row by that of the first.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from colorize import make_photo, measure_command

from condiff.images.files import read_photo, write_photo
from condiff.images.photo import Photo

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
    print("| photo | file, MB | seconds | s a MP beyond the start | to the first | peak RSS, MB |")
    print("|---|---|---|---|---|---|")
    start = measure(1, arguments)
    first = None
    for megapixels in arguments.megapixels:
        size, seconds, rss = measure(megapixels, arguments)
        slope = (seconds - start[1]) / (megapixels - 1)
        first = first or slope
        name = f"{megapixels} MP {arguments.suffix}, {16 if arguments.deep else 8} bits"
        figures = f"{size:.0f} | {seconds:.1f} | {slope:.3f} | {slope / first:.2f} | {rss:.0f}"
        print(f"| {name} | {figures} |", flush=True)
    print(f"1 MP: {start[1]:.1f} s; load {os.getloadavg()[0]:.1f}")


def measure(megapixels: int, arguments: argparse.Namespace) -> tuple[float, float, float]:
    """Megabytes of the file, seconds (the best of the rounds) and peak megabytes of memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_photo(Path(folder), megapixels)
        if arguments.deep or arguments.suffix != "jpg":
            path = convert(path, arguments.suffix, deep=arguments.deep)
        rounds = [measure_command(path, arguments.model) for _ in range(arguments.rounds)]
        seconds, rss = min(s for s, _ in rounds), max(m for _, m in rounds)
        return path.stat().st_size / 1e6, seconds, rss


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
