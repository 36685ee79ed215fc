"""Flat colours from the first step on: x_0 is flat within lines; hints and paper."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from condiff import ColorEdits, Hint, Pipeline
from condiff.cli import main
from condiff.color.hints import Strokes
from condiff.conditions.drawing_finish import share_of_regions
from condiff.config import DiffusionConfig, SamplingConfig
from condiff.diffusion.sampler import sample
from condiff.errors import ConfigError
from condiff.pipelines.flat_colors import FlatColors
from condiff.spaces import SPACES

CELLS = (16, 16)


def make_ink(side=64):
    """A square on paper."""
    image = Image.new("L", (side, side), 0)
    ImageDraw.Draw(image).rectangle((16, 16, 47, 47), outline=255, width=2)
    return np.asarray(image)


def build(strength=1.0, strokes=None, to_device=np.asarray):
    return FlatColors.build(
        make_ink(), CELLS, strength=strength, strokes=strokes, to_device=to_device
    )


def make_x_0(seed=0, inside=-0.4, size=CELLS):
    x_0 = np.random.default_rng(seed).normal(0, 0.3, (1, 3, *size)).astype(np.float32)
    x_0[:, 0, 4:12, 4:12] += inside
    return x_0


def test_the_shares_of_regions_add_up_to_one_in_every_cell():
    shares = share_of_regions(make_ink(), CELLS)
    assert shares.shape == (*CELLS, 2)
    np.testing.assert_allclose(shares.sum(2), 1, atol=1e-5)
    middle, corner = shares[8, 8], shares[0, 0]
    assert sorted(middle) == sorted(corner) == [0, 1] and (middle != corner).all()


def test_a_region_gets_one_colour_and_another_region_its_own():
    x_0 = make_x_0()
    flat = build()(x_0)
    inside, outside = flat[0, :, 6:10, 6:10], flat[0, :, :3]
    for part in (inside, outside):
        assert np.ptp(part, axis=(1, 2)).max() < 1e-4
    np.testing.assert_allclose(inside.mean((1, 2)), x_0[0, :, 4:12, 4:12].mean((1, 2)), atol=0.06)
    assert np.abs(inside.mean((1, 2)) - outside.mean((1, 2))).max() > 0.1


def test_strength_leads_from_x_0_itself_to_flat():
    x_0 = make_x_0()
    np.testing.assert_array_equal(build(0.0)(x_0), x_0)
    half = build(0.5)(x_0)
    np.testing.assert_allclose(half, (x_0 + build()(x_0)) / 2, atol=1e-5)


def test_what_lies_outside_of_the_picture_stays_and_the_argument_is_not_changed():
    x_0 = make_x_0(size=(20, 24))
    before = x_0.copy()
    flat = build()(x_0)
    np.testing.assert_array_equal(x_0, before)
    np.testing.assert_array_equal(flat[..., 16:, :], x_0[..., 16:, :])
    np.testing.assert_array_equal(flat[..., :, 16:], x_0[..., :, 16:])


def test_torch_gives_numpys_numbers():
    x_0 = make_x_0()
    flat = build(to_device=torch.from_numpy)(torch.from_numpy(x_0))
    np.testing.assert_allclose(flat.numpy(), build()(x_0), atol=1e-5)


def test_a_light_background_becomes_white_and_a_light_shape_does_not():
    flat = build()(np.full((1, 3, *CELLS), 0.8, np.float32))
    assert flat[0, :, 0, 0].min() == pytest.approx(1)
    assert flat[0, :, 8, 8].max() == pytest.approx(0.8, abs=1e-4)
    dark = build()(np.full((1, 3, *CELLS), 0.3, np.float32))
    assert dark[0, :, 0, 0].max() == pytest.approx(0.3, abs=1e-4)


def test_a_hint_colours_its_region_in_every_step():
    values, mask = np.zeros((64, 64, 3), np.float32), np.zeros((64, 64), np.float32)
    values[30, 30], mask[30, 30] = (1, -1, -1), 1
    flat = build(strokes=Strokes(values, mask))(make_x_0())
    np.testing.assert_allclose(flat[0, :, 8, 8], (1, -1, -1), atol=1e-5)
    assert flat[0, 0, 0, 0] < 0.5


def test_every_predicted_x_0_is_corrected_before_it_is_clipped():
    config = DiffusionConfig()
    seen = []

    def correct(x_0):
        seen.append(x_0)
        return 0 * x_0 + 5

    noise = np.random.default_rng(0).normal(size=(1, 1, 4, 4)).astype(np.float32)

    def predict(x_t, t):
        return x_t

    how = {"config": config, "steps": 3, "clip": 1.0, "correct": correct}
    *_, x_0 = sample(predict, noise, scheduler="ddim", **how)
    assert len(seen) == 3
    np.testing.assert_allclose(x_0, 1)


@pytest.mark.parametrize("scheduler", ["unipc", "euler", "dpmsolver++"])
def test_other_samplers_correct_too(sketch_folder, scheduler):
    pipeline = Pipeline.from_pretrained(sketch_folder, device="cpu")
    image = Image.fromarray(255 - make_ink())
    made = [
        np.asarray(pipeline(image, seed=1, steps=3, scheduler=scheduler, vividness=v)[0], int)
        for v in (0.0, 1.0)
    ]
    grey = np.ptp(made[0][20:44, 20:44], axis=2)
    assert grey.max() <= 1 < np.ptp(made[1][20:44, 20:44], axis=2).max()


def test_vividness_leaves_grey_and_lightness_and_scales_the_rest():
    x_0 = np.array([[0.2, 0.2], [0.2, 0.5], [0.2, -0.1]], np.float32)[None, :, :, None]
    vivid = SPACES["rgb"].saturate(x_0, 2.0)
    np.testing.assert_allclose(vivid[0, :, 0, 0], 0.2, atol=1e-6)
    np.testing.assert_allclose(vivid[0, :, 1, 0], (0.2, 0.8, -0.4), atol=1e-6)
    torch.testing.assert_close(
        SPACES["rgb"].saturate(torch.from_numpy(x_0), 2.0), torch.from_numpy(vivid)
    )
    assert (SPACES["chroma"].saturate(np.ones(3), 1.5) == 1.5).all()


def test_flat_off_is_the_models_own_picture(sketch_folder):
    pipeline = Pipeline.from_pretrained(sketch_folder, device="cpu")
    image = Image.fromarray(255 - make_ink())
    edits = [ColorEdits(flat=flat) for flat in (0.0, 1.0)]
    encoded = [pipeline.encode(pipeline.loaded.open(image), edits=each) for each in edits]
    assert encoded[0].flat is None and encoded[1].flat is not None
    hinted = pipeline(image, seed=1, steps=2, edits=ColorEdits(hints=[Hint(0.5, 0.5, "#ff0000")]))
    assert tuple(np.asarray(hinted[0])[32, 32]) == (255, 0, 0)


def test_the_command_line_takes_vividness(sketch_folder, tmp_path):
    Image.fromarray(255 - make_ink()).save(tmp_path / "drawing.png")
    args = ["render", str(tmp_path / "drawing.png"), "-m", str(sketch_folder), "--steps", "2"]
    assert main([*args, "--vividness", "1.5", "--seed", "1"]) == 0
    assert main([*args, "--vividness", "3", "-f"]) == 2
    with pytest.raises(ConfigError, match="vividness"):
        SamplingConfig().override({"vividness": -1})
