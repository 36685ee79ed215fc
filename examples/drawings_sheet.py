"""Puts the ten drawings of examples/drawings beside samples of each, not selected.

python examples/drawings_sheet.py docs/drawings.jpg
python examples/drawings_sheet.py docs/drawing-samples.jpg --only house --samples 4 --side 256
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from condiff import Cascade

DRAWINGS = Path(__file__).with_name("drawings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="sketch")
    parser.add_argument("--only", default="", help="names of drawings, with commas (default: all)")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--across", type=int, default=2, help="drawings side by side")
    parser.add_argument("--side", type=int, default=176, help="of each picture, in pixels")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    paths = {path.stem: path for path in sorted(DRAWINGS.iterdir())}
    chosen = [name for name in args.only.split(",") if name] or [*paths]
    if unknown := [name for name in chosen if name not in paths]:
        parser.error(f"there is no drawing {unknown[0]!r}: choose from {', '.join(paths)}")
    cascade = Cascade.from_pretrained(args.model)
    rows = [
        lay_beside(cascade, paths[name], samples=args.samples, seed=args.seed, side=args.side)
        for name in chosen
    ]
    across = min(args.across, len(rows))
    rows += [np.full_like(rows[0], 255)] * (-len(rows) % across)
    lines = [np.hstack(rows[n : n + across]) for n in range(0, len(rows), across)]
    Image.fromarray(np.vstack(lines)).save(args.output, quality=88)


def lay_beside(cascade: Cascade, path: Path, *, samples: int, seed: int, side: int) -> np.ndarray:
    """A drawing and pictures of it in a row, (side,(1 + samples) * side,3) uint8."""
    drawing = Image.open(path)
    pictures = cascade(drawing, seed=seed, samples=samples)
    how = Image.Resampling.LANCZOS
    small = [each.convert("RGB").resize((side, side), how) for each in (drawing, *pictures)]
    return np.hstack([np.asarray(each) for each in small])


if __name__ == "__main__":
    main()
