"""Lines and colours drawn from a photo by plain image processing: (H,W,3) uint8 RGB -> uint8."""

import cv2
import numpy as np

from condiff.resize import find_scale, resize

PEN = 5.0  # width of an outline's strokes, in pixels of the picture that it is found in
LONGEST = 4  # largest long side of an examined picture, as a multiple of its `resolution`
NEIGHBOURS = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)  # the bits of a code


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """Luma."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def draw_canny(pixels: np.ndarray, *, low: float, high: float, blur: float) -> np.ndarray:
    """OpenCV's Canny on the three colours, as ControlNet runs it; `blur` blurs the photo first."""
    smooth = cv2.GaussianBlur(pixels, (0, 0), blur) if blur > 0 else pixels
    return cv2.Canny(smooth, low, high)


def draw_sketch(pixels: np.ndarray, *, sigma: float, threshold: float, slope: float) -> np.ndarray:
    """XDoG (Winnemöller et al., 2012) with equal weights: a dark line on the dark side of edges.

    Equal weights leave flat areas white, however dark: lines only, no filled shadows.
    """
    gray = to_gray(pixels).astype(np.float32) / 255
    difference = cv2.GaussianBlur(gray, (0, 0), sigma) - cv2.GaussianBlur(gray, (0, 0), 1.6 * sigma)
    tone = 1 + np.tanh(np.minimum(0, slope * (difference + threshold)))
    return (255 * tone).round().astype(np.uint8)


def draw_pencil(pixels: np.ndarray, *, sigma: float, burn: float) -> np.ndarray:
    """Dodge and burn: the photo divided by its blur, the shade then deepened."""
    gray = to_gray(pixels).astype(np.float32) + 8  # 8: black in a black place is not a line
    dodged = np.minimum(1, gray / cv2.GaussianBlur(gray, (0, 0), sigma))
    return (255 * np.maximum(0, 1 - burn * (1 - dodged))).round().astype(np.uint8)


def draw_lineart(pixels: np.ndarray, *, sigma: float, threshold: float) -> np.ndarray:
    """What is darker than its surroundings: controlnet-aux's LineartStandard, at the photo's size.

    Its contrast is set by the median of what exceeds the threshold.
    """
    photo = pixels.astype(np.float32)
    depth = (cv2.GaussianBlur(photo, (0, 0), sigma) - photo).min(axis=2).clip(0, 255)
    strong = depth[depth > threshold]
    depth *= 127 / max(16, float(np.median(strong)) if strong.size else 16)
    return depth.clip(0, 255).astype(np.uint8)


def draw_scribble(soft: np.ndarray, *, sigma: float, threshold: float) -> np.ndarray:
    """Soft edges (H,W), thinned to ridges, blurred, cut: a felt pen's lines, as ControlNet's."""
    smooth = cv2.GaussianBlur(soft.astype(np.float32), (0, 0), sigma)
    ridge = np.zeros(soft.shape, bool)
    for y, x in ((0, 1), (1, 0), (0, 0), (0, 2)):  # the neighbours along one of four directions
        kernel = np.zeros((3, 3), np.uint8)
        kernel[y, x] = kernel[2 - y, 2 - x] = kernel[1, 1] = 1
        ridge |= cv2.dilate(smooth, kernel) == smooth
    ridges = np.where(ridge & (smooth > threshold), np.float32(255), np.float32(0))
    return (cv2.GaussianBlur(ridges, (0, 0), sigma) > 4).astype(np.uint8) * 255


def make_blur(pixels: np.ndarray, *, sigma: float) -> np.ndarray:
    """A soft focus; sigma is a part of the short side."""
    height, width = pixels.shape[:2]
    wide = max(0.1, sigma * min(height, width))
    # A wide blur of a large photo takes half a minute; of the shrunk photo it looks the same.
    scale = min(1, 6 / wide)
    small = resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    # The other reflection is about a pixel's centre, which is another place in the shrunk one.
    soft = cv2.GaussianBlur(small, (0, 0), wide * scale, borderType=cv2.BORDER_REFLECT)
    return resize(soft, height, width)


def make_palette(pixels: np.ndarray, *, cells: float) -> np.ndarray:
    """Flat squares of mean colour, about `cells` of them on the short side."""
    height, width = pixels.shape[:2]
    scale = min(1, cells / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def draw_outline(
    pixels: np.ndarray, *, resolution: float, contrast: float, smooth: float
) -> np.ndarray:
    """A clean drawing in dark ink, as in a colouring book: outlines closed, one pen.

    The lines are found in the picture brought to `resolution` on the short side, where they are
    5 pixels wide, and are drawn sharp at the picture's own size.
    """
    height, width = pixels.shape[:2]
    scale = find_scale((height, width), size=resolution, longest=LONGEST)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    large = pixels if scale == 1 else cv2.resize(pixels, size, interpolation=how)
    return draw_strokes(find_outline(large, contrast=contrast, smooth=smooth), height, width)


def find_outline(pixels: np.ndarray, *, contrast: float, smooth: float) -> np.ndarray:
    """(H,W,3) uint8, about 480 pixels high -> (H,W) uint8, 1 on lines one pixel wide, else 0.

    Lines are the middle of dark strokes and the edges between colours that differ by `contrast`
    (CIELAB) or more. A picture with texture everywhere, such as a photo, is smoothed first;
    `smooth` is how much, 0 not at all.
    """
    lab = _to_lab(pixels)
    texture = float(np.clip(10 * _grain(lab[..., 0]) - 0.5, 0, 1)) * smooth
    if passes := round(4 * texture):
        for _ in range(passes):
            pixels = cv2.bilateralFilter(pixels, 9, 25 + 65 * texture, 4)
        lab = _to_lab(pixels)
    ink = _find_ink(lab[..., 0])
    edges, strength = _find_edges(lab, contrast, sigma=1 + 0.8 * min(1, texture))
    edges &= 1 - cv2.dilate(ink, _disc(4))  # a stroke is one line, not the two edges of it
    strokes = thin(ink)
    lines = _merge(strokes | edges)
    lines = _merge(_close_gaps(lines, ball=6 + 3 * texture))
    lines = _prune(lines, round(10 * (1 + texture)))
    # Small pieces stay where they differ much from their surroundings, such as an eye.
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(lines, connectivity=8)
    evidence = np.bincount(pieces.ravel(), np.maximum(strength, 30 * ink).ravel(), count)
    keep = stats[:, cv2.CC_STAT_AREA] >= 14 * (1 + 2 * texture)
    keep &= evidence >= 10 * (1 + 3 * texture) * contrast
    keep[0] = False
    lines = keep[pieces].astype(np.uint8)
    if texture == 0:  # a dot of ink, such as an eye, is not a line: it gets a touch of the pen
        dots = strokes & (1 - _remove_small(strokes, 14))
        lines |= dots & (1 - cv2.dilate(lines, _disc(6)))
    return lines


def draw_strokes(lines: np.ndarray, height: int, width: int) -> np.ndarray:
    """Thin lines (H,W) of 0 and 1 -> (height,width) uint8, drawn by a pen in black on white."""
    if not lines.any():
        return np.full((height, width), 255, np.uint8)
    distance = cv2.distanceTransform(1 - lines, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Blurred, the steps of the lines are gone, and the lines are at 0.35 instead of 0.
    distance = cv2.GaussianBlur(np.minimum(distance, 4 * PEN), (0, 0), 1.2)
    scale = max(1.0, height / len(lines))
    if scale > 1:
        distance = resize(distance, height, width)
    paper = np.clip((distance - 0.35 - PEN / 2) * scale + 0.5, 0, 1)
    return resize((255 * paper).round().astype(np.uint8), height, width)


def thin(shapes: np.ndarray) -> np.ndarray:
    """Shapes (H,W) of 0 and 1 -> their middle lines, one pixel wide (Guo and Hall, 1989)."""
    lines, before = shapes.copy(), -1
    while (left := cv2.countNonZero(lines)) != before:
        before = left
        for removable in _THINNING:
            lines &= 1 - cv2.LUT(_code(lines), removable)
    return lines


def find_ends(strokes: np.ndarray, *, shortest: int) -> np.ndarray:
    """Strokes (H,W) of 0 and 1 -> (H,W) of 0 and 1: where they end, twigs left out.

    A branch of less than `shortest` pixels is a twig.
    """
    lines = _prune(thin(strokes), shortest)
    return lines & cv2.LUT(_code(lines), _LONELY)


def _thinning_tables() -> tuple[np.ndarray, np.ndarray]:
    """Whether a pixel goes in the first and second pass, by the code of its neighbours."""
    codes = np.arange(256)
    n, ne, e, se, s, sw, w, nw = ((codes >> bit) & 1 for bit in range(8))
    crossings = ((1 - n) & (ne | e)) + ((1 - e) & (se | s)) + ((1 - s) & (sw | w))
    crossings += (1 - w) & (nw | n)
    around = np.minimum(
        (nw | n) + (ne | e) + (se | s) + (sw | w), (n | ne) + (e | se) + (s | sw) + (w | nw)
    )
    inner = (crossings == 1) & (around >= 2) & (around <= 3)
    first = inner & (((s | sw | (1 - nw)) & w) == 0)
    second = inner & (((n | ne | (1 - se)) & e) == 0)
    return first.astype(np.uint8), second.astype(np.uint8)


_THINNING = _thinning_tables()
_LONELY = np.array([code.bit_count() <= 1 for code in range(256)], np.uint8)


def _code(lines: np.ndarray) -> np.ndarray:
    """Each pixel's eight neighbours as bits, from the upper one clockwise."""
    return cv2.filter2D(lines, cv2.CV_8U, NEIGHBOURS, borderType=cv2.BORDER_CONSTANT)


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _to_lab(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _grain(lightness: np.ndarray) -> float:
    """How far L* is from its surroundings' in the quietest quarter of a picture.

    About 0 for illustrations, flat or shaded, and above 0.12 for nineteen photos of twenty.
    """
    return float(np.percentile(np.abs(lightness - cv2.GaussianBlur(lightness, (0, 0), 4)), 25))


def _remove_small(shapes: np.ndarray, area: int) -> np.ndarray:
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(shapes, connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False
    return keep[pieces].astype(np.uint8)


def _find_ink(lightness: np.ndarray) -> np.ndarray:
    """Strokes and dots that are dark, and darker than their surroundings.

    They are up to 18 pixels wide, and nearly black ones up to 30, unless the dark area is this
    narrow only in places.
    """
    ink = np.zeros(lightness.shape, np.uint8)
    for radius, darkest, least in ((9, 42, 0.0), (15, 25, 0.75)):
        depth = cv2.morphologyEx(lightness, cv2.MORPH_CLOSE, _disc(radius)) - lightness
        dark = (lightness < darkest).astype(np.uint8)
        narrow = dark & (depth > 18)
        count, shapes = cv2.connectedComponents(dark, connectivity=8)
        areas = np.maximum(1, np.bincount(shapes.ravel(), minlength=count))
        share = np.bincount(shapes.ravel(), narrow.ravel(), count) / areas
        ink |= narrow & (share >= least)[shapes]
    return _remove_small(ink, 10)


def _find_edges(lab: np.ndarray, contrast: float, *, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Canny's edges (0 and 1) on the structure tensor of three channels; the contrast there."""
    soft = cv2.GaussianBlur(lab, (0, 0), sigma)
    dx, dy = (cv2.Scharr(soft, cv2.CV_32F, x, 1 - x) / 16 for x in (1, 0))
    sum_up = np.ones((1, 3), np.float32)  # over the channels; NumPy's sum takes five times as long
    pairs = ((dx, dx), (dx, dy), (dy, dy))
    xx, xy, yy = (cv2.transform(one * other, sum_up) for one, other in pairs)
    slope = np.sqrt((xx + yy) / 2 + np.hypot((xx - yy) / 2, xy))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    gradients = [(64 * slope * turn(angle)).astype(np.int16) for turn in (np.cos, np.sin)]
    step = 0.35  # of a sharp edge's contrast between a pixel and the next, after the blur
    high = 64 * step * contrast
    edges = cv2.Canny(gradients[0], gradients[1], high / 2, high, L2gradient=True)
    return (edges > 0).astype(np.uint8), cv2.dilate(slope, np.ones((5, 5))) / step


def _merge(lines: np.ndarray) -> np.ndarray:
    """Thin lines; those that nearly touch are merged."""
    thick = cv2.morphologyEx(cv2.dilate(lines, _disc(2)), cv2.MORPH_CLOSE, _disc(1))
    return thin(1 - _remove_small(1 - thick, 40))


def _close_gaps(lines: np.ndarray, ball: float) -> np.ndarray:
    """Close gaps in outlines through which a ball of this radius does not pass.

    The areas are where the ball can be; they grow until they meet. Where two meet is a border. It
    is drawn completely if three fifths of it are lines already.
    """
    distance = cv2.distanceTransform(1 - lines, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    count, labels = cv2.connectedComponents((distance > ball).astype(np.uint8), connectivity=4)
    areas = labels.astype(np.float32)  # whole numbers below 2^24; cv2.dilate takes no int32
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for ground in (lines == 0, np.ones_like(lines, bool)):
        for _ in range(round(2.5 * ball)):
            np.copyto(areas, cv2.dilate(areas, cross), where=(areas == 0) & ground)
    labels = areas.astype(np.int64)
    places, pairs = [], []
    for one, other in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        y, x = np.nonzero((one != other) & (one > 0) & (other > 0))
        places.append((y, x))
        pairs.append(np.minimum(one, other)[y, x] * count + np.maximum(one, other)[y, x])
    y, x = np.concatenate(places, axis=1)
    _, border = np.unique(np.concatenate(pairs), return_inverse=True)
    drawn = distance[y, x] <= 1
    share = np.bincount(border, drawn) / np.maximum(1, np.bincount(border))
    gap = (share[border] >= 0.6) & ~drawn
    closed = lines.copy()
    closed[y[gap], x[gap]] = 1
    return closed


def _prune(lines: np.ndarray, length: int) -> np.ndarray:
    """Remove the twigs of lines that are shorter than `length`."""
    core = lines.copy()
    for _ in range(length):
        core &= 1 - (core & cv2.LUT(_code(core), _LONELY))
    ends = core & cv2.LUT(_code(core), _LONELY)
    for _ in range(length):  # the rest of a longer line gets its end back
        ends |= cv2.dilate(ends, np.ones((3, 3), np.uint8)) & lines & (1 - core)
    return core | ends
