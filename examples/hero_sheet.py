"""The README's picture: grey photos, condiff's colours, the colours as photographed.

    python examples/hero_sheet.py docs/hero.jpg
    python examples/hero_sheet.py seeds.jpg --seeds 1 2 3 4 5 --old
    python examples/hero_sheet.py plates.jpg --emulsion orthochromatic

--seeds adds a row of results for each seed; --old first makes scans of old prints of the photos,
--emulsion first takes them on plates or films that do not see all colours.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from shipped_photos import HERO, open_photo

from condiff import Pipeline
from condiff.color.degradation import EMULSIONS, add_dust, add_frame, degrade, expose, narrow_levels
from condiff.color.lab import lab_to_rgb, lightness, to_grey
from condiff.figures import make_contact_sheet

SIDE = 320


def main() -> None:
    """Make the sheet: one column a photo, none picked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--model", default="colorize")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--emulsion", choices=EMULSIONS)
    parser.add_argument("--old", action="store_true", help="faded, grainy, blurred, dusty scans")
    parser.add_argument("--photos", nargs="+", default=HERO, help="names in the two packages")
    arguments = parser.parse_args()
    colorize = Pipeline.from_pretrained(arguments.model)
    truths = [open_photo(name) for name in arguments.photos]
    greys = [to_grey(truth) for truth in truths]
    if arguments.emulsion:
        greys = [expose(truth, EMULSIONS[arguments.emulsion]) for truth in truths]
    if arguments.old:
        greys = [age(grey, seed) for seed, grey in enumerate(greys)]
    results = [
        [colorize(Image.fromarray(grey), seed=seed)[0] for grey in greys]
        for seed in arguments.seeds
    ]
    rows = [map(Image.fromarray, greys), *results, map(Image.fromarray, truths)]
    cut = [[ImageOps.fit(picture, (SIDE, SIDE)) for picture in row] for row in rows]
    make_contact_sheet(cut, side=SIDE).save(arguments.sheet, quality=82)


def age(photo: np.ndarray, seed: int) -> np.ndarray:
    """(H,W,3) uint8 -> the same in grey, as a scan of an old print of it would be."""
    rng = np.random.default_rng(seed)
    L = add_dust(degrade(narrow_levels(lightness(photo), rng), rng), rng)
    return add_frame(lab_to_rgb(np.dstack([L, 0 * L, 0 * L])), rng)


if __name__ == "__main__":
    main()
