"""sRGB to Lab and back; chroma upsampled along edges and joined to a photo's own lightness.

Lab is float32 with L* in [0,100] and a*, b* about +-110, under D65, as in skimage.color.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


from condiff.arrays import Pixels, Plane
from condiff.photos.icc import decode_srgb, encode_srgb
from condiff.photos.photo import strips
from condiff.threads import count_threads, map_in_threads

XYZ_OF_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
RGB_OF_XYZ = np.linalg.inv(XYZ_OF_RGB)
WHITE = XYZ_OF_RGB.sum(axis=1)
LUMINANCE = XYZ_OF_RGB[1].astype(np.float32)  # weights of linear light

# How far (in linear light) a colour may leave sRGB and still count as inside: a third of an 8-bit
# level at either end of the transfer curve, so that rounding hides it.
ABOVE, BELOW = 3e-3, 1e-4
# Towards yellow the gamut is hollow: with growing chroma a colour first leaves it, by up to 3 % of
# red, and then comes back. This much red counts as inside there, so that full yellow is reached.
HOLLOW_LIGHTNESS, HOLLOW_RED = (88.0, 95.0, 97.5, 99.0), (0.0, 0.03, 0.03, 0.0)
# Where the gamut is hollow. Elsewhere a colour is outside if its chroma is more than that of the
# table times DOUBT[0] plus DOUBT[1].
YELLOW, YELLOW_LIGHTNESS, DOUBT = (1.5, 2.0), 85.0, (1.08, 0.5)

TABLE_SIZE = (256, 512)  # lightness x hue; errors of L* up to 0.42; 0.48 at half, 0.40 at twice
TILE = 1 << 14  # cv2.remap takes no side beyond 2^15
VECTOR = 64  # a multiple of the pixels that cv2 converts at once, on any processor
STRIP_PIXELS = 1 << 18  # a strip's planes stay in the processor's cache
SMALL_PIXELS = 1 << 14  # planes of at most this many pixels reuse memory

EDGE_VARIANCE = 4.0  # in L*^2: contrast below 2 L* counts as texture, not as a colour edge
FIT_SIZE = 512  # the fit is upsampled by cubics up to this side, and linearly beyond


@cache
def _linear_light(levels: int) -> NDArray[np.float32]:
    """The 256 or 65536 levels of sRGB as linear light in [0,1]."""
    return decode_srgb(np.arange(levels) / (levels - 1)).astype(np.float32)


def build_tables() -> None:
    """Build the tables of this module and OpenCV's for Lab, so that the first photo is as fast."""
    _lightness_of_grey(1 << 8)
    _max_chroma()


def to_linear_light(pixels: Pixels) -> Plane:
    """(H,W,3) uint8 or uint16 sRGB -> (H,W,3) linear light in [0,1]."""
    if pixels.dtype == np.uint16:
        return _linear_light(1 << 16).take(pixels, mode="clip")
    return cv2.LUT(pixels, _linear_light(1 << 8))


def rgb_to_lab(pixels: Pixels) -> Plane:
    """(H,W,3) uint8 or uint16 sRGB -> (H,W,3) Lab."""
    # cv2 interpolates COLOR_RGB2Lab in a coarse cube (0.5 off); from linear light it computes.
    return cv2.cvtColor(to_linear_light(pixels), cv2.COLOR_LRGB2Lab)


def lightness(pixels: Pixels) -> Plane:
    """(H,W,3) uint8 or uint16 sRGB -> (H,W) L* in [0,100]; faster where it is grey."""
    split = pixels.shape[1] // VECTOR * VECTOR - VECTOR
    grey = _grey_channel(pixels[:, :split]) if split >= VECTOR else None
    if grey is None:
        return cv2.extractChannel(rgb_to_lab(pixels), 0)
    L = np.empty(pixels.shape[:2], np.float32)
    if pixels.dtype == np.uint16:
        _lightness_of_grey(1 << 16).take(grey, out=L[:, :split], mode="clip")
    else:
        L[:, :split] = cv2.LUT(grey, _lightness_of_grey(1 << 8))
    # cv2 rounds the rest of a row after its last whole vector differently: use cv2 itself there.
    L[:, split:] = cv2.extractChannel(rgb_to_lab(pixels[:, split:]), 0)
    return L


def _grey_channel(pixels: Pixels) -> NDArray[Any] | None:
    """(H,W,3) -> (H,W) if R = G = B everywhere, else None."""
    red, green, blue = cv2.split(pixels[:1])
    if not (np.array_equal(red, green) and np.array_equal(green, blue)):
        return None
    red, green, blue = cv2.split(pixels)
    return red if np.array_equal(red, green) and np.array_equal(green, blue) else None


@cache
def _lightness_of_grey(levels: int) -> Plane:
    """L* of the 256 or 65536 levels of grey."""
    grey = np.arange(levels).astype(np.uint8 if levels == 1 << 8 else np.uint16)
    return cv2.extractChannel(rgb_to_lab(np.dstack([grey, grey, grey])), 0).ravel()


def rgb_to_lab_batch(rgb: "Tensor") -> "Tensor":
    """(B,3,H,W) sRGB in [0,1] -> Lab on its device, as rgb_to_lab to within 0.02."""
    import torch

    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = torch.as_tensor(XYZ_OF_RGB / WHITE[:, None], dtype=rgb.dtype, device=rgb.device)
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear)
    root = xyz.clamp(min=1e-6) ** (1 / 3)
    x, y, z = torch.where(xyz > (6 / 29) ** 3, root, xyz * (841 / 108) + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lab_to_rgb_batch(lab: "Tensor") -> "Tensor":
    """Lab (B,3,H,W) -> sRGB in [0,1] on its device, clipped there; with gradients."""
    import torch

    y = (lab[:, 0] + 16) / 116
    f = torch.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], dim=1)
    xyz = torch.where(f > 6 / 29, f**3, (f - 4 / 29) * (108 / 841))
    matrix = torch.as_tensor(RGB_OF_XYZ * WHITE, dtype=lab.dtype, device=lab.device)
    linear = torch.einsum("ij,bjhw->bihw", matrix, xyz)
    curved = 1.055 * linear.clamp(min=1e-4) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curved).clamp(0, 1)


def lab_to_rgb(lab: Plane) -> Pixels:
    """(H,W,3) Lab -> (H,W,3) uint8 sRGB; what is outside sRGB is clipped."""
    return cv2.convertScaleAbs(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB), alpha=255)


def _is_displayable(L: Plane, a: Plane, b: Plane) -> NDArray[np.bool_]:
    """Whether each Lab colour is in sRGB, to within the tolerances above: (n,…) planes."""
    L, a, b = np.broadcast_arrays(L, a, b)
    rows = max(1, SMALL_PIXELS // max(1, a[:1].size))
    parts = (slice(top, top + rows) for top in range(0, max(1, len(a)), rows))
    return np.concatenate([_is_inside(L[part], a[part], b[part]) for part in parts])


def _is_inside(L: Plane, a: Plane, b: Plane) -> NDArray[np.bool_]:
    f_y = (L + 16) / 116
    f = np.stack(np.broadcast_arrays(f_y + a / 500, f_y, f_y - b / 200))
    xyz = np.where(f > 6 / 29, f * f * f, (f - 4 / 29) * np.float32(108 / 841))
    red, green, blue = np.tensordot((RGB_OF_XYZ * WHITE).astype(np.float32), xyz, 1)
    red_limit = 1 + np.maximum(ABOVE, np.interp(L, HOLLOW_LIGHTNESS, HOLLOW_RED))
    return (
        (np.minimum(np.minimum(red, green), blue) >= -BELOW)
        & (np.maximum(green, blue) <= 1 + ABOVE)
        & (red <= red_limit.astype(np.float32))
    )


@cache
def _max_chroma() -> Plane:
    """The largest chroma of sRGB over (L* 0..100, hue 0..2 pi), both ends included."""
    rows, columns = TABLE_SIZE
    L = np.linspace(0, 100, rows, dtype=np.float32)[:, None]
    hue = np.linspace(0, 2 * np.pi, columns, dtype=np.float32)[None]
    toward_a, toward_b = np.cos(hue), np.sin(hue)
    chroma = np.zeros((rows, columns), np.float32)
    for step in 68 * 0.5 ** np.arange(13, dtype=np.float32):  # sRGB ends before chroma 136
        farther = chroma + step
        inside = _is_displayable(L, farther * toward_a, farther * toward_b)
        chroma = np.where(inside, farther, chroma)
    return chroma


def _look_up_max_chroma(L: Plane, hue: Plane) -> Plane:
    """(H,W) L* and hue in [0,2 pi] -> (H,W) the largest chroma that sRGB has there."""
    table = _max_chroma()
    x = hue * np.float32((table.shape[1] - 1) / (2 * np.pi))
    y = L * np.float32((table.shape[0] - 1) / 100)
    tiles = [
        [
            cv2.remap(table, x[i : i + TILE, j : j + TILE], y[i : i + TILE, j : j + TILE],
                      cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for j in range(0, L.shape[1], TILE)
        ]
        for i in range(0, L.shape[0], TILE)
    ]  # fmt: skip
    return tiles[0][0] if len(tiles) == len(tiles[0]) == 1 else np.block(tiles)


def reduce_chroma(lab: Plane) -> Plane:
    """(H,W,3) Lab -> the same lightness and hue, chroma scaled down to what sRGB can show."""
    return _merge_reduced(*cv2.split(lab))


def _merge_reduced(L: Plane, a: Plane, b: Plane) -> Plane:
    """Planes (H,W) of Lab -> (H,W,3), reduced as by `reduce_chroma`; a and b are changed."""
    chroma, hue = cv2.cartToPolar(a, b)
    limit = _look_up_max_chroma(L, hue)
    over = chroma > limit
    if over.any():
        # The table is coarse at the gamut's corners (pure yellow): check those colours exactly.
        hollow = (hue > YELLOW[0]) & (hue < YELLOW[1]) & (L > YELLOW_LIGHTNESS)
        near = chroma <= np.float32(DOUBT[0]) * limit + np.float32(DOUBT[1])
        doubtful = np.flatnonzero(over & (hollow | near))
        colours = (np.take(plane, doubtful) for plane in (L, a, b))
        over.ravel()[doubtful] = ~_is_displayable(*colours)
        scale = np.where(over, limit / np.maximum(chroma, 1e-6), np.float32(1))
        a *= scale
        b *= scale
    return cv2.merge([L, a, b])


def _fit_chroma(ab: Plane, guide: Plane) -> Plane:
    """(h,w,2) ab, L* of the same photo -> (rows, 8, columns) planes: slope, offset, least, most.

    Around each cell of ab, chroma is slope * L* + offset, as in a guided filter (He et al., 2010).
    The guide is averaged over the same cells as ab, so that both are equally blurred and the slope
    is that of the sharp edge; the offset keeps every cell's own colour.
    """
    height, width = (min(n, m) for n, m in zip(ab.shape, guide.shape, strict=False))
    ab = cv2.resize(ab, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, 2)
    L = cv2.resize(guide, (width, height), interpolation=cv2.INTER_AREA)[..., None] - 50

    def mean(planes: NDArray) -> NDArray:
        blurred = cv2.blur(planes, (3, 3), borderType=cv2.BORDER_REFLECT)
        return blurred.reshape(height, width, -1)

    variance = mean(L * L) - mean(L) ** 2
    covariance = mean(L * ab) - mean(L) * mean(ab)
    slope = mean(covariance / (variance + EDGE_VARIANCE))
    around = np.ones((3, 3), np.uint8)
    # Where L* leaves the range of its neighbourhood (a glint, a dark line), the fit extrapolates to
    # colours that were never there: it is clipped to the range of the cells around.
    bounds = [cv2.erode(ab, around), cv2.dilate(ab, around)]
    size = (max(width, min(guide.shape[1], FIT_SIZE)), max(height, min(guide.shape[0], FIT_SIZE)))

    def draw(planes: NDArray, interpolation: int) -> NDArray:
        drawn = cv2.resize(planes, size, interpolation=interpolation)
        return drawn.reshape(size[1], size[0], -1)

    slope = draw(slope, cv2.INTER_LINEAR)
    offset = draw(ab, cv2.INTER_CUBIC) - slope * (draw(L, cv2.INTER_CUBIC) + 50)
    fit = np.concatenate([slope, offset, *(draw(p, cv2.INTER_LINEAR) for p in bounds)], axis=2)
    return np.ascontiguousarray(fit.transpose(0, 2, 1), np.float32)


def _apply_fit(fit: Plane, L: Plane, top: int, height: int) -> tuple[Plane, Plane]:
    """Rows (n,W) of L* that begin at row `top` of `height` -> their a and b, (n,W) each."""
    rows, planes, columns = fit.shape
    count, width = L.shape
    source = np.clip((np.arange(top, top + count) + 0.5) * rows / height - 0.5, 0, rows - 1)
    above = np.minimum(source.astype(int), max(rows - 2, 0))
    weight = source - above
    first, last = above[0], min(above[-1] + 2, rows)
    flat = fit[first:last].reshape(-1, columns)
    wide = cv2.resize(flat, (width, len(flat)), interpolation=cv2.INTER_LINEAR)
    wide = wide.reshape(last - first, planes, width)
    ab = np.empty((count, 2, width), np.float32)
    row = np.empty((planes, width), np.float32)  # stays in the processor's nearest cache
    slope, offset, least, most = row.reshape(4, 2, width)
    for n, (k, w) in enumerate(zip(above - first, weight, strict=True)):
        cv2.addWeighted(wide[k], 1 - w, wide[min(k + 1, len(wide) - 1)], w, 0, dst=row)
        np.maximum(least, most, out=most)
        np.multiply(slope, L[n], out=ab[n])
        np.add(ab[n], offset, out=ab[n])
        np.maximum(ab[n], least, out=ab[n])
        np.minimum(ab[n], most, out=ab[n])
    return ab[:, 0], ab[:, 1]


def upsample_chroma(ab: Plane, guide: Plane) -> Plane:
    """(h,w,2) ab, (H,W) L* -> (H,W,2) ab that follows the edges of L* and invents no colour."""
    fit = _fit_chroma(ab, guide)
    parts = strips(*guide.shape, pixels=STRIP_PIXELS)
    return np.concatenate(
        [np.dstack(_apply_fit(fit, guide[s], s.start, len(guide))) for s in parts]
    )


def join_chroma(
    pixels: Pixels,
    ab: Plane,
    *,
    adjust: Callable[[Plane], Plane] | None = None,
    weight: NDArray[np.uint8] | None = None,
) -> Pixels:
    """(H,W,3) sRGB of 8 or 16 bits, (h,w,2) ab of any size -> the same with the L* of `pixels`.

    `adjust` changes a and b of (n,W,3) Lab before they are brought into sRGB. `weight` (H,W) is how
    much of the chroma is kept, from 0, exactly grey, to 255, all.

    |L*_out - L*_in| stays below 0.5 everywhere, most of it the rounding to 8 bits; below 0.05 at
    16 bits. The work goes strip by strip, several at once, with the same result for any number of
    cores; memory beyond the result does not grow with H.
    """
    height, width, _ = pixels.shape
    # Four guide pixels a cell are enough for the cell's mean L*, without all of L* in memory.
    size = (min(width, 4 * ab.shape[1]), min(height, 4 * ab.shape[0]))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    fit = _fit_chroma(ab, lightness(small))
    joined = np.empty_like(pixels)

    def finish(strip: slice) -> None:
        L = lightness(pixels[strip])
        a, b = _apply_fit(fit, L, strip.start, height)
        if adjust:
            L, a, b = cv2.split(adjust(cv2.merge([L, a, b])))
        lab = _merge_reduced(L, a, b)
        if weight is not None:
            kept = weight[strip].astype(np.float32) / 255
            L, a, b = cv2.split(lab)
            lab = cv2.merge([L, a * kept, b * kept])
        joined[strip] = _to_rgb(lab, pixels[strip])
        if weight is not None:
            grey = weight[strip] == 0
            joined[strip][grey] = joined[strip][grey][:, 1:2]

    map_in_threads(finish, strips(height, width, pixels=STRIP_PIXELS // count_threads()))
    return joined


def to_grey(pixels: Pixels) -> Pixels:
    """(H,W,3) sRGB of 8 or 16 bits -> R = G = B of the same L*; what is grey already stays."""
    grey = np.empty_like(pixels)
    for strip in strips(*pixels.shape[:2], pixels=STRIP_PIXELS):
        L = lightness(pixels[strip])
        none = np.zeros_like(L)
        # Channels of chroma 0 may still differ in their last place.
        grey[strip] = _to_rgb(cv2.merge([L, none, none]), pixels[strip])[..., 1:2]
    return grey


def _to_rgb(lab: Plane, pixels: Pixels) -> Pixels:
    """(H,W,3) Lab with the L* of `pixels` -> sRGB of their depth."""
    return _to_deep_rgb(lab, pixels) if pixels.dtype == np.uint16 else lab_to_rgb(lab)


def _to_deep_rgb(lab: Plane, pixels: Pixels) -> Pixels:
    """(H,W,3) Lab -> uint16 sRGB that has the luminance of `pixels`, uint16 too."""
    luminance = cv2.transform(to_linear_light(pixels), LUMINANCE[None]).reshape(pixels.shape[:2])
    light: Plane = cv2.cvtColor(lab, cv2.COLOR_Lab2LRGB)
    light += (luminance - cv2.transform(light, LUMINANCE[None]).reshape(luminance.shape))[..., None]
    channels = cv2.split(light)
    least, most = (c(c(*channels[:2]), channels[2]) for c in (cv2.min, cv2.max))
    outside = (least < 0) | (most > 1)
    light[outside] = _into_gamut(light[outside], luminance[outside])
    return encode_srgb(light)


def _into_gamut(light: Plane, luminance: Plane) -> Plane:
    """Linear light (n,3) near [0,1] -> inside [0,1], at the given luminance (n,).

    Plain clipping would change L* by up to 0.4. Here the channels that have room compensate for
    what is clipped, and the rest is mixed with the grey of that luminance.
    """
    clipped = np.clip(light, 0, 1)
    for _ in range(2):  # a channel that compensates may reach its own limit
        missing = (luminance - clipped @ LUMINANCE)[:, None]
        room = np.where(missing > 0, clipped < 1, clipped > 0) * LUMINANCE
        share = room / np.maximum((room * LUMINANCE).sum(axis=1, keepdims=True), np.float32(1e-6))
        clipped = np.clip(clipped + missing * share, 0, 1)
    toward = clipped - (clipped @ LUMINANCE)[:, None]
    tiny = np.float32(1e-9)
    reach = np.minimum(
        luminance / np.maximum(-toward.min(axis=1), tiny),
        (1 - luminance) / np.maximum(toward.max(axis=1), tiny),
    )
    return luminance[:, None] + toward * np.clip(reach, 0, 1)[:, None]
