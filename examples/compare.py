"""Colours photos and puts grey, result and original side by side: the Python API on one page.

python examples/compare.py sheet.jpg photo1.jpg photo2.jpg …
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from condiff import Pipeline
from condiff.color.lab import join_chroma
from condiff.figures import make_contact_sheet
from condiff.photos.reading import read_image

SIDE = 320


def main(sheet: str, *photos: str) -> None:
    """One column per photo, not selected: seed 1 each."""
    colorize = Pipeline.from_pretrained("colorize")
    rows: list[list[Image.Image]] = []
    for path in photos:
        photo = read_image(Path(path))
        (result,) = colorize(photo, seed=1)
        rows.append(
            [ImageOps.fit(image, (SIDE, SIDE)) for image in (to_grey(photo), result, photo)]
        )
    make_contact_sheet(list(zip(*rows, strict=True)), side=SIDE).save(sheet, quality=90)


def to_grey(photo: Image.Image) -> Image.Image:
    """The photo's L* alone, which is the model's input."""
    return Image.fromarray(join_chroma(np.asarray(photo), np.zeros((1, 1, 2), np.float32)))


if __name__ == "__main__":
    main(*sys.argv[1:])
