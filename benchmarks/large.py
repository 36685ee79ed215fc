"""How seconds and memory grow with the photo: one whole `condiff colorize` process a row.

    python benchmarks/large.py                     12, 48 and 100 MP, a JPEG
    python benchmarks/large.py --deep --suffix tif the same in 16 bits, as a TIFF

Memory is the process's peak resident set. Seconds are cold, the import of torch among them.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from colorize import make_photo, measure_command

from condiff.images.files import read_photo, write_photo
from condiff.images.photo import Photo

MEGAPIXELS = (12, 48, 100)


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=int, nargs="+", default=MEGAPIXELS)
    parser.add_argument("--suffix", default="jpg", help="of the photo and of the result")
    parser.add_argument("--deep", action="store_true", help="16 bits a channel (png, tif)")
    parser.add_argument("--model", default="colorize")
    arguments = parser.parse_args()
    print("| photo | file, MB | seconds | s a MP beyond the first row | peak RSS, MB |")
    print("|---|---|---|---|---|")
    first = None
    for megapixels in arguments.megapixels:
        with tempfile.TemporaryDirectory() as folder:
            path = make_photo(Path(folder), megapixels)
            if arguments.deep or arguments.suffix != "jpg":
                path = convert(path, arguments.suffix, deep=arguments.deep)
            size = path.stat().st_size / 1e6
            seconds, rss = measure_command(path, arguments.model)
        first = first or (megapixels, seconds)
        more = megapixels - first[0]
        slope = f"{(seconds - first[1]) / more:.3f}" if more else "–"
        name = f"{megapixels} MP {arguments.suffix}, {16 if arguments.deep else 8} bits"
        print(f"| {name} | {size:.0f} | {seconds:.1f} | {slope} | {rss:.0f} |", flush=True)


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
