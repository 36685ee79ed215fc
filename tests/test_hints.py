"""Colour hints: simulated in training, given by users, kept and spread."""

import heapq
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageColor, ImageDraw

from condiff import Hint, Pipeline
from condiff.color.edits import ColorEdits
from condiff.color.hint_propagation import (
    MAX_COLORS,
    group_colors,
    measure_distance,
    measure_steps,
    propagate_hints,
)
from condiff.color.hints import (
    draw_strokes,
    find_shortfall,
    fit_chroma,
    hints_from_mask,
    parse_hint,
    sample_hint_mask,
    to_cells,
)
from condiff.color.lab import lightness, reduce_chroma, rgb_to_lab
from condiff.config import SamplingConfig
from condiff.errors import ConfigError
from condiff.spaces import SPACES

CHROMA = torch.rand(400, 2, 16, 16, generator=torch.Generator().manual_seed(1)) + 0.5


def draw(**changes):
    settings = {"hint_prob": 0.5, "max_hints": 32} | changes
    mask = sample_hint_mask((400, 16, 16), **settings, generator=torch.Generator().manual_seed(0))
    return hints_from_mask(CHROMA, mask)


def test_hints_are_the_true_chroma_under_the_mask_and_zero_elsewhere():
    hints = draw()
    mask = hints[:, 2:]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(hints[:, :2], CHROMA * mask)


def test_half_the_photos_have_none():
    hinted = draw()[:, 2].amax(dim=(1, 2))
    assert 0.42 < hinted.mean() < 0.58
    assert draw(hint_prob=0.0).abs().max() == 0


def test_a_hint_is_at_least_a_cell_and_at_most_nine_wide():
    cells = draw(hint_prob=1.0, max_hints=1)[:, 2].sum(dim=(1, 2))
    assert cells.min() >= 1
    assert cells.max() <= 81
    assert cells.median() < cells.float().mean()  # a dab is commoner than a blot


def ab_of(color):
    return rgb_to_lab(np.array([[ImageColor.getrgb(color)]], np.uint8))[0, 0, 1:]


def test_a_hint_is_in_pixels_or_in_shares():
    assert parse_hint("300,200,#3c5ac8") == Hint(300, 200, "#3c5ac8")
    assert parse_hint("0.5,1.0,teal") == Hint(0.5, 1.0, "teal")
    assert Hint(0, 0, "red").locate(400, 300) == (0.5, 0.5)
    assert Hint(0.25, 1.0, "red").locate(400, 300) == (100, 300)


@pytest.mark.parametrize("text", ["", "1,2", "a,b,#123456", "1,2,#12345", "0.5,0.5,nocolour"])
def test_what_is_no_hint_is_one_sentence(text):
    with pytest.raises(ConfigError, match="x,y,#rrggbb"):
        parse_hint(text)


@pytest.mark.parametrize("hint", [(400, 0), (0, -1), (1.5, 0.5), (0.5, 1)])
def test_a_hint_outside_the_photo_or_of_two_kinds_is_refused(hint):
    with pytest.raises(ConfigError, match="The hint at"):
        Hint(*hint, "red").locate(400, 300)


def test_a_hint_at_no_number_is_refused():
    with pytest.raises(ConfigError, match="x of a hint is a place in the picture, not nan"):
        Hint(math.nan, 0.5, "red")


def test_strokes_of_any_size_arrive_in_place_with_their_colour():
    for scale in (1, 3, 16):
        picture = Image.new("RGBA", (64 * scale, 32 * scale))
        line = (16 * scale, 0, 16 * scale, 32 * scale)  # one pixel wide
        ImageDraw.Draw(picture).line(line, "#3c5ac8")
        strokes = draw_strokes(picture, photo=(640, 320), size=(32, 64))
        assert strokes.mask[:, 16].all()
        assert strokes.mask.sum() == 32
        assert np.abs(strokes.values[:, 16] - ab_of("#3c5ac8")).max() < 0.1


def test_an_empty_picture_of_strokes_is_no_hint_and_a_wrong_one_a_sentence():
    size = {"photo": (640, 320), "size": (32, 64)}
    assert draw_strokes(Image.new("RGBA", (64, 32)), **size) is None
    assert draw_strokes([], **size) is None
    with pytest.raises(ConfigError, match="64x64 and the photo 640x320"):
        draw_strokes(Image.new("RGBA", (64, 64)), **size)
    with pytest.raises(ConfigError, match="no transparency"):
        draw_strokes(Image.new("RGB", (64, 32)), **size)


def test_strokes_are_where_a_picture_is_at_least_half_opaque():
    alpha = np.array([[0, 1, 127, 128, 200, 255, 0, 0]] * 8, np.uint8)
    red = np.full((8, 8, 3), (200, 0, 0), np.uint8)
    strokes = draw_strokes(Image.fromarray(np.dstack([red, alpha])), photo=(8, 8), size=(8, 8))
    assert strokes.mask[0].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(("width", "fits"), [(100, True), (101, True), (97, False), (104, False)])
def test_strokes_have_the_aspect_of_the_photo_to_two_percent(width, fits):
    picture = Image.new("RGBA", (width, 50), (200, 0, 0, 255))
    if fits:
        draw_strokes(picture, photo=(200, 100), size=(8, 16))
        return
    with pytest.raises(ConfigError, match="give a picture of the photo's aspect"):
        draw_strokes(picture, photo=(200, 100), size=(8, 16))


def test_a_dab_becomes_cells_as_in_training():
    strokes = draw_strokes([Hint(0.5, 0.5, "#3c5ac8")], photo=(640, 640), size=(256, 256))
    L = np.full((256, 256), 42, np.float32)
    shown = replace(strokes, values=fit_chroma(strokes.values, L))
    cells = to_cells(shown, cell=8, scale=50)
    shown = cells[..., 2] > 0
    assert 1 <= shown.sum() <= 4
    assert np.allclose(cells[shown][:, :2] * 50, ab_of("#3c5ac8"), atol=1)
    assert not cells[~shown].any()


def test_a_dab_on_a_drawing_keeps_all_of_its_colour():
    rgb = SPACES["rgb"]
    strokes = draw_strokes(
        [Hint(0.5, 0.5, "#3c5ac8")], photo=(64, 64), size=(64, 64), values_of=rgb.hint_values
    )
    cells = to_cells(strokes, cell=2, scale=rgb.scale)
    shown = cells[..., 3] > 0
    assert 1 <= shown.sum() <= 4
    colors = (cells[shown][:, :3] + 1) * 127.5
    assert np.allclose(colors, [0x3C, 0x5A, 0xC8], atol=1e-3)
    assert not cells[~shown].any()


def test_a_colour_beyond_srgb_is_told():
    strokes = draw_strokes([Hint(0.5, 0.5, "#0000ff")], photo=(64, 64), size=(64, 64))
    assert find_shortfall(strokes, np.full((64, 64), 95, np.float32)) == 1
    assert find_shortfall(strokes, np.full((64, 64), 32.3, np.float32)) == 0


def dijkstra(place, costs):
    """Shortest paths by the textbook algorithm, the reference for the sweeps."""
    height, width = place.shape
    distance = np.where(place, 0.0, np.inf)
    heap = [(0.0, y, x) for y, x in zip(*np.nonzero(place), strict=True)]
    steps = {"right": (0, 1), "down": (1, 0), "down right": (1, 1), "down left": (1, -1)}
    while heap:
        cost, y, x = heapq.heappop(heap)
        if cost > distance[y, x]:
            continue
        for name, (dy, dx) in steps.items():
            for sign in (1, -1):
                to = y + sign * dy, x + sign * dx
                if 0 <= to[0] < height and 0 <= to[1] < width:
                    at = min(y, to[0]), min(x, to[1])
                    new = cost + float(costs[name][at])
                    if new < distance[to] - 1e-9:
                        distance[to] = new
                        heapq.heappush(heap, (new, *to))
    return distance


def test_sweeps_find_the_shortest_ways():
    L = np.random.default_rng(0).uniform(0, 100, (24, 30)).astype(np.float32)
    L = cv2.GaussianBlur(L, (0, 0), 2) * 4
    places = np.zeros((2, 24, 30), bool)
    places[0, 3, 4] = places[1, 20, 25] = places[1, 0, 29] = True
    costs = measure_steps(L)
    truth = np.stack([dijkstra(place, costs) for place in places])
    assert np.allclose(measure_distance(places, costs), truth, rtol=0.02, atol=1e-3)


def test_strokes_fill_their_object_and_stay_inside_its_edges():
    L = np.full((96, 128), 30, np.float32)
    L[16:80, 16:64] = 70  # an object before a dark ground
    target, mask = np.zeros((96, 128, 2), np.float32), np.zeros((96, 128), np.float32)
    target[40:44, 30:34], mask[40:44, 30:34] = (40, -30), 1
    own = np.full((96, 128, 2), 5, np.float32)
    chroma = propagate_hints(own, L, target=target, mask=mask)
    assert np.array_equal(chroma[mask > 0], target[mask > 0])
    assert np.linalg.norm(chroma[20:76, 20:60] - (40, -30), axis=2).max() < 8
    assert np.abs(chroma[:, 70:] - 5).max() < 4
    two = target.copy()
    two[90:94, 110:114], mask[90:94, 110:114] = (-20, 30), 1
    both = propagate_hints(own, L, target=two, mask=mask)
    assert np.linalg.norm(both[84:, 80:] - (-20, 30), axis=2).max() < 8
    assert np.linalg.norm(both[20:76, 20:60] - (40, -30), axis=2).max() < 8


def test_colours_are_grouped_and_their_number_bounded():
    rng = np.random.default_rng(0)
    target = rng.uniform(-80, 80, (40, 40, 2)).astype(np.float32)
    colors, places = group_colors(target, np.ones((40, 40), np.float32))
    assert 8 < len(colors) <= MAX_COLORS
    assert (places.sum(axis=0) == 1).all()
    colors, _ = group_colors(np.full((4, 4, 2), 7, np.float32), np.eye(4, dtype=np.float32))
    assert np.allclose(colors, [[7, 7]])


@pytest.fixture(scope="module")
def embedded():
    return Pipeline.from_pretrained("colorize", device="cpu")


def test_the_embedded_model_keeps_a_hint_and_no_hint_changes_nothing(embedded):
    photo = Image.fromarray(np.ascontiguousarray(skimage.data.astronaut()))
    pixels = np.asarray(photo)
    settings = {"steps": 1, "seed": 1, "size": 128}
    (plain,) = embedded(photo, **settings)
    (empty,) = embedded(photo, **settings, edits=ColorEdits(hints=Image.new("RGBA", photo.size)))
    assert plain.tobytes() == empty.tobytes()
    (result,) = embedded(photo, **settings, edits=ColorEdits(hints=[Hint(102, 368, "#287832")]))
    before, after = (rgb_to_lab(np.asarray(p))[..., 1:] for p in (plain, result))
    y, x = np.mgrid[0:512, 0:512]
    stroke = np.hypot(x - 102, y - 368) <= 512 / 64
    shown = np.dstack([lightness(pixels), np.broadcast_to(ab_of("#287832"), (512, 512, 2))])
    wanted = reduce_chroma(np.ascontiguousarray(shown, np.float32))[..., 1:]
    assert np.linalg.norm(after - wanted, axis=2)[stroke].max() <= 8
    assert np.linalg.norm(before - wanted, axis=2)[stroke].mean() > 20
    suit = after[340:400, 80:130] - before[340:400, 80:130]
    face = after[90:150, 200:250] - before[90:150, 200:250]
    assert np.linalg.norm(suit, axis=2).mean() > 20
    assert np.linalg.norm(face, axis=2).mean() < 6
    assert np.abs(lightness(np.asarray(result)) - lightness(pixels)).max() <= 0.5


def test_frames_take_hints_too_and_only_colorizers_do(tiny_folder, photo):
    pipeline = Pipeline.from_pretrained(tiny_folder, device="cpu")
    settings = {"steps": 2, "seed": 1, "size": 32}
    edits = ColorEdits(hints=[Hint(0.5, 0.5, "red")])
    (result,) = pipeline(photo, **settings, edits=edits)
    config = SamplingConfig(steps=2, size=32)
    *_, last = pipeline.frames(photo, config=config, seed=1, edits=edits)
    assert last.tobytes() == result.tobytes()
    (free,) = pipeline(photo, steps=2, seed=1, size=32)
    assert free.tobytes() != result.tobytes()
