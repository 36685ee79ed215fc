"""What the size of x_t costs a colorizer: true chroma at several sizes beside the model's.

    python benchmarks/chroma_size.py --data val.parquet --photos 150

One row is the model's chroma, one the true chroma at each of --factors times its size, and one the
model's with the true difference between two sizes added: what a model could gain at most whose x_t
were larger. All are finished as results are.
"""

import argparse
from collections.abc import Iterator, Sequence
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
from condiff.pipelines.pipeline import Encoded, Pipeline
from condiff.resize import resize

Cells = np.ndarray  # chroma (h,w,2) in x_0's units


def main() -> None:
    """Parse the arguments and print the table."""
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

    methods = {"the model's": decode(pipeline, found, photos)}
    for factor in arguments.factors:
        pairs = zip(true, found, strict=True)
        cells = [scale(chroma, of.shape, factor) for chroma, of in pairs]
        methods[f"true, {factor} x"] = decode(pipeline, cells, photos)
        if factor > 1:
            added = [add_details(*pair, factor=factor) for pair in zip(found, true, strict=True)]
            methods[f"the model's, true details of {factor} x"] = decode(pipeline, added, photos)
    print(table(evaluate(methods, truths, extractor=Lite0Extractor())))


def sample(pipeline: Pipeline, photo: Encoded, seed: int) -> Cells:
    """The model's chroma of a photo."""
    *_, x_0 = pipeline.sample(photo, seed=seed)
    return pipeline.to_cells(x_0, photo)


def scale(chroma: Cells, shape: Sequence[int], factor: int = 1) -> Cells:
    """Chroma at `factor` times the size of `shape`."""
    height, width = shape[:2]
    return resize(np.ascontiguousarray(chroma, np.float32), height * factor, width * factor)


def add_details(found: Cells, true: Cells, *, factor: int) -> Cells:
    """The model's chroma at `factor` times its size, with what the truth has only there."""
    details = scale(true, found.shape, factor)
    details = details - scale(scale(true, found.shape), found.shape, factor)
    return scale(found, found.shape, factor) + details


def decode(
    pipeline: Pipeline, cells: Sequence[Cells], photos: Sequence[Encoded]
) -> Iterator[Pixels]:
    """The pictures that chroma makes of photos."""
    space = pipeline.loaded.task.space
    for chroma, photo in zip(cells, photos, strict=True):
        clipped = chroma.clip(-space.clip, space.clip).astype(np.float32)
        yield np.asarray(space.decode(clipped, photo.source, photo.edits), np.uint8)


if __name__ == "__main__":
    main()
