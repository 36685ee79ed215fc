"""The sheets of docs/guide/references.md, from photos that ship with scikit-image and scikit-learn.

    python examples/reference_sheet.py docs/references.jpg docs/palettes.jpg

The references are other views of the same photos: the other half of the photo's sides and more,
tilted, mirrored, in other light. No photo has the same position in the frame as its reference.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from shipped_photos import open_photo

from condiff import ColorEdits, Pipeline
from condiff.figures import make_contact_sheet

SIDE = 224
# For each photo (x, y, width, height) of the picture, and of the reference's part.
VIEWS = {
    "china": ((0.0, 0.05, 0.62, 0.9), (0.15, 0.0, 0.8, 1.0)),
    "coffee": ((0.2, 0.0, 0.75, 1.0), (0.0, 0.1, 0.85, 0.9)),
    "astronaut": ((0.0, 0.0, 0.75, 0.75), (0.1, 0.05, 0.9, 0.95)),
    "flower": ((0.1, 0.05, 0.6, 0.8), (0.2, 0.15, 0.75, 0.85)),
}
PALETTES = ("coffee", "rocket", ["#1f4e5f", "#f2a65a"], ["#264653", "#2a9d8f", "#e9c46a"])


def main() -> None:
    """Make both sheets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("references", type=Path)
    parser.add_argument("palettes", type=Path)
    parser.add_argument("--model", default="colorize")
    arguments = parser.parse_args()
    colorize = Pipeline.from_pretrained(arguments.model)
    rows = [compare(colorize, open_photo(name), *boxes) for name, boxes in VIEWS.items()]
    make_contact_sheet(rows, side=SIDE).save(arguments.references, quality=82)
    photos = [open_photo(name) for name in ("china", "astronaut")]
    make_contact_sheet(give_palettes(colorize, photos), side=SIDE).save(
        arguments.palettes, quality=82
    )


def compare(
    colorize: Pipeline,
    photo: np.ndarray,
    box: tuple[float, ...],
    seen: tuple[float, ...],
) -> list[Image.Image]:
    """Grey, reference, automatic result, result with the reference."""
    grey = Image.fromarray(cut(photo, box)).convert("L")
    reference = relight(np.ascontiguousarray(tilt(cut(photo, seen))[:, ::-1]))
    (plain,) = colorize(grey, seed=1)
    (helped,) = colorize(grey, seed=1, edits=ColorEdits(references=[reference]))
    return [fit(picture) for picture in (grey, Image.fromarray(reference), plain, helped)]


def give_palettes(colorize: Pipeline, photos: list[np.ndarray]) -> list[list[Image.Image]]:
    """A row of palettes, and one row per photo: automatic, and with each palette."""
    blank = Image.new("RGB", (SIDE, SIDE), "white")
    given = [open_photo(p) if isinstance(p, str) else p for p in PALETTES]
    rows = [[blank, *map(show_palette, given)]]
    for photo in photos:
        grey = Image.fromarray(photo).convert("L")
        edits = [ColorEdits(), *(ColorEdits(palette=palette) for palette in given)]
        rows.append([fit(colorize(grey, seed=1, edits=each)[0]) for each in edits])
    return rows


def show_palette(given: np.ndarray | list[str]) -> Image.Image:
    """The photo, or stripes of the colours."""
    if isinstance(given, np.ndarray):
        return fit(Image.fromarray(given))
    picture = Image.new("RGB", (SIDE, SIDE))
    for n, color in enumerate(given):
        left, right = n * SIDE // len(given), (n + 1) * SIDE // len(given)
        picture.paste(color, (left, 0, right, SIDE))
    return picture


def cut(photo: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """The part of (H,W,3) that (x, y, width, height) name as shares."""
    height, width = photo.shape[:2]
    x, y, wide, tall = box
    rows = slice(round(y * height), round((y + tall) * height))
    return np.ascontiguousarray(photo[rows, round(x * width) : round((x + wide) * width)])


def tilt(photo: np.ndarray) -> np.ndarray:
    """(H,W,3) seen from one side."""
    height, width = photo.shape[:2]
    corners = np.array([[0, 0.07], [1, 0], [1, 1], [0.05, 0.94]]) * (width - 1, height - 1)
    target = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * (width - 1, height - 1)
    turn = cv2.getPerspectiveTransform(corners.astype(np.float32), target.astype(np.float32))
    return cv2.warpPerspective(photo, turn, (width, height), flags=cv2.INTER_AREA)


def relight(photo: np.ndarray) -> np.ndarray:
    """(H,W,3) darker, and darkest on the left."""
    light = np.linspace(0.65, 0.95, photo.shape[1])[None, :, None]
    return (255 * (photo / 255) ** 1.1 * light).astype(np.uint8)


def fit(picture: Image.Image) -> Image.Image:
    """An RGB square that contains the whole picture, on white."""
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return square


if __name__ == "__main__":
    main()
