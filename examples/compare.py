"""Colour photos and lay grey, result and original side by side: the Python API in a page.

python examples/compare.py sheet.jpg photo1.jpg photo2.jpg …
"""

import sys

from PIL import Image

from condiff import Pipeline
from condiff.figures import make_contact_sheet
from condiff.images import read_image


def main(sheet: str, *photos: str) -> None:
    """One row a photo, without picking: seed 1 each."""
    colorize = Pipeline.from_pretrained("colorize")
    rows: list[list[Image.Image]] = []
    for path in photos:
        photo = read_image(path)
        (result,) = colorize(photo, seed=1)
        rows.append([photo.convert("L"), result, photo])
    make_contact_sheet(list(zip(*rows, strict=True)), side=320).save(sheet, quality=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
