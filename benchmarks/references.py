"""What a reference buys: CIEDE2000 without one, with a second view, with an unrelated photo.

    python benchmarks/references.py --data val.parquet --photos 40 --skip 7

A photo is a crop of a true one. Its second view is made of the same true photo: another crop, seen
under another angle, in half the cases mirrored, lit from one side, brighter or darker. The
unrelated photo is that of another row of the data. Ratios are to the result without a reference of
the same run.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from condiff import ColorEdits, Pipeline
from condiff.color.lab import rgb_to_lab
from condiff.color.references import MIN_SHARE
from condiff.evaluation.metrics import ciede2000
from condiff.photos.icc import decode_srgb, encode_srgb
from condiff.photos.reading import read_image
from condiff.sources.folders import open_source

PHOTO, VIEW = (0.7, 0.9), (0.6, 0.85)  # shares of a true photo's sides that are seen
TILT = 0.06  # how far a corner of a view is moved, as a share of its sides
NAMES = ("automatic", "second view", "unrelated photo")


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="true photos")
    parser.add_argument("--photos", type=int, default=40, help="so many, evenly spaced")
    parser.add_argument("--skip", type=int, default=0, help="shifts the choice by so many rows")
    parser.add_argument("--model", default="colorize")
    arguments = parser.parse_args()
    truths = load(arguments.data, arguments.photos, arguments.skip)
    colorize = Pipeline.from_pretrained(arguments.model)
    errors, shares = measure(colorize, truths)
    print_table(errors, shares)


def load(data: Path, count: int, skip: int) -> list[np.ndarray]:
    """(H,W,3) uint8 of so many photos, evenly spaced over the data."""
    source = open_source(str(data))
    total = source.total
    assert total, "the number of photos is known"
    spaced = np.linspace(0, total - 1, min(count, total)).round().astype(int)
    wanted = {(int(n) + skip) % total for n in spaced}
    items = (item for number, item in enumerate(source.items()) if number in wanted)
    return [np.asarray(read_image(item.image.opened()).convert("RGB")) for item in items]


def measure(colorize: Pipeline, truths: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean CIEDE2000 (photos,3) by NAMES, and the share that matched (photos,2)."""
    errors, shares = np.empty((len(truths), 3)), np.empty((len(truths), 2))
    for row, truth in enumerate(truths):
        rng = np.random.default_rng(row)
        photo, view = crop(truth, rng), make_second_view(truth, rng)
        lab = rgb_to_lab(photo)
        for column, reference in enumerate((None, view, truths[(row + 1) % len(truths)])):
            edits = ColorEdits(references=[] if reference is None else [reference])
            (result,) = colorize(Image.fromarray(photo), seed=row, edits=edits)
            errors[row, column] = ciede2000(rgb_to_lab(np.asarray(result)), lab).mean()
            if column:
                shares[row, column - 1] = result.info["matched"]
    return errors, shares


def print_table(errors: np.ndarray, shares: np.ndarray) -> None:
    """One row a kind of reference."""
    ratios = errors / errors[:, :1]
    print("| reference | CIEDE2000 | ratio | worst photo's ratio | matched | strict takes |")
    print("|---|---|---|---|---|---|")
    for column, name in enumerate(NAMES):
        mean = errors[:, column].mean()
        line = [name, f"{mean:.2f}", f"{mean / errors[:, 0].mean():.3f}"]
        line += [f"{ratios[:, column].max():.2f}"]
        matched = shares[:, column - 1]
        line += (
            [f"{matched.mean():.0%}", f"{(matched >= MIN_SHARE).mean():.0%}"]
            if column
            else ["", ""]
        )
        print("|", " | ".join(line), "|")


def crop(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A part of (H,W,3), of its aspect."""
    height, width = pixels.shape[:2]
    share = rng.uniform(*PHOTO)
    rows, columns = round(height * share), round(width * share)
    y, x = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    return np.ascontiguousarray(pixels[y : y + rows, x : x + columns])


def make_second_view(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another view of (H,W,3) uint8: cropped, tilted, perhaps mirrored, in another light."""
    height, width = pixels.shape[:2]
    share = rng.uniform(*VIEW)
    rows, columns = height * share, width * share
    y, x = rng.uniform(0, height - rows), rng.uniform(0, width - columns)
    corners = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]]) + (x, y)
    corners += rng.uniform(-TILT, TILT, (4, 2)) * (columns, rows)
    corners = corners.clip(0, (width - 1, height - 1)).astype(np.float32)
    size = round(columns), round(rows)
    right, bottom = size[0] - 1, size[1] - 1
    target = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], np.float32)
    if rng.random() < 0.5:
        target[:, 0] = right - target[:, 0]
    turn = cv2.getPerspectiveTransform(corners, target)
    view = cv2.warpPerspective(pixels, turn, size, borderMode=cv2.BORDER_REFLECT)
    rows_at, columns_at = np.mgrid[0 : size[1], 0 : size[0]]
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * (columns_at / size[0] - 0.5)
    slope += np.sin(angle) * (rows_at / size[1] - 0.5)
    light = decode_srgb(view / 255) * rng.uniform(0.6, 1.4)
    light = (light * 2 ** (rng.uniform(0, 1) * slope)[..., None]).clip(0, 1)
    light = light ** rng.uniform(0.85, 1.15)
    return (encode_srgb(light) >> 8).astype(np.uint8)


if __name__ == "__main__":
    main()
