"""One row per drawing of examples/drawings: the drawing, without a prompt, with a colour word.

python examples/prompt_sheet.py docs/prompts.jpg
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from condiff import Cascade

SIDE = 150
COLORS = ("", "red", "yellow", "green", "blue", "purple")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="sketch")
    parser.add_argument("--names", nargs="+", default=["house", "fish", "flower", "car"])
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    cascade = Cascade.from_pretrained(args.model)
    rows = []
    for name in args.names:
        (path,) = Path(__file__).with_name("drawings").glob(f"{name}.*")
        drawing = Image.open(path)
        prompts = [f"{color} {name}" if color else "" for color in COLORS]
        configs = [cascade.pipeline.sampling.override({"prompt": prompt}) for prompt in prompts]
        made = [cascade(drawing, seed=args.seed, config=config)[0] for config in configs]
        small = [each.convert("RGB").resize((SIDE, SIDE)) for each in (drawing, *made)]
        rows.append(np.hstack([np.asarray(each) for each in small]))
    Image.fromarray(np.vstack(rows)).save(args.output, quality=88)


if __name__ == "__main__":
    main()
