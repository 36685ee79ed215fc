"""A contact sheet of any model: its inputs, its results, and the truth.

    python examples/contact_sheet.py MODEL PHOTOS sheet.png --count 8 --steps 25
    python examples/contact_sheet.py colorize val.parquet sheet.png --count 24 --across 4
    python examples/contact_sheet.py sketch val.parquet sheet.jpg --count 12 --across 2 --samples 3

PHOTOS is a folder of true pictures or a parquet file with a column `image`; the first ones are
used, without selection. A colorizer gets them grey, a model of sketches or edges gets lines made
from them (its pictures are those of `condiff render`, second stage included), an unconditional
model gets no input. Each photo is a column, cropped square; `--across N` puts N uncropped photos
side by side instead, in columns: input, results, truth. `--no-truth` leaves the truth out.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from condiff import Pipeline
from condiff.conditions.drawing_cleanup import Drawing
from condiff.conditions.table import apply, find_condition, to_ink
from condiff.evaluation.pairs import read_truths
from condiff.figures import make_contact_sheet
from condiff.pipelines.cascade import Cascade

KINDS = {"sketch": "sketch", "edge": "canny"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--across", type=int, help="photos side by side")
    parser.add_argument("--samples", type=int, help="default: 1 with --across, else 2")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--scheduler", default="ddim")
    parser.add_argument("--guidance-scale", type=float, help="default: the model's")
    parser.add_argument("--size", type=int, help="of pictures from drawings, as in render")
    parser.add_argument("--upscale", default="auto", help="as in render")
    parser.add_argument("--kind", help="condition of a model of drawings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-truth", action="store_true", help="for photos not to be shown")
    args = parser.parse_args()
    pipeline = Pipeline.from_pretrained(args.model)
    task, side = pipeline.loaded.task, pipeline.loaded.condition_size
    fields = {name: getattr(args, name) for name in ("steps", "scheduler", "guidance_scale")}
    config = pipeline.sampling.override(fields)
    if not task.space.keeps_photo:
        make = Cascade.behind(pipeline, size=args.size, upscale=args.upscale)
        side = make.size or side
    else:
        make = pipeline.run
    if task.picture is None:
        made = [list(make(config=config, seed=args.seed + n))[0] for n in range(3 * args.count)]
        rows = [made[n : n + args.count] for n in range(0, len(made), args.count)]
    else:
        truths = [Image.fromarray(pixels) for pixels in read_truths(args.photos, args.count)]
        if not args.across:
            truths = [ImageOps.fit(t, (side, side), Image.Resampling.BOX) for t in truths]
        if task.space.keeps_photo:
            given = shown = [truth.convert("L") for truth in truths]
        else:
            kind, seen = args.kind or KINDS[task.name], make.lines_side
            given = [draw(truth, kind, side=seen) for truth in truths]
            shown = [Image.fromarray(255 - drawing.ink) for drawing in given]
        samples = args.samples or (1 if args.across else 2)
        made = [
            list(make(image, config=config, seed=args.seed + n * samples, samples=samples))
            for n, image in enumerate(given)
        ]
        rows = [shown, *map(list, zip(*made, strict=True))]
        if not args.no_truth:
            rows.append(truths)
        if args.across:
            rows = lay_across(rows, args.across)
    make_contact_sheet(rows, side=side).save(args.output, quality=80)


def draw(truth: Image.Image, kind: str, *, side: int) -> Drawing:
    """The lines of a true picture resized to a short side, with the condition's own settings."""
    scale = side / min(truth.size)
    size = (round(truth.width * scale), round(truth.height * scale))
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    pixels = np.asarray(truth if size == truth.size else truth.resize(size, how))
    return Drawing(to_ink(apply(kind, pixels), ink=find_condition(kind).ink)[..., 0])


def lay_across(rows: list[list[Image.Image]], across: int) -> list[list[Image.Image]]:
    """Rows of inputs, of results, of truths -> those of each photo side by side."""
    photos = list(zip(*rows, strict=True))
    return [
        [image for photo in photos[n : n + across] for image in photo]
        for n in range(0, len(photos), across)
    ]


if __name__ == "__main__":
    main()
