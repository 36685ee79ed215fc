"""The sheet of docs/guide/hints.md: grey photos with hints, automatic results, results with hints.

python examples/hint_sheet.py docs/hints.jpg
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw
from shipped_photos import open_photo

from condiff import ColorEdits, Hint, Pipeline
from condiff.figures import make_contact_sheet

SIDE = 400
RADIUS = 1 / 40  # of the short side: larger than a hint is, so that it shows
HINTS = {
    "coffee": [
        *(Hint(x, y, "#3c5acd") for x, y in ((0.2, 0.6), (0.74, 0.6), (0.62, 0.9), (0.32, 0.65))),
        *(Hint(x, y, "#a8642d") for x, y in ((0.08, 0.35), (0.92, 0.3), (0.86, 0.62))),
        Hint(0.36, 0.42, "#7a4210"),
    ],
    "astronaut": [
        *(Hint(x, y, "#287832") for x, y in ((0.36, 0.6), (0.62, 0.62), (0.2, 0.72), (0.08, 0.85))),
        Hint(0.9, 0.1, "#8ca8e6"),
    ],
}


def main() -> None:
    """Make the sheet: one row a photo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--model", default="colorize")
    arguments = parser.parse_args()
    colorize = Pipeline.from_pretrained(arguments.model)
    rows: list[Image.Image] = []
    for name, hints in HINTS.items():
        grey = Image.fromarray(open_photo(name)).convert("L")
        (plain,) = colorize(grey, seed=1)
        (hinted,) = colorize(grey, seed=1, edits=ColorEdits(hints=hints))
        rows.append(make_contact_sheet([[mark(grey, hints), plain, hinted]], side=SIDE))
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    sheet.save(arguments.sheet, quality=82)


def mark(photo: Image.Image, hints: list[Hint]) -> Image.Image:
    """The photo with a disc of its colour, outlined in white, at each hint."""
    marked = photo.convert("RGB")
    draw = ImageDraw.Draw(marked)
    radius = RADIUS * min(photo.size)
    for hint in hints:
        x, y = hint.x * photo.width, hint.y * photo.height
        disc = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(disc, fill=hint.color, outline="white", width=2)
    return marked


if __name__ == "__main__":
    main()
