"""The loss from a colorizer's size of x_t: true chroma at several sizes and the model's.

    python benchmarks/chroma_size.py --data val.parquet --photos 150

One row is the model's chroma. The others are the true chroma at each of --factors times its size,
and the model's plus the true difference between two sizes: the most that a model with a larger x_t
could gain. All are finished like results.

The second table shows how much of that the results predict: for each band of detail, between two
sizes of the middle square, the correlation of a and b with the truth's, and their deviation divided
by the truth's. Details lower the squared error if the first is more than half of the second.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from choose_look import spread, table
from PIL import Image

from condiff.arrays import Pixels
from condiff.color.lab import rgb_to_lab
from condiff.evaluation.colorization import evaluate
from condiff.evaluation.feature_extractors import Lite0Extractor
from condiff.evaluation.pairs import read_truths
from condiff.evaluation.report import markdown_table
from condiff.pipelines.pipeline import Encoded, Pipeline
from condiff.resize import resize, resize_square

Cells = np.ndarray  # chroma (h,w,2) in x_0's units
BANDS = (16, 32, 64, 128)  # sides of pictures


def main() -> None:
    """Parse the arguments and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="colorize", help="a folder, or an embedded model's name")
    parser.add_argument("--data", type=Path, required=True, help="true photos, as condiff eval")
    parser.add_argument("--photos", type=int, help="this many, evenly spaced over the set")
    parser.add_argument("--factors", type=int, nargs="+", default=(1, 2), help="of x_t's size")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = Pipeline.from_pretrained(arguments.model)
    truths = spread(read_truths(arguments.data), arguments.photos)
    photos = [pipeline.encode(Image.fromarray(truth)) for truth in truths]
    found = [sample(pipeline, photo, seed) for seed, photo in enumerate(photos)]
    true = [rgb_to_lab(truth)[..., 1:] / pipeline.loaded.task.space.scale for truth in truths]

    results = list(decode(pipeline, found, photos))
    methods: dict[str, Iterable[Pixels]] = {"the model's": results}
    for factor in arguments.factors:
        pairs = zip(true, found, strict=True)
        cells = [scale(chroma, of.shape, factor) for chroma, of in pairs]
        methods[f"true, {factor} x"] = decode(pipeline, cells, photos)
        if factor > 1:
            added = [add_details(*pair, factor=factor) for pair in zip(found, true, strict=True)]
            methods[f"the model's, true details of {factor} x"] = decode(pipeline, added, photos)
    print(table(evaluate(methods, truths, extractor=Lite0Extractor())))
    print(compare_bands(results, truths))


def sample(pipeline: Pipeline, photo: Encoded, seed: int) -> Cells:
    """The model's chroma of a photo."""
    *_, x_0 = pipeline.sample(photo, seed=seed)
    return pipeline.to_cells(x_0, photo)


def scale(chroma: Cells, shape: Sequence[int], factor: int = 1) -> Cells:
    """Chroma resized to `factor` times the size of `shape`."""
    height, width = shape[:2]
    return resize(np.ascontiguousarray(chroma, np.float32), height * factor, width * factor)


def add_details(found: Cells, true: Cells, *, factor: int) -> Cells:
    """The model's chroma at `factor` times its size, with the truth's details at that size."""
    details = scale(true, found.shape, factor)
    details = details - scale(scale(true, found.shape), found.shape, factor)
    return scale(found, found.shape, factor) + details


def decode(
    pipeline: Pipeline, cells: Sequence[Cells], photos: Sequence[Encoded]
) -> Iterator[Pixels]:
    """The pictures of photos with this chroma."""
    space = pipeline.loaded.task.space
    for chroma, photo in zip(cells, photos, strict=True):
        clipped = chroma.clip(-space.clip, space.clip).astype(np.float32)
        yield np.asarray(space.decode(clipped, photo.source, photo.edits), np.uint8)


def compare_bands(results: Sequence[Pixels], truths: Sequence[Pixels]) -> str:
    """Correlation with the truth, and deviation relative to it, for each band of a and b."""
    lines = []
    for low, high in pairwise((0, *BANDS)):
        ours, theirs = (
            np.stack([take_band(each, low, high) for each in pictures]).reshape(-1, 2)
            for pictures in (results, truths)
        )
        cells = [f"{low} to {high}"]
        for n in (0, 1):
            correlation = np.corrcoef(ours[:, n], theirs[:, n])[0, 1]
            cells.append(f"{correlation:.2f}, {ours[:, n].std() / theirs[:, n].std():.2f}")
        lines.append(cells)
    return markdown_table([("band", "a: correlation, deviation", "b"), *lines])


def take_band(picture: Pixels, low: int, high: int) -> Cells:
    """The details of a and b of a picture's middle square between sides `low` and `high`."""
    ab = rgb_to_lab(resize_square(picture, max(BANDS)))[..., 1:]
    fine = scale(ab, (high, high))
    return fine - scale(scale(ab, (low, low)), (high, high)) if low else fine


if __name__ == "__main__":
    main()
