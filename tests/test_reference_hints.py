"""Hints of simulated references in training: their area, values and randomness."""

import numpy as np
import pytest
import torch

from condiff.color.references import FeatureMap, match_references
from condiff.config import parse_config
from condiff.data.crops import Batch
from condiff.diffusion.diffusers_schedulers import build_scheduler
from condiff.errors import ConfigError
from condiff.tasks import find_task
from condiff.training.loss import batch_error
from condiff.training.reference_hints import SimulatedMatches, add_references, sample_matches

SIDE = 24


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(batch=3):
    """Chroma over 50 (B,2,h,w) and L*/50 - 1 (B,1,h,w) of smooth pictures."""
    ramp = torch.linspace(-1, 1, SIDE)
    base = ramp[:, None] + 0.5 * ramp
    x_0 = torch.stack([base * 0.3, base.T * 0.2]).repeat(batch, 1, 1, 1)
    return x_0, (base.T / 2).repeat(batch, 1, 1, 1)


def matches(batch=3, **changes):
    whole = torch.ones(batch, 1, SIDE, SIDE, dtype=torch.bool)
    given = {
        "taken": whole, "wrong": ~whole, "apart": torch.full((batch, 2), 0.5),
        "strength": torch.ones(batch), "cast": torch.zeros(batch, 2),
    } | changes  # fmt: skip
    return SimulatedMatches(**given)


def test_a_reference_covers_patches_and_some_of_them_are_wrong():
    sampled = sample_matches((600, SIDE, SIDE), prob=0.5, generator=seeded())
    cover = sampled.taken.float().mean(dim=(1, 2, 3))
    given = cover > 0
    assert 0.42 < given.float().mean() < 0.58
    assert 0.5 < cover[given].mean() < 0.6 and cover[given].min() < 0.2
    assert not (sampled.wrong & ~sampled.taken).any()
    share = sampled.wrong.sum() / sampled.taken.sum()
    assert 0.04 < share < 0.08
    taken = sampled.taken[given].float()
    assert (taken[..., 1:] == taken[..., :-1]).float().mean() > 0.9  # they are no single cells
    none = sample_matches((9, SIDE, SIDE), prob=0.0, generator=seeded())
    assert not none.taken.any()


def test_chroma_is_smoothed_as_that_of_a_reference():
    """A photo that matches itself in all cells gets the same from condiff.color.references."""
    rng = np.random.default_rng(0)
    L = rng.uniform(20, 80, (SIDE, SIDE)).astype(np.float32)
    chroma = rng.uniform(-40, 40, (SIDE, SIDE, 2)).astype(np.float32)
    features = rng.normal(size=(SIDE, SIDE, 64)).astype(np.float32)
    guide = match_references(FeatureMap(features, L), [FeatureMap(features, L, chroma)])
    x_0 = torch.from_numpy(chroma.transpose(2, 0, 1)[None] / 50)
    lightness = torch.from_numpy(L / 50 - 1)[None, None]
    none = torch.zeros(1, 3, SIDE, SIDE)
    (hints,) = add_references(none, x_0, lightness, matches(1), scale=50)
    got = 50 * hints[:2].numpy().transpose(1, 2, 0)
    inner = slice(4, -4)
    # One sums over all cells, the other as far as two standard deviations.
    assert np.abs(got - guide.chroma)[inner, inner].mean() < 1.5
    assert np.abs(chroma - guide.chroma)[inner, inner].mean() > 10


def test_a_wrong_match_has_the_chroma_of_another_place_and_the_light_changes_all():
    x_0, lightness = photos(1)
    x_0 = torch.zeros_like(x_0)
    x_0[:, 0, :, 12:] = 1.0
    none = torch.zeros(1, 3, SIDE, SIDE)
    wrong = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    wrong[..., :12] = True
    moved = matches(1, wrong=wrong, apart=torch.tensor([[0.0, 0.5]]))
    hints = add_references(none, x_0, torch.zeros_like(lightness), moved, scale=50)
    assert (hints[0, 0] > 0.99).all()
    lit = matches(1, strength=torch.tensor([1.5]), cast=torch.tensor([[5.0, -10.0]]))
    hints = add_references(none, x_0, torch.zeros_like(lightness), lit, scale=50)
    assert hints[0, 0, 12, 0].item() == pytest.approx(0.1, abs=1e-4)
    assert hints[0, 0, 12, -1].item() == pytest.approx(1.6, abs=1e-4)
    assert hints[0, 1].mean().item() == pytest.approx(-0.2, abs=1e-4)


def test_a_hint_of_the_user_goes_before_a_reference():
    x_0, lightness = photos(1)
    own = torch.zeros(1, 3, SIDE, SIDE)
    own[0, :, 3, 4] = torch.tensor([0.7, -0.7, 1.0])
    hints = add_references(own, x_0, lightness, matches(1), scale=50)
    assert hints[0, :, 3, 4].tolist() == own[0, :, 3, 4].tolist()
    assert (hints[:, 2] == 1).all() and hints[0, 0, 5, 5] != 0
    assert add_references(own, x_0, lightness, matches(1, taken=torch.zeros_like(
        x_0[:, :1], dtype=torch.bool)), scale=50) is own  # fmt: skip


def config_of(**data):
    model = {"sample_size": 16, "backbone_variant": None, "block_out_channels": [8, 16],
             "norm_num_groups": 4, "attention_head_dim": 8}  # fmt: skip
    given = {"task": "colorize", "max_train_steps": 1, "model": model, "data": {"size": 64} | data}
    return parse_config(given, origin="here")


def test_hints_of_a_batch_depend_on_seed_and_number_and_not_on_processes(tiny_model):
    task = find_task("colorize")
    x_0 = torch.rand(4, 2, 16, 16, generator=seeded()) - 0.5
    lightness = torch.rand(4, 1, 32, 32, generator=seeded(1)) * 2 - 1
    alphas_bar = build_scheduler("ddpm", config_of().diffusion).alphas_cumprod

    def error(number=3, process=0, of=1, rows=slice(None), **data):
        batch: Batch = {"x_0": x_0[rows], "condition": lightness[rows], "features": None}
        with torch.no_grad():
            return batch_error(
                tiny_model, batch, number, config=config_of(hint_prob=0.0, **data), task=task,
                alphas_bar=alphas_bar, process=process, num_processes=of,
            )[0]  # fmt: skip

    whole = error(reference_prob=1.0)
    assert torch.equal(whole, error(reference_prob=1.0))
    halves = [error(process=p, of=2, rows=slice(2 * p, 2 * p + 2), reference_prob=1.0)
              for p in (0, 1)]  # fmt: skip
    torch.testing.assert_close(torch.cat(halves), whole)
    assert not torch.allclose(whole, error(reference_prob=0.0), rtol=1e-3)


def test_references_are_for_the_colorizer():
    with pytest.raises(ConfigError, match="reference_prob"):
        find_task("sketch").check(config_of(reference_prob=0.5))
    find_task("colorize").check(config_of(reference_prob=0.5))
