"""The gain from hints and from several samples: mean distance of chroma from the truth.

    python benchmarks/hints.py --data val.parquet --limit 25

The first table gives each photo dabs of its true colour at random places; each column has those of
the column to its left and more. The second takes five samples of each photo: any of them, the two
that `--pick` chooses, and the one nearest to the truth.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from condiff import Hint, Pipeline
from condiff.color.edits import ColorEdits
from condiff.color.lab import rgb_to_lab
from condiff.color.sample_selection import find_colorful, find_median
from condiff.evaluation.pairs import read_truths

DABS = (0, 1, 3, 10, 20)
SAMPLES = 5
MARGIN = 0.03  # of a side, without dabs


def main() -> None:
    """Parse the arguments and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="true photos")
    parser.add_argument("--limit", type=int, default=25, help="of so many photos")
    parser.add_argument("--every", type=int, default=1, help="the first of each so many photos")
    parser.add_argument("--model", default="colorize")
    arguments = parser.parse_args()
    count = arguments.limit * arguments.every
    truths = read_truths(arguments.data, count)[:: arguments.every]
    colorize = Pipeline.from_pretrained(arguments.model)
    print_hints(colorize, truths)
    print_answers(colorize, truths)


def print_hints(colorize: Pipeline, truths: Sequence[np.ndarray]) -> None:
    """Distance of chroma by the number of dabs of true colour."""
    distances = np.empty((len(truths), len(DABS)))
    for row, truth in enumerate(truths):
        dabs = place_dabs(truth, count=max(DABS), seed=row)
        for column, count in enumerate(DABS):
            (result,) = colorize(
                Image.fromarray(truth), seed=row, edits=ColorEdits(hints=dabs[:count])
            )
            distances[row, column] = chroma_distance(np.asarray(result), truth)
    print("| dabs of true colour |", " | ".join(map(str, DABS)), "|")
    print("|---|" + "---|" * len(DABS))
    print("| distance of chroma |", " | ".join(f"{d:.1f}" for d in distances.mean(0)), "|\n")


def place_dabs(truth: np.ndarray, *, count: int, seed: int) -> list[Hint]:
    """Dabs of the colours of (H,W,3) uint8 at random places."""
    height, width = truth.shape[:2]
    places = np.random.default_rng(seed).uniform(MARGIN, 1 - MARGIN, (count, 2))
    colors = [truth[int(y * height), int(x * width)].tobytes().hex() for x, y in places]
    return [Hint(float(x), float(y), f"#{c}") for (x, y), c in zip(places, colors, strict=True)]


def print_answers(colorize: Pipeline, truths: Sequence[np.ndarray]) -> None:
    """Distance and mean chroma of any sample, of those picked, and of the best."""
    names = ("any answer", "median", "colorful", "the best, knowing the truth")
    figures = np.empty((len(truths), 2, len(names)))
    for row, truth in enumerate(truths):
        pictures = colorize(Image.fromarray(truth), seed=SAMPLES * row, samples=SAMPLES, variety=1)
        answers = [np.asarray(picture) for picture in pictures]
        distances = np.array([chroma_distance(answer, truth) for answer in answers])
        chroma = np.array([np.linalg.norm(rgb_to_lab(a)[..., 1:], axis=2).mean() for a in answers])
        chosen = [find_median(answers), find_colorful(answers), int(distances.argmin())]
        for line, values in zip(figures[row], (distances, chroma), strict=True):
            line[:] = values.mean(), *values[chosen]
    print("| |", " | ".join(names), "|")
    print("|---|" + "---|" * len(names))
    for name, line in zip(("distance of chroma", "mean chroma"), figures.mean(0), strict=True):
        print(f"| {name} |", " | ".join(f"{value:.1f}" for value in line), "|")


def chroma_distance(pixels: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of a and b between two photos, (H,W,3) uint8."""
    difference = rgb_to_lab(pixels)[..., 1:] - rgb_to_lab(truth)[..., 1:]
    return float(np.linalg.norm(difference, axis=2).mean())


if __name__ == "__main__":
    main()
