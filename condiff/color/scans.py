"""Scans: film frames and borders of prints; levels that are faded or dark; negatives."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from condiff.arrays import Pixels, Plane
from condiff.color.lab import lightness
from condiff.photos.photo import to_8_bits

Line = tuple[float, float]  # where a border ends: offset + slope * place, in pixels from its side

SIDES = ("top", "bottom", "left", "right")
OPPOSITE = (("top", "bottom"), ("left", "right"))
SEEN = 384  # short side at which borders are looked for
BLACK, WHITE = 32.0, 75.0  # L* of a border: at most, or at least
UNEVEN = 4.0  # the largest deviation of L* within a border
# A border of another grey has to have one level on all four sides, to within SAME of L*, and to be
# as even and straight as this, because walls, skies and backdrops are grey as well.
SAME, EVEN_GREY, STRAIGHT_GREY = 3.0, 2.0, 0.6
TOLERANCE = 5.0  # L*; what differs more from an even border is not part of it
STEP = 8.0  # L*; how sharply a border ends, within 3 pixels
SLOPES = np.linspace(-0.05, 0.05, 41)  # a scan is turned by 2.9 degrees at most
DEEPEST = 0.42  # of a side; wider ones are not borders
# The least share of a side that the picture takes, where fewer than four borders are found, and
# where four are. A door in a white wall has three.
LEAST_SHARE = (0.45, 0.25)
# Levels are normalised where the lightest L* is below DARK, or the range of L* below FLAT.
DARK, FLAT = 55.0, 50.0
NEGATIVE = "it looks like a colour negative; --invert makes a positive of it"
BLANK = 4.0  # a smaller range of L* is not a picture
USUAL = (3.0, 93.0)  # darkest and lightest L* that levels are brought to
LAYERS = 3  # borders within borders


@dataclass(frozen=True)
class Frame:
    """A picture within its border: where the border ends on each side, for a scan of (H,W).

    A side's line gives the border's width at a place that is counted along the side, from the left
    or from the top.
    """

    size: tuple[int, int]
    lines: dict[str, Line]

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the smallest upright rectangle that contains the picture."""
        height, width = self.size
        top, bottom, left, right = (self._least(side) for side in SIDES)
        return slice(top, height - bottom), slice(left, width - right)

    def _length(self, side: str) -> int:
        return self.size[1] if side in OPPOSITE[0] else self.size[0]

    def _is_straight(self, side: str) -> bool:
        return abs(self.lines.get(side, (0, 0))[1]) * self._length(side) < 1.5

    def _least(self, side: str) -> int:
        offset, slope = self.lines.get(side, (0.0, 0.0))
        if self._is_straight(side):
            return max(0, int(np.ceil(offset + slope * self._length(side) / 2 - 0.25)))
        return max(0, int(np.floor(min(offset, offset + slope * self._length(side)))))

    def cover(self) -> NDArray[np.uint8] | None:
        """(h,w) of the box: 255 in the picture, 0 in the part of a tilted border inside the box.

        None where the box contains only the picture.
        """
        if all(self._is_straight(side) for side in SIDES):
            return None
        height, width = self.size
        rows, columns = self.box
        y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5
        x = np.arange(columns.start, columns.stop, dtype=np.float32)[None] + 0.5
        inside = np.full((len(y), x.shape[1]), 255, np.uint8)
        for side, (offset, slope) in self.lines.items():
            if self._is_straight(side):
                continue
            along, depth = (x, y) if side in OPPOSITE[0] else (y, x)
            if side in ("bottom", "right"):
                depth = (height if side == "bottom" else width) - depth
            inside[depth < offset + slope * along] = 0
        return inside


def find_frame(pixels: Pixels) -> Frame | None:
    """The even border of a photo (H,W,3), or None where there is none.

    A black or white border needs two opposite sides or three; fewer are enough where it is as black
    as possible. A border of another grey needs all four sides.
    """
    height, width = pixels.shape[:2]
    scale = max(1.0, min(height, width) / SEEN)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale > 1 else pixels
    L = lightness(np.ascontiguousarray(small))
    if min(L.shape) < 16:
        return None
    found: dict[str, Line] = {}
    inner = Frame((L.shape[0], L.shape[1]), {})
    for layer in range(LAYERS):
        rows, columns = inner.box
        if layer:  # without the edge of the previous border
            rows, columns = (slice(s.start + 1, s.stop - 1) for s in (rows, columns))
        cut = L[rows, columns]
        if min(cut.shape) < 16:
            break
        starts = {
            "top": rows.start,
            "bottom": L.shape[0] - rows.stop,
            "left": columns.start,
            "right": L.shape[1] - columns.stop,
        }
        lines = _find_lines(cut, alone=layer == 0)
        if not lines:
            break
        for side, (offset, slope) in lines.items():
            before = starts["left"] if side in OPPOSITE[0] else starts["top"]
            found[side] = (starts[side] + offset - slope * before, slope)
        inner = Frame(inner.size, dict(found))
    if not found:
        return None
    lines = {side: _refine(pixels, side, line, scale) for side, line in found.items()}
    frame = Frame((height, width), lines)
    rows, columns = frame.box
    share = min((rows.stop - rows.start) / height, (columns.stop - columns.start) / width)
    return frame if share >= LEAST_SHARE[len(lines) == 4] else None


def fill_border(L: Plane, frame: Frame) -> Plane:
    """L* (h,w) of a frame's box, at any size, without the part of the border in it.

    That part is filled from the picture's edge.
    """
    cover = frame.cover()
    if cover is None:
        return L
    inside = cv2.resize(cover, L.shape[::-1], interpolation=cv2.INTER_AREA)
    hole = cv2.dilate((inside < 255).astype(np.uint8), np.ones((3, 3), np.uint8))
    return cv2.inpaint(np.ascontiguousarray(L), hole, 3, cv2.INPAINT_TELEA)


def normalise_levels(L: Plane) -> Plane:
    """L* (h,w) of a photo that is clearly dark or faded, with the range of a usual one.

    Other photos are returned as they are. The darkest and the lightest percent do not count.
    """
    low, high = np.percentile(L, [1, 99])
    if high - low < BLANK or (high >= DARK and high - low >= FLAT):
        return L
    darkest, lightest = min(low, USUAL[0]), max(high, USUAL[1])
    gain = (lightest - darkest) / (high - low)
    return ((L - low) * gain + darkest).clip(0, 100).astype(np.float32)


def is_colour_negative(pixels: Pixels) -> bool:
    """Whether (H,W,3) looks like the negative of a colour film: orange where it is lightest.

    A sunset has places with nearly no blue; a sepia print is nearly white where it is lightest.
    Negatives without colour look too much like some photos to be recognised.
    """
    step = max(1, min(pixels.shape[:2]) // SEEN)
    some = to_8_bits(np.ascontiguousarray(pixels[::step, ::step]))
    small = cv2.resize(some, (96, 96), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    red, green, blue = small.T.astype(np.float32)
    luma = 0.21 * red + 0.72 * green + 0.07 * blue
    lightest = luma >= np.percentile(luma, 95)
    r, g, b = (float(channel[lightest].mean()) for channel in (red, green, blue))
    ordered = float(((red >= green) & (green >= blue)).mean())
    base = r > 90 and 0.45 * r < g < 0.85 * r and b < 0.6 * r
    return base and ordered > 0.93 and float(np.percentile(blue, 2)) > 10


def _from_side(L: Plane, side: str) -> Plane:
    """L* (H,W) turned so that row 0 is the outermost of that side, places along it in order."""
    if side in OPPOSITE[1]:
        L = L.T
    return L[::-1] if side in ("bottom", "right") else L


@dataclass(frozen=True)
class _Side:
    line: Line
    tone: str  # black, white or grey
    level: float  # L*
    pure: bool  # black and straight enough to need no other side


def _find_lines(L: Plane, *, alone: bool) -> dict[str, Line]:
    """The ends of the outermost border of L* (H,W); `alone`: also of one that has no opposite."""
    smooth = cv2.medianBlur(np.ascontiguousarray(L, np.float32), 3)
    sides: dict[str, _Side] = {}
    for _ in range(2):  # the second time without the corners, which are part of other borders
        lines = {side: found.line for side, found in sides.items()}
        rows, columns = Frame((L.shape[0], L.shape[1]), lines).box
        found = {}
        for side in SIDES:
            places = columns if side in OPPOSITE[0] else rows
            border = _find_side(_from_side(smooth, side), places, first=not sides)
            if border is not None:
                found[side] = border
        sides = found
    kept: dict[str, Line] = {}
    for tone in ("black", "white", "grey"):
        same = {side: one for side, one in sides.items() if one.tone == tone}
        framed = len(same) >= 3 or any(set(pair) <= set(same) for pair in OPPOSITE)
        if tone == "grey" and framed:
            levels = [one.level for one in same.values()]
            framed = len(same) == 4 and max(levels) - min(levels) <= SAME
        for side, one in same.items():
            if framed or (alone and one.pure):
                kept[side] = one.line
    return kept


def _find_side(L: Plane, places: slice, *, first: bool) -> _Side | None:
    """The border at row 0 of L* (depth, length), judged on `places` of its length."""
    deepest = int(DEEPEST * len(L))
    edge = L[:2, places]
    level = float(np.median(edge))
    noise = 1.48 * float(np.median(np.abs(edge - level)))
    tone = "black" if level <= BLACK else "white" if level >= WHITE else "grey"
    if noise > (EVEN_GREY if tone == "grey" else UNEVEN):
        return None
    wide = 2 * (edge.shape[1] // 8) + 1
    local = cv2.blur(edge.mean(axis=0, keepdims=True), (wide, 1), borderType=cv2.BORDER_REPLICATE)
    local = local.clip(level - TOLERANCE, level + TOLERANCE)
    off = np.abs(L[: deepest + 3, places] - local) > max(TOLERANCE, 3.5 * noise)
    off = off[:-1] & off[1:]  # two in a row, so that dust does not count
    ends = np.where(off.any(axis=0), off.argmax(axis=0), len(off))
    ending = ends < deepest
    at = np.arange(len(ends), dtype=np.float32) + 0.5
    if ending.sum() < 0.4 * len(ends):
        return None
    share, width, slope = _fit(at[ending], ends[ending].astype(np.float32))
    gap = ends - (width + slope * at)
    counted = ending.sum() if first else len(ends)
    on = np.abs(gap) <= 1.5
    early = float((gap < -1.5).mean())
    straight = on.sum() / counted
    if width + slope * len(ends) / 2 < 1.5 or early > 0.1:
        return None
    if straight < {"black": 0.5, "white": 0.65, "grey": STRAIGHT_GREY}[tone]:
        return None
    columns = np.flatnonzero(on)
    depth = ends[columns]
    beyond = L[np.minimum(depth + 2, len(L) - 1), columns + places.start]
    before = L[np.maximum(depth - 2, 0), columns + places.start]
    if (np.abs(beyond - before) > STEP).mean() < 0.6:
        return None
    pure = level < 4 and noise < 1 and early < 0.01 and straight > 0.95 and slope == 0
    return _Side((width - slope * places.start, slope), tone, level, pure)


def _fit(at: Plane, ends: Plane) -> tuple[float, float, float]:
    """The line that most ends are near: the share of them, its value at 0 and its slope."""
    best = (0.0, 0.0, 0.0)
    for slope in sorted(SLOPES, key=abs):
        rest = np.sort(ends - slope * at)
        counts = np.searchsorted(rest, rest + 2, side="right") - np.arange(len(rest))
        first = int(counts.argmax())
        share = counts[first] / len(rest)
        if share > best[0] + 0.02:
            best = share, float(rest[first : first + counts[first]].mean()), float(slope)
    return best


def _refine(pixels: Pixels, side: str, line: Line, scale: float) -> Line:
    """A line found at 1/scale of the size, in pixels of the photo."""
    offset, slope = line[0] * scale, line[1]
    turned = np.swapaxes(pixels, 0, 1) if side in OPPOSITE[1] else pixels
    turned = turned[::-1] if side in ("bottom", "right") else turned
    depth, length = turned.shape[:2]
    places = np.unique(np.linspace(0, length - 1, 257).astype(int))
    reach = int(np.ceil(3 * scale)) + 1
    starts = np.round(offset + slope * (places + 0.5)).astype(int) - reach
    index = (starts[:, None] + np.arange(2 * reach)).clip(0, depth - 1)
    band = lightness(np.ascontiguousarray(turned[index, places[:, None]]))
    band = cv2.blur(band, (3, 1)) if scale > 2 else band
    level = np.median(band[:, : max(1, reach // 3)])
    far = np.abs(band - level)
    most = far.max(axis=1)
    sure = most > STEP
    if sure.sum() < 8:
        return offset, slope
    ends = starts + (far > most[:, None] / 2).argmax(axis=1)
    _, width, lean = _fit(places[sure] + np.float32(0.5), ends[sure].astype(np.float32))
    return width, lean
