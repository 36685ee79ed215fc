"""Puts every tenth frame of films into one picture, one row per film.

python examples/film_strip.py strip.jpg grey.mp4 color.mp4
"""

import sys
from pathlib import Path

import av
from PIL import Image

EVERY, HEIGHT, GAP = 10, 120, 4


def main(target: Path, films: list[Path]) -> None:
    """Write the strip."""
    rows = [read_row(film) for film in films]
    width = max(sum(frame.width + GAP for frame in row) - GAP for row in rows)
    strip = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP) - GAP), "white")
    for y, row in enumerate(rows):
        x = 0
        for frame in row:
            strip.paste(frame, (x, y * (HEIGHT + GAP)))
            x += frame.width + GAP
    strip.save(target, quality=88)


def read_row(film: Path) -> list[Image.Image]:
    """Every tenth frame, 120 pixels high."""
    frames = []
    with av.open(str(film)) as opened:
        for number, frame in enumerate(opened.decode(video=0)):
            if number % EVERY == 0:
                image = frame.to_image()
                frames.append(image.resize((round(image.width * HEIGHT / image.height), HEIGHT)))
    return frames


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
