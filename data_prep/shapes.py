"""Draw toy photos: landscapes, faces and fruit with colours determined by their shapes.

    python data_prep/shapes.py OUT --count 200

The sky is above the horizon, the disc in it is the sun, and houses have roofs. A colorizer
that has learned this colours them correctly, which a test can check within seconds.
"""

import argparse
from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import output
from condiff.errors import CondiffError
from condiff.sources.folders import drawn_source

Colour = tuple[int, int, int]  # RGB
Pixels = NDArray[np.uint8]

SIDE = 96
SKY: Colour = (110, 165, 230)
GRASS: Colour = (80, 150, 60)
SUN: Colour = (250, 210, 60)
WALL: Colour = (225, 205, 170)
ROOF: Colour = (175, 60, 45)
TRUNK: Colour = (110, 75, 45)
LEAVES: Colour = (45, 115, 50)
SKIN: Colour = (230, 180, 150)
HAIR: Colour = (95, 60, 35)
LIPS: Colour = (190, 70, 80)
WOOD: Colour = (150, 105, 65)
CLOTH: Colour = (120, 130, 175)
APPLE: Colour = (200, 45, 40)
BANANA: Colour = (235, 205, 70)


def draw_landscape(pixels: Pixels, rng: np.random.Generator) -> str:
    """Sky over grass, a sun, and houses or trees on the horizon."""
    side = len(pixels)
    horizon = int(side * rng.uniform(0.5, 0.7))
    pixels[:horizon], pixels[horizon:] = SKY, GRASS
    u = side / 96
    _disc(pixels, rng.uniform(0.15, 0.85) * side, 0.18 * side, rng.uniform(6, 11) * u, SUN)
    houses = int(rng.integers(1, 4))
    for x in rng.permutation(4)[:houses] * side / 4 + side / 8:
        w, h = rng.uniform(7, 11) * u, rng.uniform(10, 18) * u
        base = horizon + rng.uniform(2, 10) * u
        top = base - h
        if rng.random() < 0.6:
            _polygon(pixels, [(x - w, base), (x - w, top), (x + w, top), (x + w, base)], WALL)
            eaves = w + 2 * u
            _polygon(pixels, [(x - eaves, top), (x, top - w), (x + eaves, top)], ROOF)
        else:
            _polygon(pixels, [(x - u, base), (x - u, top), (x + u, top), (x + u, base)], TRUNK)
            _disc(pixels, x, top - 2 * u, 0.8 * w, LEAVES)
    return f"a landscape with {houses} houses or trees under the sun"


def draw_face(pixels: Pixels, rng: np.random.Generator) -> str:
    """A head with hair, eyes and lips before a cloth."""
    side = len(pixels)
    pixels[:] = CLOTH
    x, y = rng.uniform(0.4, 0.6) * side, rng.uniform(0.5, 0.6) * side
    r = rng.uniform(0.22, 0.3) * side
    _disc(pixels, x, y - 0.25 * r, 1.15 * r, HAIR)
    _ellipse(pixels, x, y + 0.1 * r, 0.85 * r, r, SKIN)
    for eye in (x - 0.35 * r, x + 0.35 * r):
        _disc(pixels, eye, y - 0.1 * r, 0.14 * r, (245, 245, 245))
        _disc(pixels, eye, y - 0.1 * r, 0.07 * r, (40, 35, 30))
    _ellipse(pixels, x, y + 0.6 * r, rng.uniform(0.25, 0.4) * r, 0.1 * r, LIPS)
    return "a face"


def draw_fruit(pixels: Pixels, rng: np.random.Generator) -> str:
    """Apples (round) and bananas (long) on a wooden table before a wall."""
    side = len(pixels)
    edge = int(side * rng.uniform(0.3, 0.45))
    pixels[:edge], pixels[edge:] = WALL, WOOD
    for x in (0.25 * side, 0.7 * side):
        y, r = rng.uniform(0.6, 0.8) * side, rng.uniform(0.1, 0.15) * side
        if rng.random() < 0.5:
            _disc(pixels, x, y, r, APPLE)
            _ellipse(pixels, x, y - 1.1 * r, 0.08 * r, 0.3 * r, TRUNK)
        else:
            _ellipse(pixels, x, y, 1.5 * r, 0.45 * r, BANANA)
    return "fruit on a table"


SCENES: tuple[Callable[[Pixels, np.random.Generator], str], ...] = (
    draw_landscape,
    draw_face,
    draw_fruit,
)


def draw_photo(seed: int, number: int, *, side: int = SIDE) -> tuple[Pixels, str]:
    """(side,side,3) uint8 and its caption; with the light, softness and grain of a photo."""
    rng = np.random.default_rng((seed, number))
    pixels = np.zeros((side, side, 3), np.uint8)
    text = SCENES[int(rng.integers(len(SCENES)))](pixels, rng)
    light = np.linspace(rng.uniform(0.85, 1), rng.uniform(0.85, 1), side)[:, None, None]
    grain = rng.normal(0, 3, (side, side, 1))  # equal in all channels: no colour
    lit = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), 0.5) * light + grain
    return lit.clip(0, 255).astype(np.uint8), text


def shapes(seed: int, *, side: int = SIDE) -> Callable[[int], tuple[bytes, str]]:
    """Number -> a photo's PNG file and caption; a function of (seed, number)."""

    def draw(number: int) -> tuple[bytes, str]:
        pixels, text = draw_photo(seed, number, side=side)
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue(), text

    return draw


def _disc(pixels: Pixels, x: float, y: float, r: float, colour: Colour) -> None:
    _ellipse(pixels, x, y, r, r, colour)


def _ellipse(pixels: Pixels, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
    axes = (max(1, round(rx)), max(1, round(ry)))
    cv2.ellipse(pixels, (round(x), round(y)), axes, 0, 0, 360, colour, -1, cv2.LINE_AA)


def _polygon(pixels: Pixels, points: list[tuple[float, float]], colour: Colour) -> None:
    cv2.fillPoly(pixels, [np.array(points).round().astype(np.int32)], colour, cv2.LINE_AA)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw toy photos with captions.")
    output.add_options(parser, count=200)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels (default: %(default)s)")
    options = parser.parse_args(argv)
    source = drawn_source(
        "shapes",
        options.count,
        shapes(options.seed, side=options.side),
        fingerprint=f"{options.seed} {options.side}",
    )
    try:
        return output.write(source, options, license="cc0-1.0")
    except CondiffError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    raise SystemExit(main())
