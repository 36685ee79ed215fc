"""A contact sheet of any model: what it is given, what it makes of it twice, and the truth.

    python examples/contact_sheet.py MODEL PHOTOS sheet.png --count 8 --steps 25
    python examples/contact_sheet.py colorize val.parquet sheet.png --count 24 --across 4

PHOTOS is a folder of true pictures or a parquet file with a column `image`; the first ones are
taken, none is chosen. A colorizer is given them grey, a model of sketches or edges lines drawn
from them, an unconditional model nothing. `--across N` lays N photos side by side, each
whole, as three columns: what was given, one result, the truth.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from condiff import Pipeline
from condiff.conditions.drawing import Drawing
from condiff.conditions.table import apply, to_ink
from condiff.evaluation.pairs import read_truths
from condiff.figures import make_contact_sheet

KINDS = {"sketch": "sketch", "edge": "canny"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--across", type=int, help="photos side by side, three columns each")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--scheduler", default="ddim")
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--kind", help="condition of a model of drawings")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    pipeline = Pipeline.from_pretrained(args.model)
    task, side = pipeline.loaded.task, pipeline.loaded.condition_size
    how = {"steps": args.steps, "scheduler": args.scheduler, "guidance_scale": args.guidance_scale}
    if not task.condition_channels:
        made = [pipeline(**how, seed=args.seed + n)[0] for n in range(3 * args.count)]
        rows = [made[n : n + args.count] for n in range(0, len(made), args.count)]
    else:
        truths = [Image.fromarray(pixels) for pixels in read_truths(args.photos, args.count)]
        if not args.across:
            truths = [ImageOps.fit(t, (side, side), Image.Resampling.BOX) for t in truths]
        if task.name == "colorize":
            given = shown = [truth.convert("L") for truth in truths]
        else:
            kind = args.kind or KINDS[task.name]
            given = [draw(truth, kind, seed=number) for number, truth in enumerate(truths)]
            shown = [Image.fromarray(255 - drawing.ink) for drawing in given]
        samples = 1 if args.across else 2
        made = [
            pipeline(image, **how, seed=args.seed + n * samples, samples=samples)
            for n, image in enumerate(given)
        ]
        rows = [shown, *map(list, zip(*made, strict=True)), truths]
        if args.across:
            rows = lay_across(rows, args.across)
    make_contact_sheet(rows, side=side).save(args.output)


def draw(truth: Image.Image, kind: str, *, seed: int) -> Drawing:
    """The lines of a true picture, as that condition draws them."""
    return Drawing(to_ink(apply(kind, np.asarray(truth), seed=seed))[..., 0])


def lay_across(rows: list[list[Image.Image]], across: int) -> list[list[Image.Image]]:
    """Rows of givens, of results, of truths -> the three of each photo side by side."""
    photos = list(zip(*rows, strict=True))
    return [
        [image for photo in photos[n : n + across] for image in photo]
        for n in range(0, len(photos), across)
    ]


if __name__ == "__main__":
    main()
