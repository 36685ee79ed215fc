"""Lays the ten drawings of examples/drawings beside three samples each, none chosen.

python examples/drawings_sheet.py docs/drawings.jpg
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from condiff import Cascade

SIDE, ACROSS = 176, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="sketch")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    cascade = Cascade.from_pretrained(args.model)
    rows = []
    for path in sorted(Path(__file__).with_name("drawings").iterdir()):
        drawing = Image.open(path)
        pictures = cascade(drawing, seed=args.seed, samples=args.samples)
        small = [each.convert("RGB").resize((SIDE, SIDE)) for each in (drawing, *pictures)]
        rows.append(np.hstack([np.asarray(each) for each in small]))
    lines = [np.hstack(rows[n : n + ACROSS]) for n in range(0, len(rows), ACROSS)]
    Image.fromarray(np.vstack(lines)).save(args.output, quality=88)


if __name__ == "__main__":
    main()
