"""Draws examples/sketch.png: a house, a tree, hills and a sun, in one black pen of 4 pixels.

python examples/make_sketch.py
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 640, 480
PEN = 4
FINE = 4  # drawn so many times larger, then averaged: smooth lines


def curve(draw: ImageDraw.ImageDraw, x: np.ndarray, y: np.ndarray) -> None:
    """A line through points in pixels, with round ends."""
    points = [(float(a) * FINE, float(b) * FINE) for a, b in zip(x, y, strict=True)]
    draw.line(points, "black", PEN * FINE, joint="curve")
    for a, b in (points[0], points[-1]):
        end = PEN * FINE / 2
        draw.ellipse((a - end, b - end, a + end, b + end), "black")


def lines(draw: ImageDraw.ImageDraw, *points: tuple[float, float]) -> None:
    """Straight lines from point to point."""
    curve(draw, *np.array(points, float).T)


def cloud(x: float, y: float, wide: float, high: float, bumps: int) -> tuple[np.ndarray, ...]:
    """An outline of `bumps` arcs about an ellipse."""
    turn = np.linspace(0, 2 * np.pi, 400)
    swell = 1 + 0.16 * np.abs(np.sin(turn * bumps / 2))
    return x + wide * swell * np.cos(turn), y + high * swell * np.sin(turn)


def make_sketch() -> Image.Image:
    """The drawing, black on white, mode L."""
    sheet = Image.new("L", (SIZE[0] * FINE, SIZE[1] * FINE), "white")
    draw = ImageDraw.Draw(sheet)
    # Hills, left of the house and between house and tree.
    x = np.linspace(0, 182, 60)
    curve(draw, x, 262 - 58 * np.sin(x / 182 * np.pi * 0.85) - 6 * np.sin(x / 20))
    x = np.linspace(452, 640, 60)
    curve(draw, x, 268 - 44 * np.sin((x - 400) / 90) ** 2)
    # The house: walls, roof, chimney with smoke, door, window.
    lines(draw, (190, 262), (190, 390), (420, 390), (420, 262))
    lines(draw, (160, 262), (305, 140), (450, 262), (160, 262))
    lines(draw, (362, 186), (362, 130), (392, 130), (392, 212))
    turn = np.linspace(0, 1, 80)
    curve(draw, 378 + 55 * turn + 14 * np.sin(9 * turn), 118 - 90 * turn)
    lines(draw, (225, 390), (225, 300), (280, 300), (280, 390))
    curve(draw, 270 + 2.5 * np.cos(turn * 6.3), 347 + 2.5 * np.sin(turn * 6.3))
    lines(draw, (320, 295), (390, 295), (390, 350), (320, 350), (320, 295))
    lines(draw, (355, 295), (355, 350))
    lines(draw, (320, 322), (390, 322))
    # The tree, in front of the hill.
    crown = cloud(538, 218, 62, 66, 9)
    draw.polygon([(a * FINE, b * FINE) for a, b in zip(*crown, strict=True)], "white")
    curve(draw, 524 - 9 * turn**3, 292 + 110 * turn)
    curve(draw, 552 + 10 * turn**3, 292 + 110 * turn)
    curve(draw, *crown)
    # The sun.
    curve(draw, 90 + 34 * np.cos(turn * 6.3), 86 + 34 * np.sin(turn * 6.3))
    for angle in np.linspace(0, 2 * np.pi, 13)[:-1]:
        way = np.array([46, 64 if round(angle * 6 / np.pi) % 2 else 58])
        curve(draw, 90 + way * np.cos(angle), 86 + way * np.sin(angle))
    # The ground, and a path from the door.
    x = np.linspace(0, 640, 120)
    ground = 408 + 8 * np.sin(x / 70)
    curve(draw, x[x < 205], ground[x < 205])
    curve(draw, x[x > 312], ground[x > 312])
    curve(draw, 225 - 75 * turn**2, 392 + 86 * turn)
    curve(draw, 280 + 20 * turn + 40 * turn**2, 392 + 86 * turn)
    return sheet.resize(SIZE, Image.Resampling.BOX)


if __name__ == "__main__":
    make_sketch().save(Path(__file__).with_name("sketch.png"), optimize=True)
