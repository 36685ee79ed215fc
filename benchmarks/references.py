"""The effect of references, palettes and albums on errors and colours, on photos of a parquet.

    python benchmarks/references.py reference|pairs|palette|album|hints --data val.parquet

reference: CIEDE2000 without one, with a second view of the scene, and with an unrelated photo
palette: the same with their palettes, and how far the result's chroma is from the photo's
pairs: as reference, with real second photos of a scene or of similar objects, in the rows of --rows
hints: the hints from a second view, and those that `data.reference_prob` simulates in training
album: how far the photos of a set differ, alone and as an album: crops of one photo, and any photos

A photo is a crop of a true one. Its second view is made from the same true photo: another crop,
from another angle, in half the cases mirrored, lit from one side, brighter or darker. The unrelated
photo is from another row of the data. Ratios are to automatic results of the same run.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from condiff import ColorEdits, Pipeline
from condiff.color.album import AlbumStyle, ChromaMeans
from condiff.color.lab import rgb_to_lab
from condiff.color.references import HINT_WEIGHT, MIN_SHARE
from condiff.evaluation.metrics import ciede2000, gaudy
from condiff.photos.icc import decode_srgb, encode_srgb
from condiff.photos.photo import Photo
from condiff.photos.reading import read_image
from condiff.resize import resize
from condiff.sources.folders import open_source
from condiff.training.reference_hints import add_references, sample_matches

PHOTO, VIEW = (0.7, 0.9), (0.6, 0.85)  # shares of a true photo's sides that are visible
SET, OF_SET = 5, (0.5, 0.8)  # crops of one photo in a set, and their shares of its sides
TILT = 0.06  # how far a corner of a view is moved, as a share of its sides
DIRECTIONS = 16  # along which distributions of chroma are compared
NAMES = ("automatic", "second view", "unrelated photo")


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["reference", "pairs", "palette", "album", "hints"])
    parser.add_argument("--data", type=Path, required=True, help="true photos")
    parser.add_argument("--photos", type=int, default=40, help="so many, evenly spaced")
    parser.add_argument("--skip", type=int, default=0, help="shifts the choice by so many rows")
    parser.add_argument("--model", default="colorize")
    parser.add_argument("--rows", nargs="*", default=[], help="of pairs, as 12-345")
    arguments = parser.parse_args()
    if arguments.what == "pairs":
        print_pairs(Pipeline.from_pretrained(arguments.model), arguments.data, arguments.rows)
        return
    truths = load(arguments.data, arguments.photos, arguments.skip)
    colorize = Pipeline.from_pretrained(arguments.model)
    if arguments.what == "album":
        print_albums(colorize, truths)
    elif arguments.what == "hints":
        print_hints(colorize, truths)
    elif arguments.what == "reference":
        print_references(colorize, truths)
    else:
        print_palettes(colorize, truths)


def print_references(colorize: Pipeline, truths: Sequence[np.ndarray]) -> None:
    """One row per kind of reference."""
    rows = colour_each(colorize, truths, lambda view: ColorEdits(references=[view]))
    print_errors(rows, NAMES)


def print_pairs(colorize: Pipeline, data: Path, pairs: Sequence[str]) -> None:
    """One row per kind of reference, for both photos of each pair of rows of the data."""
    numbers = [tuple(int(n) for n in pair.split("-")) for pair in pairs]
    photos = load_rows(data, {n for pair in numbers for n in pair})
    cases = [(photos[a], photos[b]) for pair in numbers for a, b in (pair, pair[::-1])]
    rows = []
    for number, (photo, second) in enumerate(cases):
        other = cases[(number + 2) % len(cases)][1]
        rows.append(colour(colorize, photo, (second, other), number))
        labs, truth, shares, _ = rows[-1]
        errors = " ".join(f"{ciede2000(lab, truth).mean():.2f}" for lab in labs)
        print(f"{pairs[number // 2]}: {errors}, matched {shares[1]:.0%}", file=sys.stderr)
    print_errors(rows, ("automatic", "second photo", "unrelated photo"))


def print_errors(rows: "Sequence[Row]", names: Sequence[str]) -> None:
    """The table of errors, matched shares and times, one row per kind of reference."""
    errors = np.array([[ciede2000(lab, true).mean() for lab in row] for row, true, _, _ in rows])
    seconds = np.array([taken for *_, taken in rows])
    ratios = errors / errors[:, :1]
    print("| reference | CIEDE2000 | ratio | worst photo | matched | strict takes | time, ratio |")
    print("|---|---|---|---|---|---|---|")
    for column, name in enumerate(names):
        mean = errors[:, column].mean()
        line = [name, f"{mean:.2f}", f"{mean / errors[:, 0].mean():.3f}"]
        line.append(f"{ratios[:, column].max():.2f}")
        matched = np.array([shares[column] for _, _, shares, _ in rows])
        line += [f"{matched.mean():.0%}", f"{(matched >= MIN_SHARE).mean():.0%}"]
        line.append(f"{np.median(seconds[:, column] / seconds[:, 0]):.2f}")
        print("|", " | ".join(line), "|")


def print_palettes(colorize: Pipeline, truths: Sequence[np.ndarray]) -> None:
    """One row per kind of photo that gives the palette."""
    rows = colour_each(colorize, truths, lambda view: ColorEdits(palette=view))
    print("| palette of | CIEDE2000 | ratio | chroma from the photo's | ratio | gaudy |")
    print("|---|---|---|---|---|---|")
    measures: list[Callable[..., float]] = [
        lambda lab, true: float(ciede2000(lab, true).mean()),
        compare_chroma,
        gaudy,
    ]
    values = np.array(
        [[[measure(lab, true) for lab in row] for row, true, *_ in rows] for measure in measures]
    ).mean(axis=1)
    for column, name in enumerate(NAMES):
        line = [name]
        for value in values[:2]:
            line += [f"{value[column]:.2f}", f"{value[column] / value[0]:.3f}"]
        print("|", " | ".join([*line, f"{values[2][column]:.2%}"]), "|")


def print_hints(colorize: Pipeline, truths: Sequence[np.ndarray]) -> None:
    """One row for the hints from second views, one for simulated ones."""
    found: list[list[tuple[float, ...]]] = [[], []]
    for number, truth in enumerate(truths):
        rng = np.random.default_rng(number)
        photo, view = crop(truth, rng), make_second_view(truth, rng)
        _, condition = colorize.prepare(Photo(photo), size=None)
        guide = colorize._match(condition, ColorEdits(references=[view]), size=None)
        lab = resize(rgb_to_lab(photo), *guide.weight.shape)
        found[0].append(measure_hints(guide.chroma, guide.weight >= HINT_WEIGHT, lab))
        planes = torch.from_numpy(lab.transpose(2, 0, 1)[None])
        matches = sample_matches(
            (1, *guide.weight.shape), prob=1, generator=torch.Generator().manual_seed(number)
        )
        none = torch.zeros(1, 3, *guide.weight.shape)
        (hints,) = add_references(none, planes[:, 1:], planes[:, :1] / 50 - 1, matches, scale=1)
        chroma = hints[:2].permute(1, 2, 0).numpy()
        found[1].append(measure_hints(chroma, hints[2].numpy() > 0, lab))
    print("| hints of | cells with one | distance from the truth, median | 90 % | strength |")
    print("|---|---|---|---|---|")
    for name, rows in zip(("second views", "simulated ones"), found, strict=True):
        cover, middle, far, strength = np.nanmean(rows, axis=0)
        spread = np.nanstd(np.log([row[3] for row in rows]))
        line = [name, f"{cover:.0%}", f"{middle:.1f}", f"{far:.1f}"]
        print("|", " | ".join([*line, f"{strength:.2f}, e^±{spread:.2f}"]), "|")


def measure_hints(chroma: np.ndarray, taken: np.ndarray, lab: np.ndarray) -> tuple[float, ...]:
    """Share of cells, median and 90 % of the distance to Lab's chroma there, and their ratio."""
    if not taken.any():
        return 0.0, np.nan, np.nan, np.nan
    given, true = chroma[taken], lab[..., 1:][taken]
    apart = np.linalg.norm(given - true, axis=1)
    ratio = float((given * true).sum() / (true * true).sum())
    middle, far = np.quantile(apart, [0.5, 0.9])
    return float(taken.mean()), float(middle), float(far), max(ratio, 0.1)


def print_albums(colorize: Pipeline, truths: Sequence[np.ndarray]) -> None:
    """One row for sets of crops of one photo, one for a set of all photos."""
    rolls = []
    for row, truth in enumerate(truths):
        rng = np.random.default_rng(row)
        rolls.append([crop(truth, rng, OF_SET) for _ in range(SET)])
    mixed = [crop(truth, np.random.default_rng(n), PHOTO) for n, truth in enumerate(truths)]
    print("| set | spread of mean chroma, ratio | of strength, ratio | CIEDE2000, ratio |")
    print("|---|---|---|---|")
    for name, sets in ((f"{SET} crops of a photo", rolls), (f"{len(mixed)} photos", [mixed])):
        figures = np.array([measure_album(colorize, photos) for photos in sets]).mean(axis=0)
        print("|", " | ".join([name, *(f"{new / old:.3f}" for old, new in figures.T)]), "|")


def measure_album(colorize: Pipeline, photos: Sequence[np.ndarray]) -> np.ndarray:
    """(2,3), alone and as an album: spread of mean chroma, spread of its strength, CIEDE2000."""
    config = colorize.sampling
    means = [
        colorize.measure(p, config=config, seed=n, edits=ColorEdits(album=AlbumStyle(0)))
        for n, p in enumerate(photos)
    ]
    figures = []
    for edits in (ColorEdits(), ColorEdits(album=AlbumStyle.of(means, seed=0))):
        labs = [
            rgb_to_lab(np.asarray(colorize(Image.fromarray(photo), seed=n, edits=edits)[0]))
            for n, photo in enumerate(photos)
        ]
        found = np.array([ChromaMeans.of(lab[..., 1:]) for lab in labs])
        errors = [ciede2000(lab, rgb_to_lab(p)).mean() for lab, p in zip(labs, photos, strict=True)]
        spread = np.hypot(*found[:, :2].std(axis=0)), found[:, 2].std(), np.mean(errors)
        figures.append(spread)
    return np.array(figures)


# The results by NAMES and the truth as Lab, the matched shares, and seconds.
Row = tuple[list[np.ndarray], np.ndarray, list[float], list[float]]


def colour_each(
    colorize: Pipeline, truths: Sequence[np.ndarray], edit: Callable[[np.ndarray], ColorEdits]
) -> list[Row]:
    """The results of each photo, alone, with its second view and with an unrelated photo."""
    rows = []
    for number, truth in enumerate(truths):
        rng = np.random.default_rng(number)
        photo, view = crop(truth, rng), make_second_view(truth, rng)
        other = truths[(number + 1) % len(truths)]
        rows.append(colour(colorize, photo, (view, other), number, edit))
    return rows


def colour(
    colorize: Pipeline,
    photo: np.ndarray,
    references: Sequence[np.ndarray],
    seed: int,
    edit: Callable[[np.ndarray], ColorEdits] = lambda view: ColorEdits(references=[view]),
) -> Row:
    """The results of a photo without edits, and with the edits of each reference."""
    labs, shares, seconds = [], [], []
    for edits in (ColorEdits(), *map(edit, references)):
        began = time.perf_counter()
        (result,) = colorize(Image.fromarray(photo), seed=seed, edits=edits)
        seconds.append(time.perf_counter() - began)
        labs.append(rgb_to_lab(np.asarray(result)))
        shares.append(float(result.info.get("matched", 0)))
    return labs, rgb_to_lab(photo), shares, seconds


def compare_chroma(lab: np.ndarray, other: np.ndarray) -> float:
    """Distance of two distributions of chroma: the sliced Wasserstein distance, in ab units."""
    angles = np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    lines = np.stack([np.cos(angles), np.sin(angles)])
    shares = np.linspace(0, 1, 201)
    along = [np.quantile(x[..., 1:].reshape(-1, 2) @ lines, shares, axis=0) for x in (lab, other)]
    return float(np.abs(along[0] - along[1]).mean())


def load(data: Path, count: int, skip: int) -> list[np.ndarray]:
    """(H,W,3) uint8 of this many photos, evenly spaced over the data."""
    total = open_source(str(data)).total
    assert total, "the number of photos is known"
    spaced = np.linspace(0, total - 1, min(count, total)).round().astype(int)
    return [*load_rows(data, {(int(n) + skip) % total for n in spaced}).values()]


def load_rows(data: Path, wanted: set[int]) -> dict[int, np.ndarray]:
    """(H,W,3) uint8 of the photos in these rows, by row."""
    items = (item for item in enumerate(open_source(str(data)).items()) if item[0] in wanted)
    return {
        number: np.asarray(read_image(item.image.opened()).convert("RGB")) for number, item in items
    }


def crop(
    pixels: np.ndarray, rng: np.random.Generator, shares: tuple[float, float] = PHOTO
) -> np.ndarray:
    """A part of (H,W,3) of the same aspect, with sides of a share between `shares`."""
    height, width = pixels.shape[:2]
    share = rng.uniform(*shares)
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
