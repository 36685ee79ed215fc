"""How often a model of drawings follows a colour word: a row per colour, for the same drawings.

    python benchmarks/color_words.py -m sketch --data illustrations-val.parquet --drawings 20

A drawing's largest closed region should have the named colour: that of most of its pixels by
`name_colors`. The prompt is the colour and the picture's name, such as "red house". The second
figure is the share of the same drawings with this colour in the region without a prompt.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from condiff import Pipeline
from condiff.color.lab import rgb_to_lab
from condiff.color.names import NAMES, name_colors
from condiff.conditions.drawing_cleanup import Drawing, clean_drawing
from condiff.evaluation.report import markdown_table
from condiff.photos.reading import as_photo

WORDS = tuple(name for name in NAMES if name != "beige")
LEAST = 0.04  # the smallest share of a drawing for its largest region


@dataclass(frozen=True)
class Example:
    """A drawing, its subject's name, and its largest region (H,W) bool."""

    drawing: Drawing
    name: str
    region: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", default="sketch")
    parser.add_argument(
        "--data", type=Path, required=True, help="parquet with image, lines and captions"
    )
    parser.add_argument("--drawings", type=int, default=20)
    parser.add_argument("--lines", default="conditioning_image", help="the column of the drawings")
    parser.add_argument("--guidance-scale", type=float, help="of the words")
    parser.add_argument("--image-guidance-scale", type=float)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    pipeline = Pipeline.from_pretrained(args.model, device="cpu")
    scales = {
        "guidance_scale": args.guidance_scale,
        "image_guidance_scale": args.image_guidance_scale,
    }
    examples = list(islice(read(args.data, args.lines), args.drawings))

    def color_of(example: Example, prompt: str) -> str:
        (picture,) = pipeline(example.drawing, prompt=prompt, seed=args.seed, **scales)
        found = name_colors(rgb_to_lab(np.asarray(picture)))[example.region]
        return NAMES[np.bincount(found, minlength=len(NAMES)).argmax()]

    plain = [color_of(example, "") for example in examples]
    rows, shares = [], []
    for word in WORDS:
        hits = [color_of(example, f"{word} {example.name}") == word for example in examples]
        shares.append((np.mean(hits), np.mean([name == word for name in plain])))
        rows.append([word, *(f"{share:.0%}" for share in shares[-1])])
    rows.append(["mean", *(f"{share:.1%}" for share in np.mean(shares, axis=0))])
    print(f"{len(examples)} drawings, seed {args.seed}")
    print(markdown_table([["colour", "with the word", "without a prompt"], *rows]))


def read(data: Path, lines: str) -> Iterator[Example]:
    """The drawings with a large region, in the data's order."""
    for row in pq.read_table(data, columns=[lines, "text"]).to_pylist():
        file = row[lines]["bytes"] if isinstance(row[lines], dict) else row[lines]
        drawing = clean_drawing(as_photo(file).pixels)
        region = largest_region(drawing.ink)
        if region is not None:
            yield Example(drawing, row["text"].split(",")[0], region)


def largest_region(ink: np.ndarray) -> np.ndarray | None:
    """The largest part of the paper (H,W) that lines enclose; None if it is small."""
    clear = cv2.erode((ink < 96).astype(np.uint8), np.ones((3, 3), np.uint8))
    _, labels = cv2.connectedComponents(clear, connectivity=4)
    sizes = np.bincount(labels.ravel())
    outer = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    sizes[[0, *np.unique(outer)]] = 0
    best = int(sizes.argmax())
    return labels == best if sizes[best] >= LEAST * ink.size else None


if __name__ == "__main__":
    main()
