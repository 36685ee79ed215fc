"""Draws examples/drawings: ten drawings as by mouse, in one black pen, two of them photographed.

    python examples/make_drawings.py

The lines wobble, do not quite meet, and miss corners, as in drawings by hand. Cat and boat are also
drawn in pencil on paper, and photographed under a lamp at a slight angle.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

SIDE = 400  # pixels
PEN = 3
FINE = 4  # drawn so many times larger, then averaged: smooth lines
PENCIL = ("cat", "boat")

Points = np.ndarray  # (N,2): x, y in pixels


class Hand:
    """Strokes on a sheet, with a hand's wobble."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.sheet = Image.new("L", (SIDE * FINE, SIDE * FINE), "white")
        self.draw = ImageDraw.Draw(self.sheet)

    def stroke(self, points: Points) -> None:
        """A curve through points, with ends up to two pixels off."""
        steps = np.hypot(*np.diff(points, axis=0).T)
        length = np.concatenate([[0], np.cumsum(steps)])
        along = np.linspace(0, length[-1], max(2, round(length[-1] / 3)))
        way = np.stack([np.interp(along, length, points[:, i]) for i in (0, 1)], axis=1)
        bends = self.rng.uniform(-1.6, 1.6, (round(length[-1] / 40) + 2, 2))
        knots = np.linspace(0, length[-1], len(bends))
        way += np.stack([np.interp(along, knots, bends[:, i]) for i in (0, 1)], axis=1)
        fine = [(float(x) * FINE, float(y) * FINE) for x, y in way]
        self.draw.line(fine, "black", PEN * FINE, joint="curve")
        end = PEN * FINE / 2
        for x, y in (fine[0], fine[-1]):
            self.draw.ellipse((x - end, y - end, x + end, y + end), "black")

    def lines(self, *points: tuple[float, float]) -> None:
        """Straight lines from point to point, each a stroke of its own."""
        for here, there in zip(points, points[1:], strict=False):
            self.stroke(np.array([here, there], float))

    def arc(
        self, x: float, y: float, wide: float, high: float, start: float = 0, end: float = 360
    ) -> None:
        """A part of an ellipse about (x, y), in degrees clockwise from the right."""
        turn = np.radians(np.linspace(start, end, 60))
        self.stroke(np.stack([x + wide * np.cos(turn), y + high * np.sin(turn)], axis=1))

    def curve(self, *points: tuple[float, float]) -> None:
        """A Bézier curve with these control points."""
        t = np.linspace(0, 1, 60)[:, None]
        level = [np.array(point, float) for point in points]
        way = [np.broadcast_to(point, (60, 2)) for point in level]
        while len(way) > 1:
            way = [(1 - t) * a + t * b for a, b in zip(way, way[1:], strict=False)]
        self.stroke(way[0])

    def dot(self, x: float, y: float, radius: float) -> None:
        """A filled dot."""
        box = [(x - radius) * FINE, (y - radius) * FINE, (x + radius) * FINE, (y + radius) * FINE]
        self.draw.ellipse(box, "black")


def house(hand: Hand) -> None:
    hand.lines((90, 190), (90, 340), (310, 340), (310, 190))
    hand.lines((60, 195), (200, 70), (340, 195), (60, 195))
    hand.lines((175, 340), (175, 255), (230, 255), (230, 340))
    hand.lines((115, 225), (155, 225), (155, 270), (115, 270), (115, 225))
    hand.lines((250, 225), (290, 225), (290, 270), (250, 270), (250, 225))
    hand.lines((265, 125), (265, 80), (295, 80), (295, 152))
    hand.dot(220, 300, 4)


def cat(hand: Hand) -> None:
    hand.arc(200, 140, 75, 62, -50, 230)
    hand.lines((152, 92), (140, 40), (182, 76))
    hand.lines((218, 76), (260, 40), (248, 92))
    hand.arc(172, 132, 10, 13)
    hand.arc(228, 132, 10, 13)
    hand.lines((192, 158), (208, 158), (200, 168), (192, 158))
    hand.curve((200, 168), (195, 185), (178, 180))
    hand.curve((200, 168), (205, 185), (222, 180))
    hand.arc(200, 275, 82, 85, -60, 240)
    hand.curve((275, 310), (350, 330), (360, 240), (325, 215))
    hand.curve((282, 335), (380, 350), (390, 220), (325, 215))
    hand.arc(165, 350, 28, 15)
    hand.arc(235, 350, 28, 15)


def fish(hand: Hand) -> None:
    hand.curve((60, 200), (120, 80), (260, 90), (300, 195))
    hand.curve((60, 200), (120, 320), (260, 310), (300, 205))
    hand.lines((298, 195), (365, 130), (350, 200), (365, 270), (298, 205))
    hand.curve((170, 122), (200, 70), (250, 90), (250, 140))
    hand.curve((180, 230), (220, 215), (235, 250), (195, 262), (180, 232))
    hand.arc(112, 180, 15, 15)
    hand.dot(110, 181, 5)
    hand.curve((145, 135), (165, 190), (145, 262))


def tree(hand: Hand) -> None:
    hand.arc(200, 105, 70, 60, 190, 350)
    hand.arc(275, 160, 60, 51, -80, 100)
    hand.arc(235, 215, 55, 47, 20, 150)
    hand.arc(150, 215, 55, 47, 40, 170)
    hand.arc(125, 155, 60, 51, 100, 270)
    hand.curve((180, 258), (185, 310), (165, 355))
    hand.curve((222, 262), (222, 310), (240, 355))
    hand.curve((40, 358), (200, 345), (360, 360))
    hand.arc(160, 150, 11, 11)
    hand.arc(235, 140, 11, 11)
    hand.arc(200, 200, 11, 11)


def car(hand: Hand) -> None:
    hand.curve((50, 270), (45, 210), (110, 205))
    hand.curve((110, 205), (150, 130), (220, 130))
    hand.curve((220, 130), (280, 130), (300, 205))
    hand.curve((300, 205), (360, 210), (355, 270))
    hand.lines((50, 270), (90, 270))
    hand.lines((160, 270), (245, 270))
    hand.lines((315, 270), (355, 270))
    hand.arc(125, 272, 34, 34)
    hand.arc(125, 272, 15, 15)
    hand.arc(280, 272, 34, 34)
    hand.arc(280, 272, 15, 15)
    hand.lines((135, 203), (160, 153), (200, 150), (200, 205), (135, 203))
    hand.lines((215, 205), (215, 150), (255, 156), (278, 205), (215, 205))
    hand.arc(340, 228, 10, 10)


def face(hand: Hand) -> None:
    hand.arc(200, 210, 110, 130)
    hand.curve((92, 190), (110, 60), (200, 60), (290, 60), (308, 190))
    hand.curve((98, 165), (150, 180), (190, 120))
    hand.curve((190, 120), (240, 175), (304, 165))
    hand.arc(155, 205, 17, 12)
    hand.arc(245, 205, 17, 12)
    hand.dot(155, 205, 6)
    hand.dot(245, 205, 6)
    hand.curve((200, 215), (185, 250), (208, 252))
    hand.curve((155, 285), (200, 320), (245, 285))
    hand.curve((155, 285), (200, 295), (245, 285))


def flower(hand: Hand) -> None:
    for n in range(6):
        angle = np.radians(60 * n)
        x, y = 200 + 62 * np.cos(angle), 130 + 62 * np.sin(angle)
        hand.arc(x, y, 34, 34, 60 * n - 120, 60 * n + 120)
    hand.arc(200, 130, 32, 32)
    hand.curve((194, 218), (185, 290), (195, 370))
    hand.curve((206, 218), (200, 290), (208, 370))
    hand.curve((205, 310), (250, 240), (310, 265))
    hand.curve((205, 314), (270, 330), (310, 265))
    hand.curve((190, 340), (150, 280), (100, 300))
    hand.curve((190, 345), (140, 360), (100, 300))


def cup(hand: Hand) -> None:
    hand.arc(185, 140, 95, 26)
    hand.curve((90, 142), (100, 260), (130, 300))
    hand.curve((280, 142), (270, 260), (240, 300))
    hand.curve((130, 300), (185, 318), (240, 300))
    hand.curve((278, 170), (360, 160), (345, 260), (262, 248))
    hand.curve((275, 192), (330, 185), (318, 235), (266, 228))
    hand.arc(185, 325, 130, 24)
    hand.curve((150, 100), (135, 75), (165, 60), (150, 35))
    hand.curve((205, 100), (190, 75), (220, 60), (205, 35))


def boat(hand: Hand) -> None:
    hand.lines((60, 270), (340, 270))
    hand.curve((60, 270), (80, 330), (120, 335))
    hand.curve((340, 270), (320, 330), (280, 335))
    hand.lines((120, 335), (280, 335))
    hand.lines((196, 270), (196, 50))
    hand.lines((204, 270), (204, 50))
    hand.curve((212, 65), (330, 150), (320, 250))
    hand.lines((320, 250), (212, 250), (212, 65))
    hand.lines((188, 90), (188, 250), (90, 250), (188, 90))
    hand.lines((196, 50), (240, 38), (204, 28))
    hand.curve((20, 345), (60, 325), (100, 360), (140, 345))
    hand.curve((150, 350), (200, 330), (240, 365), (280, 348))
    hand.curve((290, 350), (320, 330), (350, 362), (385, 345))


def sun(hand: Hand) -> None:
    hand.arc(200, 200, 80, 80)
    for n in range(8):
        a = np.radians(45 * n)
        tip = (200 + 165 * np.cos(a), 200 + 165 * np.sin(a))
        left = (200 + 98 * np.cos(a - 0.24), 200 + 98 * np.sin(a - 0.24))
        right = (200 + 98 * np.cos(a + 0.24), 200 + 98 * np.sin(a + 0.24))
        hand.lines(left, tip, right, left)
    hand.dot(172, 185, 6)
    hand.dot(228, 185, 6)
    hand.curve((160, 220), (200, 262), (240, 220))


DRAWINGS: dict[str, Callable[[Hand], None]] = {
    each.__name__: each for each in (house, cat, fish, tree, car, face, flower, cup, boat, sun)
}


def draw(name: str) -> Image.Image:
    """One of `DRAWINGS`, black on white, mode L."""
    hand = Hand(seed=sorted(DRAWINGS).index(name))
    DRAWINGS[name](hand)
    return hand.sheet.resize((SIDE, SIDE), Image.Resampling.BOX)


def photograph(drawing: Image.Image, seed: int) -> Image.Image:
    """The drawing in pencil on paper, as a phone's photo: tilted, unevenly lit, with grain."""
    rng = np.random.default_rng(seed)
    side = SIDE * 2
    lines = np.asarray(drawing.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255
    grain = cv2.GaussianBlur(rng.random((side, side), np.float32), (0, 0), 1.0)
    pencil = 1 - (1 - lines) * (0.25 + 1.1 * grain)  # graphite catches on the paper's grain
    corners = np.float32([[0, 0], [side, 0], [side, side], [0, side]])
    seen = corners + rng.uniform(-22, 22, (4, 2)).astype(np.float32)
    turn = cv2.getPerspectiveTransform(corners, seen)
    pencil = cv2.warpPerspective(pencil, turn, (side, side), borderValue=1.0)
    y, x = np.mgrid[0:side, 0:side] / side
    light = 0.82 - 0.35 * ((x - 0.2) ** 2 + (y - 0.1) ** 2)
    paper = light + 0.02 * (grain - 0.5)
    shot = paper[..., None] * pencil[..., None] * np.array([1.0, 0.97, 0.9])
    shot = cv2.GaussianBlur(shot, (0, 0), 0.9) + rng.normal(0, 0.012, shot.shape)
    return Image.fromarray((shot.clip(0, 1) * 255).astype(np.uint8))


if __name__ == "__main__":
    folder = Path(__file__).with_name("drawings")
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(DRAWINGS):
        if name in PENCIL:
            photograph(draw(name), seed).save(folder / f"{name}.jpg", quality=85)
        else:
            draw(name).quantize(8).save(folder / f"{name}.png", optimize=True)
