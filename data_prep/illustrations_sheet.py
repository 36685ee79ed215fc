"""Make a sheet of the first illustrations of each set, beside their line drawings.

    python data_prep/illustrations_sheet.py illustrations/ docs/illustrations.jpg

The folder is written by illustrations.py; the pictures are not selected by hand.
"""

import argparse
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw

GAP, CAPTION = 4, 14  # pixels


def read_rows(folder: Path, columns: list[str]) -> Iterator[dict]:
    """The rows of all parquet files of a folder, or of one file."""
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]
    if not files:
        raise SystemExit(f"{folder} contains no parquet files: write them with illustrations.py.")
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(100, columns=columns):
            yield from batch.to_pylist()


def lay_out(sets: dict[str, list[Image.Image]], *, side: int, across: int) -> Image.Image:
    """The pictures of each set in a row under its name; `across` sets side by side."""
    wide = max(len(pictures) for pictures in sets.values()) * side + GAP
    high = side + CAPTION + GAP
    sheet = Image.new("RGB", (across * wide - GAP, -(-len(sets) // across) * high), "white")
    draw = ImageDraw.Draw(sheet)
    for n, (name, pictures) in enumerate(sets.items()):
        left, top = n % across * wide, n // across * high
        draw.text((left + 2, top + 1), name, "black")
        for number, picture in enumerate(pictures):
            sheet.paste(picture, (left + number * side, top + CAPTION))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of illustrations.py, or one of its files")
    parser.add_argument("output", type=Path)
    parser.add_argument("--each", type=int, default=4, help="pictures of a set")
    parser.add_argument("--across", type=int, default=2, help="sets side by side")
    parser.add_argument("--side", type=int, default=64, help="of a picture, in pixels")
    parser.add_argument("--lines", default="conditioning_image", help="column of the drawings")
    parser.add_argument("--by", default="set", help="column of the sets")
    args = parser.parse_args()
    sets: dict[str, list[Image.Image]] = {}
    for row in read_rows(args.folder, ["image", args.lines, args.by]):
        pictures = sets.setdefault(row[args.by], [])
        if len(pictures) < 2 * args.each:
            for column in ("image", args.lines):
                value = row[column]
                file = BytesIO(value["bytes"] if isinstance(value, dict) else value)
                small = Image.open(file).convert("RGB").resize((args.side, args.side))
                pictures.append(small)
    sheet = lay_out(dict(sorted(sets.items())), side=args.side, across=args.across)
    sheet.save(args.output, quality=75)


if __name__ == "__main__":
    main()
