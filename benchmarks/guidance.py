"""The effect of guidance and steps on a model of drawings: a table of `condiff eval`'s figures.

    python benchmarks/guidance.py MODEL --data val.parquet --limit 32

Two samples per drawing, to measure diversity; rows of one run share drawings and seeds. Pictures
are those of `condiff render`, second stage included; `--size 32` gives the samples of a model of
32² themselves. The baselines are printed last.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from condiff.config import SamplingConfig
from condiff.evaluation.feature_extractors import Lite0Extractor
from condiff.evaluation.pairs import read_truths
from condiff.evaluation.sketches import DrawingRow, evaluate_drawings, prepare_truth
from condiff.pipelines.cascade import AUTO, Cascade

SCALES = (1.0, 1.5, 2.0, 3.0)
STEPS = (10, 25, 50)
SAMPLES = 2


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model folder, or an embedded one by name")
    parser.add_argument("--data", type=Path, required=True, help="true photos")
    parser.add_argument("--limit", type=int, default=32, help="of so many photos")
    parser.add_argument("--condition", default="sketch", help="kind of lines drawn from them")
    parser.add_argument("--size", type=int, help="short side of a picture, as in render")
    parser.add_argument("--upscale", default=AUTO, help="auto, none or a folder, as in render")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cascade = Cascade.from_pretrained(
        arguments.model,
        size=arguments.size,
        upscale=arguments.upscale,
        device=arguments.device,
        threads=arguments.threads,
    )
    kind, extractor = arguments.condition, Lite0Extractor()
    photos = read_truths(arguments.data, arguments.limit)
    given = [prepare_truth(cascade, photo, kind=kind) for photo in photos]
    truths = [truth for truth, _ in given]
    print("| guidance | steps | edge F1, 2 px | Fréchet | of blurred mean's | diversity, Lab |")
    print("|---|---|---|---|---|---|")
    baselines: list[DrawingRow] = []
    for scale in arguments.scales:
        for steps in arguments.steps:
            config = SamplingConfig(steps=steps, guidance_scale=scale)
            how = {"config": config, "samples": SAMPLES}
            painted = [
                [np.asarray(picture) for picture in cascade(drawing, seed=index * SAMPLES, **how)]
                for index, (_, drawing) in enumerate(given)
            ]
            row, *baselines = evaluate_drawings(
                {"model": painted}, truths, kind=kind, extractor=extractor
            )
            show(row, f"{scale:g} | {steps}")
    for row in baselines:
        show(row, f"{row.method} | ")


def show(row: DrawingRow, name: str) -> None:
    """A row of the table."""
    figures = (row.edge_f1, row.frechet, row.frechet_ratio, row.diversity)
    shown = " | ".join("–" if f is None else f"{f:.3g}" for f in figures)
    print(f"| {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
