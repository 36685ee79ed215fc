"""Coherence: places of a photo that look alike share their colours."""

import numpy as np
import pytest
import torch
from PIL import Image

from condiff import Pipeline
from condiff.cli import main
from condiff.errors import ConfigError, UsageError
from condiff.pipelines import similar_colors
from condiff.pipelines.similar_colors import SimilarColors

GRID = (12, 16)


def label():
    """0 on the left, 1 on the right, 2 in a lone cell."""
    labels = np.zeros(GRID, int)
    labels[:, 8:] = 1
    labels[5, 4] = 2
    return labels


def make_features():
    """A random vector for each label, with a little noise."""
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (3, 16))[label()] + rng.normal(0, 0.05, (*GRID, 16))
    return features.transpose(2, 0, 1).astype(np.float32)


def make_x_0(patch=1, seed=1):
    """Noise about one colour on the left, and another on the right."""
    x_0 = np.random.default_rng(seed).normal(0, 0.3, (1, 2, *GRID)).astype(np.float32)
    x_0[0, 0, :, :8] += 0.5
    x_0[0, 1, :, 8:] -= 0.5
    return x_0.repeat(patch, 2).repeat(patch, 3)


def build(hinted=None, L=None, to_device=np.asarray):
    L = np.full(GRID, 50, np.float32) if L is None else L
    return SimilarColors.build(make_features(), L, hinted=hinted, to_device=to_device)


def test_cells_that_look_alike_share_a_colour_and_a_lone_one_keeps_its_own():
    x_0 = make_x_0()
    shared = build()(x_0)
    for side in (0, 1):
        before, after = (x[0][:, label() == side] for x in (x_0, shared))
        assert after.std(1).max() < 0.2 * before.std(1).min()
        np.testing.assert_allclose(after.mean(1), before.mean(1), atol=0.02)
    np.testing.assert_allclose(shared[..., 5, 4], x_0[..., 5, 4], atol=0.01)


def test_another_lightness_is_another_look():
    L = np.full(GRID, 50, np.float32)
    L[:6] = 90
    x_0 = make_x_0()
    x_0[0, 0, :6] += 1
    shared = build(L=L)(x_0)
    assert shared[0, 0, :6].mean() - shared[0, 0, 6:].mean() > 0.9


def test_hinted_cells_keep_their_colours_and_give_none():
    hinted = np.zeros(GRID, bool)
    hinted[2, 2] = True
    x_0 = make_x_0()
    loud = x_0.copy()
    loud[:, :, 2, 2] = 30
    shared, changed = build(hinted)(x_0), build(hinted)(loud)
    np.testing.assert_array_equal(changed[:, :, 2, 2], loud[:, :, 2, 2])
    changed[:, :, 2, 2] = shared[:, :, 2, 2]
    np.testing.assert_array_equal(changed, shared)


def test_large_pictures_average_a_grid_of_cells(monkeypatch):
    monkeypatch.setattr(similar_colors, "MAX_WEIGHTS", 192 * 192 // 4)
    coarse = build()
    assert coarse.stride == 2 and coarse.others.shape == (192, 48)
    x_0 = make_x_0()
    shared = coarse(x_0)
    assert shared[0, 0, :, :8].std() < 0.4 * x_0[0, 0, :, :8].std()
    np.testing.assert_allclose(shared[0, :, 5, 4], x_0[0, :, 5, 4], atol=0.01)


def test_a_cell_may_be_a_patch_of_pixels():
    whole, patches = build()(make_x_0()), build()(make_x_0(patch=2))
    np.testing.assert_allclose(patches, whole.repeat(2, 2).repeat(2, 3), atol=1e-5)


def test_torch_and_numpy_agree():
    x_0 = make_x_0()
    shared = build(to_device=torch.from_numpy)(torch.from_numpy(x_0))
    np.testing.assert_allclose(shared.numpy(), build()(x_0), atol=1e-5)


@pytest.mark.parametrize("size", [(48, 40), (600, 20)], ids=["photo", "strip in windows"])
def test_a_colorizer_samples_with_coherence(tiny_folder, size):
    pipeline = Pipeline.from_pretrained(tiny_folder, device="cpu")
    photo = Image.effect_noise(size, 80)
    results = [
        np.asarray(pipeline(photo, seed=1, steps=2, coherence=c)[0], int) for c in (0, 0.5, 1)
    ]
    assert results[0].shape == (*size[::-1], 3)
    off, half, full = (np.abs(r - results[0]).mean() for r in results)
    assert off == 0 < half < full
    plain, coherent = (pipeline.sampling.override({"coherence": c}) for c in (0, 1))
    with pytest.raises(ConfigError, match="encoded without coherence"):
        next(pipeline.sample(pipeline.encode(photo, config=plain), config=coherent, seed=1))
    again = pipeline(photo, seed=1, steps=2, coherence=1)[0]
    np.testing.assert_array_equal(np.asarray(again, int), results[2])


def test_a_model_of_drawings_has_no_coherence(sketch_folder, tmp_path, capsys):
    pipeline = Pipeline.from_pretrained(sketch_folder, device="cpu")
    with pytest.raises(UsageError, match="leave --coherence out"):
        pipeline(Image.new("L", (32, 32)), coherence=0.5)
    Image.new("L", (32, 32)).save(tmp_path / "drawing.png")
    args = ["render", str(tmp_path / "drawing.png"), "-m", str(sketch_folder)]
    assert main([*args, "--coherence", "1"]) == 2
    assert "No such option" in capsys.readouterr().err


def test_the_command_line_takes_coherence(tiny_folder, tmp_path):
    Image.effect_noise((40, 40), 80).save(tmp_path / "grey.png")
    line = ["colorize", str(tmp_path / "grey.png"), "-m", str(tiny_folder), "--seed", "1", "-f"]
    made = {}
    for value in ("0", "1"):
        assert main([*line, "--steps", "2", "--coherence", value]) == 0
        made[value] = np.asarray(Image.open(tmp_path / "grey.color.png"))
    assert (made["0"] != made["1"]).any()
    assert main([*line, "--coherence", "2"]) == 2
    with pytest.raises(ConfigError, match="coherence"):
        Pipeline.from_pretrained(tiny_folder)(made["0"], coherence=-1)
