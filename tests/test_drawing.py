"""Cleaned drawings, compared with the known lines that the tests drew."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from condiff.conditions.drawing_cleanup import clean_drawing, shrink_ink
from condiff.evaluation.metrics import edge_f1


def draw_house(width=480, height=360, thick=3):
    """Ink (H,W), 255 on paper 0: a house, a sun, a hill, a path."""
    ink = np.zeros((height, width), np.uint8)

    def at(*points):
        return (np.array(points, np.float32) * (width, height) * 8).round().astype(np.int32)

    def stroke(*points, closed=False):
        cv2.polylines(ink, [at(*points)], closed, 255, thick, cv2.LINE_AA, 3)

    stroke((0.3, 0.45), (0.6, 0.45), (0.6, 0.85), (0.3, 0.85), closed=True)
    stroke((0.25, 0.48), (0.45, 0.2), (0.65, 0.48))
    stroke((0.4, 0.85), (0.4, 0.65), (0.48, 0.65), (0.48, 0.85))
    centre, radius = at((0.82, 0.2))[0], round(0.1 * min(width, height) * 8)
    cv2.circle(ink, centre.tolist(), radius, 255, thick, cv2.LINE_AA, 3)
    x = np.linspace(0, 1, 60)
    stroke(*zip(x, 0.85 + 0.08 * np.sin(6 * x), strict=True))
    return ink


def to_rgb(gray):
    return np.repeat(np.asarray(gray, np.uint8)[..., None], 3, axis=2)


LIGHTS = {
    "even": lambda x, y: 0.85 + 0 * x,
    "from the side": lambda x, y: 0.35 + 0.6 * x,
    "from a corner": lambda x, y: 0.95 - 0.3 * x - 0.35 * y,
    "vignette": lambda x, y: 0.95 - 0.9 * ((x - 0.5) ** 2 + (y - 0.5) ** 2),
    "lamp": lambda x, y: 0.3 + 0.65 * np.exp(-3 * ((x - 0.3) ** 2 + (y - 0.2) ** 2)),
    "shadow of a hand": lambda x, y: 0.9 - 0.35 / (1 + np.exp(-40 * (x + 0.4 * y - 0.9))),
    "dusk": lambda x, y: 0.25 - 0.1 * x,
}


def photograph(ink, light, *, strength=0.75, noise=4, seed=0):
    """RGB (H,W,3) of ink on warm, textured paper under a light, with a sensor's noise."""
    rng = np.random.default_rng(seed)
    height, width = ink.shape
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    fibres = cv2.GaussianBlur(rng.standard_normal(ink.shape), (0, 0), 1.2)
    paper = LIGHTS[light](x, y) * (1 + 0.02 * fibres / fibres.std())
    seen = paper * (1 - strength * ink / 255.0)
    warm = 255 * seen[..., None] * (1, 0.95, 0.85)
    return (warm + rng.normal(0, noise, warm.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_lines_on_unevenly_lit_paper_are_found(light, seed):
    truth = draw_house()
    drawing = clean_drawing(photograph(truth, light, seed=seed))
    assert drawing.doubt == ""
    assert edge_f1(drawing.ink, truth) >= 0.9
    assert np.median(drawing.ink) == 0
    assert drawing.ink.max() == 255


@pytest.mark.parametrize(("size", "thick"), [((1500, 2000), 7), ((160, 120), 2), ((900, 300), 3)])
def test_lines_are_found_at_every_size(size, thick):
    truth = draw_house(*size, thick=thick)
    drawing = clean_drawing(photograph(truth, "from a corner"))
    assert drawing.ink.shape == truth.shape
    assert edge_f1(drawing.ink, truth) >= 0.9


def test_faint_pencil_is_found():
    truth = draw_house()
    drawing = clean_drawing(photograph(truth, "from the side", strength=0.3))
    assert edge_f1(drawing.ink, truth) >= 0.9


def test_chalk_on_a_board_is_inverted():
    truth = draw_house()
    board = 255 - photograph(truth, "from a corner", strength=0.6)
    drawing = clean_drawing((board * (0.8, 1, 0.9)).astype(np.uint8))
    assert any("inverted" in note for note in drawing.done)
    assert edge_f1(drawing.ink, truth) >= 0.9


@pytest.mark.parametrize(
    ("size", "thick"), [((480, 360), 3), ((64, 64), 1), ((33, 200), 1), ((3000, 2200), 9)]
)
def test_clean_drawings_pass_through_unchanged(size, thick):
    ink = draw_house(*size, thick=thick)
    drawing = clean_drawing(to_rgb(255 - ink))
    assert np.array_equal(drawing.ink, ink)
    assert (drawing.done, drawing.doubt) == ((), "")


def test_a_clean_drawing_of_16_bits_is_that_of_8():
    ink = draw_house()
    deep = to_rgb(255 - ink).astype(np.uint16) * 257
    assert np.array_equal(clean_drawing(deep).ink, ink)


def test_a_clean_negative_is_inverted_and_otherwise_unchanged():
    ink = draw_house()
    drawing = clean_drawing(to_rgb(ink))
    assert np.array_equal(drawing.ink, ink)
    assert drawing.done == ("light lines on dark inverted",)


@pytest.mark.parametrize("color", [(220, 30, 30), (255, 220, 0), (0, 90, 255), (120, 200, 120)])
def test_coloured_pens_are_ink(color):
    ink = draw_house()
    share = ink[..., None] / 255
    drawing = clean_drawing((255 + share * (np.array(color) - 255.0)).round().astype(np.uint8))
    assert edge_f1(drawing.ink, ink) >= 0.99


@pytest.mark.parametrize("tone", [0, 90, 255])
def test_strokes_on_nothing_are_ink_whatever_their_tone(tone):
    """Black, grey and white strokes, their shape in the alpha channel alone."""
    ink = draw_house()
    drawing = clean_drawing(np.full((*ink.shape, 3), tone, np.uint8), ink)
    assert edge_f1(drawing.ink, ink) >= 0.99
    assert drawing.ink.max() >= 160
    assert len(drawing.done) == 1


def test_a_sheet_cut_out_lies_on_white():
    ink = draw_house()
    alpha = np.zeros_like(ink)
    alpha[20:-20, 30:-30] = 255
    drawing = clean_drawing(to_rgb(255 - ink), alpha)
    assert np.array_equal(drawing.ink[20:-20, 30:-30], ink[20:-20, 30:-30])
    assert not drawing.ink[alpha == 0].any()


def test_a_silhouette_is_no_photo():
    horse = np.where(data.horse(), 255, 0).astype(np.uint8)
    drawing = clean_drawing(to_rgb(horse))
    assert np.array_equal(drawing.ink, 255 - horse)
    assert drawing.doubt == ""


def test_what_is_opaque_has_no_transparency():
    ink = draw_house()
    assert clean_drawing(to_rgb(255 - ink), np.full_like(ink, 255)).done == ()


@pytest.mark.parametrize("tone", [0, 128, 255])
def test_a_page_of_one_tone_is_blank(tone):
    drawing = clean_drawing(np.full((40, 60, 3), tone, np.uint8))
    assert not drawing.ink.any()
    assert drawing.done == ("the page is blank",)


@pytest.mark.parametrize("light", LIGHTS)
def test_a_photo_of_a_blank_page_is_blank(light):
    drawing = clean_drawing(photograph(np.zeros((360, 480), np.uint8), light))
    assert not drawing.ink.any()
    assert drawing.done[-1] == "the page is blank"
    assert drawing.doubt == ""


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_a_photo_is_doubted_and_the_way_out_told(name):
    photo = getattr(data, name)()
    drawing = clean_drawing(photo)
    assert "condiff condition PHOTO --kind sketch" in drawing.doubt
    assert "crop" in drawing.doubt  # of a sheet on a table
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    assert clean_drawing(to_rgb(gray)).doubt
    as_is = clean_drawing(to_rgb(gray), as_is=True)
    assert np.array_equal(as_is.ink, 255 - gray)
    assert (as_is.done, as_is.doubt) == ((), "")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    deep=st.booleans(),
    transparent=st.booleans(),
)
def test_any_pixels_of_any_size_give_ink_of_that_size(seed, size, deep, transparent):
    rng = np.random.default_rng(seed)
    dtype = np.uint16 if deep else np.uint8
    tones = rng.integers(0, np.iinfo(dtype).max, (*size, 4), dtype, endpoint=True)
    drawing = clean_drawing(tones[..., :3], tones[..., 3] if transparent else None)
    assert drawing.ink.shape == size
    assert drawing.ink.dtype == np.uint8


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (7, 1000)])
def test_the_smallest_and_the_oddest(size):
    for tone in (0, 255):
        sheet = np.full((*size, 3), 255 - tone, np.uint8)
        sheet[:, size[1] // 2] = tone
        assert clean_drawing(sheet).ink.shape == size


@pytest.mark.parametrize("scale", [1, 2, 5, 9, 20])
def test_thin_lines_survive_shrinking(scale):
    ink = np.zeros((64 * scale, 64 * scale), np.uint8)
    ink[20 * scale + scale // 2] = 255
    ink[:, 40 * scale + scale // 2] = 255
    small = shrink_ink(ink, 64, 64)
    assert small[20, :].min() >= 200
    assert small[:, 40].min() >= 200
    assert (small > 127).mean() < 4 * 2 / 64  # one or two pixels wide
    assert small[:18].max(initial=0, where=np.arange(64) < 37) == 0


def test_broad_strokes_keep_their_breadth():
    ink = np.zeros((600, 600), np.uint8)
    ink[200:300] = 255
    assert np.array_equal(shrink_ink(ink, 60, 60)[:, 0] > 127, np.arange(60) // 10 == 2)
    assert shrink_ink(ink, 600, 600) is ink or np.array_equal(shrink_ink(ink, 600, 600), ink)
