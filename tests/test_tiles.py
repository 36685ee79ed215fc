"""Tiles: all is covered, neighbours meet without a seam, one tile is the picture itself."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condiff.config import DiffusionConfig
from condiff.diffusion.sampler import sample
from condiff.diffusion.tiles import Tiles, plan_tiles, predict_in_tiles

SIDE = 32


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 16))
def test_tiles_cover_all_and_share_what_was_asked(height, width, overlap):
    tiles = plan_tiles(height, width, side=SIDE, overlap=overlap)
    for length, starts, side in (
        (height, tiles.rows, tiles.height),
        (width, tiles.columns, tiles.width),
    ):
        assert side == min(SIDE, length)
        assert starts[0] == 0
        assert starts[-1] + side == length
        assert all(a < b <= a + side - overlap for a, b in zip(starts, starts[1:], strict=False))
    assert tiles.weight.min() > 0


def test_arrays_of_numpy_and_torch_are_done_alike():
    x = np.random.default_rng(0).standard_normal((1, 3, 50, 70)).astype(np.float32)
    tiles = plan_tiles(50, 70, side=SIDE, overlap=8)
    assert len(tiles.rows) * len(tiles.columns) > 1
    plain = predict_in_tiles(lambda x, c: x * c, x, x, tiles=tiles, weight=tiles.weight)
    assert np.allclose(plain, x * x, atol=1e-6)  # what is done pixel by pixel knows no tiles
    given = torch.from_numpy(x)
    weight = torch.from_numpy(tiles.weight)
    result = predict_in_tiles(lambda x, c: x * c, given, given, tiles=tiles, weight=weight)
    assert np.allclose(result, plain, atol=1e-6)


def test_each_tile_may_have_a_condition_of_its_own():
    x = np.random.default_rng(0).standard_normal((1, 1, 1, 48)).astype(np.float32)
    tiles = plan_tiles(1, 48, side=SIDE, overlap=16)
    assert len(tiles.parts) == 2
    found = predict_in_tiles(lambda x, c: x + c, x, (1, 3), tiles=tiles, weight=tiles.weight)
    first, second = np.sin(np.pi * (np.arange(48)[:32] + 0.5) / 32) ** 2, np.zeros(48)
    second[16:] = first
    first = np.append(first, np.zeros(16))
    expected = x[0, 0, 0] + (first + 3 * second) / (first + second)
    assert np.allclose(found[0, 0, 0], expected, atol=1e-5)


def test_one_tile_is_the_picture():
    tiles = plan_tiles(20, SIDE, side=SIDE, overlap=8)
    x = torch.randn(1, 3, 20, SIDE)
    seen = []
    result = predict_in_tiles(
        lambda x, c: seen.append(x.shape) or 2 * x, x, x, tiles=tiles, weight=None
    )
    assert torch.equal(result, 2 * x)
    assert seen == [x.shape]


def checkerboard(height, width, cell=6):
    y, x = np.mgrid[0:height, 0:width] // cell
    return torch.from_numpy(((x + y) % 2 * 1.6 - 0.8).astype(np.float32)).expand(1, 3, -1, -1)


def sample_checkerboard(tiles: Tiles, weight, *, seed=0):
    """Denoise with a network that sees a checkerboard, wrong towards each tile's own borders.

    That is how padding spoils a real network: by a tenth at the outermost pixels; and each tile
    has a tone of its own, as a norm over the tile gives it.
    """
    board = checkerboard(96, 80)
    config = DiffusionConfig(prediction_type="sample")
    rng = np.random.default_rng(seed)

    def one(part, cond):
        edge = np.minimum.outer(
            *(np.minimum(np.arange(n), np.arange(n)[::-1]) for n in part.shape[2:])
        )
        border = torch.from_numpy(0.1 * np.exp(-edge / 2).astype(np.float32))
        return cond + border + float(rng.normal(0, 0.03))

    def predict(x_t, t):
        return predict_in_tiles(one, x_t, board, tiles=tiles, weight=weight)

    noise = torch.randn(1, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    *_, x_0 = sample(predict, noise, scheduler="ddim", config=config, steps=5, clip=1.0)
    return (x_0 - board)[0]


def jumps_of(error, tiles):
    """The largest jump of the error from pixel to pixel, at the tiles' borders and elsewhere."""
    at, inside = [], []
    for axis, starts, side in ((1, tiles.rows, tiles.height), (2, tiles.columns, tiles.width)):
        jumps = error.diff(dim=axis).abs().amax(dim=[n for n in range(3) if n != axis])
        borders = {s - 1 for s in starts[1:]} | {s + side - 1 for s in starts[:-1]}
        for place, jump in enumerate(jumps.tolist()):
            (at if place in borders else inside).append(jump)
    return max(at), max(inside)


def test_a_checkerboard_shows_no_seams():
    tiles = plan_tiles(96, 80, side=SIDE, overlap=12)
    at, inside = jumps_of(sample_checkerboard(tiles, torch.from_numpy(tiles.weight)), tiles)
    assert at <= inside
    # Tiles that count alike all over do show: the measure sees seams where there are some.
    flat = torch.ones(tiles.height, tiles.width)
    at_flat, inside_flat = jumps_of(sample_checkerboard(tiles, flat), tiles)
    assert at_flat > inside_flat
    assert at_flat > 5 * at


@pytest.mark.parametrize("weight", [1, 7])
def test_the_order_of_tiles_does_not_matter(weight):
    tiles = plan_tiles(96, 80, side=SIDE, overlap=12)
    turned = Tiles(tiles.rows[::-1], tiles.columns[::-1], tiles.height, tiles.width)
    x = torch.randn(1, 3, 96, 80)

    def one(part, cond):
        return part * part.mean() + cond.std()

    first, second = (
        predict_in_tiles(one, x, x, tiles=t, weight=weight * torch.from_numpy(t.weight))
        for t in (tiles, turned)
    )
    assert torch.allclose(first, second, atol=1e-6)
