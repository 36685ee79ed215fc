"""Schedules, weights, noise and guidance compared with diffusers' numbers and closed forms."""

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr
from torch.testing import assert_close

from condiff.backends.torch_backend import encode_both
from condiff.config import BetaSchedule, DiffusionConfig, parse_config, read_config
from condiff.diffusion.diffusers_schedulers import SCHEDULERS, build_scheduler
from condiff.diffusion.loss import (
    loss_weight,
    sample_kept,
    sample_timesteps_and_noise,
    squared_error,
)
from condiff.diffusion.parameterization import (
    add_noise,
    from_x_0,
    guide_along,
    project_guidance,
    to_x_0,
)
from condiff.errors import ConfigError
from condiff.models.denoiser import build_model
from condiff.tasks import find_task
from condiff.training.loss import batch_error, seed_of

PREDICTIONS = ["epsilon", "v_prediction", "sample"]
SCHEDULES = get_args(BetaSchedule)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def process(prediction_type="v_prediction", **changes):
    zero_snr = {"rescale_betas_zero_snr": False} if prediction_type == "epsilon" else {}
    return DiffusionConfig(prediction_type=prediction_type, **zero_snr | changes)


def alphas_bar_of(config):
    return build_scheduler("ddpm", config).alphas_cumprod


def log_snr(alphas_bar):
    return (alphas_bar / (1 - alphas_bar)).log()


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_diffusers_own(schedule, zero_snr):
    config = process(beta_schedule=schedule, rescale_betas_zero_snr=zero_snr)
    stock = DDPMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=zero_snr)
    # A sigmoid schedule is defined by its betas, which NumPy rounds differently.
    atol = 1e-6 if schedule == "sigmoid" else 0
    assert_close(alphas_bar_of(config), stock.alphas_cumprod, atol=atol, rtol=0)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "heun"])
@pytest.mark.parametrize("changes", [{"beta_schedule": "sigmoid"}, {"schedule_shift": 0.25}])
def test_all_solvers_follow_the_same_schedule(name, changes):
    config = process(**changes)
    alphas_bar = build_scheduler(name, config).alphas_cumprod
    # some keep the last one at 2^-24, so that they can divide by it
    assert_close(alphas_bar, alphas_bar_of(config), atol=1e-7, rtol=0)


def test_the_shift_moves_log_snr_by_twice_the_log_of_the_size_ratio():
    plain = log_snr(alphas_bar_of(process(rescale_betas_zero_snr=False)))
    shifted = log_snr(alphas_bar_of(process(rescale_betas_zero_snr=False, schedule_shift=64 / 256)))
    moved = torch.full_like(plain, 2 * math.log(64 / 256))
    assert_close(shifted - plain, moved, atol=2e-3, rtol=0)


def test_the_shift_equals_more_noise_on_a_larger_picture():
    """Averaged over 4x4 pixels, a picture of 256 is as noisy as one of 64 unshifted."""
    plain, shifted = (
        alphas_bar_of(process(rescale_betas_zero_snr=False, schedule_shift=shift))[500]
        for shift in (1.0, 0.25)
    )
    eps = torch.randn(1, 1, 1024, 1024, generator=seeded())
    x_t = add_noise(torch.zeros_like(eps), eps, shifted) / shifted.sqrt()
    small = torch.nn.functional.avg_pool2d(x_t, 4)
    assert_close(small.std(), ((1 - plain) / plain).sqrt(), rtol=0.01, atol=0)


@pytest.mark.parametrize("shift", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_zero_terminal_snr_comes_after_the_shift(schedule, shift):
    alphas_bar = alphas_bar_of(process(beta_schedule=schedule, schedule_shift=shift))
    assert alphas_bar[-1] == 0
    assert (alphas_bar.diff() < 0).all()
    first = alphas_bar_of(
        process(beta_schedule=schedule, schedule_shift=shift, rescale_betas_zero_snr=False)
    )[0]
    assert_close(alphas_bar[0], first)


@pytest.mark.parametrize("changes", [{"beta_schedule": "sigmoid"}, {"schedule_shift": 0.3}])
def test_a_saved_schedule_is_a_stock_one_to_the_last_bit(tmp_path, changes):
    config = process(**changes)
    build_scheduler("ddpm", config).save_pretrained(tmp_path)
    for kind in (DDPMScheduler, DDIMScheduler):  # DDIM has no "sigmoid": it is given the betas
        stock = kind.from_pretrained(tmp_path)
        assert torch.equal(stock.alphas_cumprod, alphas_bar_of(config))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_min_snr_weights_are_those_of_diffusers_examples(kind, gamma):
    config = process(kind, loss_weighting="min_snr", min_snr_gamma=gamma)
    scheduler = build_scheduler("ddpm", config)
    t = torch.arange(999)  # at the last one SNR is 0, and theirs 0/0 for epsilon
    snr = compute_snr(scheduler, t)
    theirs = torch.stack([snr, gamma * torch.ones_like(t)], dim=1).min(dim=1)[0]
    theirs = {"epsilon": theirs / snr, "v_prediction": theirs / (snr + 1), "sample": theirs}[kind]
    assert_close(loss_weight(scheduler.alphas_cumprod[t], config=config), theirs)


def test_the_recipe_of_the_long_run_has_the_closed_forms_of_its_timesteps_and_weights():
    """t = floor(1000 (1 - u^3)), weight clamp(min(SNR, 5) / (SNR + 1), 0.5) on v."""
    run = read_config(Path(__file__).parents[1] / "configs/colorize-long.yaml")
    t, _ = sample_timesteps_and_noise(
        (200_000, 1, 1, 1),
        num_train_timesteps=1000,
        config=run.diffusion,
        generator=seeded(),
        device="cpu",
    )
    below = (torch.bincount(t, minlength=1000).cumsum(0) / len(t))[:-1]
    expected = 1 - (1 - torch.arange(1, 1000) / 1000) ** (1 / 3)
    assert (below - expected).abs().max() < 0.004  # Kolmogorov's bound of 0.1 %: 1.95 / sqrt(n)
    alphas_bar = alphas_bar_of(run.diffusion)
    snr = compute_snr(build_scheduler("ddpm", run.diffusion), torch.arange(1000))
    weight = (snr.clamp(max=5) / (snr + 1)).clamp(min=0.5)
    assert_close(loss_weight(alphas_bar, config=run.diffusion), weight)
    assert weight[-1] == 0.5 and weight.max() > 0.8


def test_a_power_of_one_and_no_floor_change_no_bit():
    shape, device = (64, 1, 1, 1), "cpu"
    plain, same = (
        sample_timesteps_and_noise(
            shape, num_train_timesteps=1000, config=c, generator=seeded(), device=device
        )[0]
        for c in (process(), process(timestep_power=1.0))
    )
    u = torch.rand(64, generator=seeded())
    assert torch.equal(plain, same) and torch.equal(plain, (u * 1000).long())
    floored = process(loss_weighting="min_snr", loss_weight_floor=0.2)
    config = process(loss_weighting="min_snr")
    alphas_bar = alphas_bar_of(config)
    without = loss_weight(alphas_bar, config=config)
    assert torch.equal(loss_weight(alphas_bar, config=floored), without.clamp(min=0.2))
    with pytest.raises(ConfigError, match="leave one of them at 1"):
        process(timestep_power=1.5, timestep_shift=2.0)


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_a_weighted_loss_is_the_same_whatever_is_predicted(weighting):
    """One prediction of x_0, expressed as noise, as v and as x_0, has the same loss."""
    x_0, eps, guess = torch.randn(3, 5, 3, 8, 8, generator=seeded())
    alphas_bar = torch.tensor([0.98, 0.7, 0.4, 0.1, 0.01])
    t = torch.arange(5)

    def loss(kind):
        config = process(kind, loss_weighting=weighting, p2_gamma=0.7, p2_k=1.3)

        def model(x_t, t):
            return from_x_0(kind, guess, x_t, alphas_bar[t].view(-1, 1, 1, 1))

        error = squared_error(model, x_0, t, eps, alphas_bar=alphas_bar, config=config)
        return loss_weight(alphas_bar, config=config) * error

    assert_close(loss("epsilon"), loss("sample"), rtol=1e-4, atol=0)
    assert_close(loss("v_prediction"), loss("sample"), rtol=1e-4, atol=0)


def test_p2_with_its_usual_numbers_is_one_minus_alpha_bar_on_the_noise():
    alpha_bar = torch.linspace(0.001, 0.999, 50)
    config = process("epsilon", loss_weighting="p2")
    assert_close(loss_weight(alpha_bar, config=config), 1 - alpha_bar)


@pytest.mark.parametrize("weighting", ["none", "min_snr", "p2"])
@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_weights_are_finite_at_pure_noise(kind, weighting):
    weight = loss_weight(torch.zeros(3), config=process(kind, loss_weighting=weighting))
    assert weight.shape == (3,)
    assert torch.equal(weight, torch.full((3,), float(weighting == "none")))


@pytest.mark.parametrize("weighting", ["none", "min_snr", "p2"])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_least_loss_on_a_gaussian_has_its_closed_form(kind, weighting):
    """x_0 ~ N(m, s²): the optimal prediction has the least error, variance s²(1-ᾱ)/(ᾱs²+1-ᾱ)."""
    mean, variance, t = 0.4, 0.09, torch.tensor([50, 300, 600, 900, 990])
    config = process(kind, loss_weighting=weighting)
    alphas_bar = alphas_bar_of(config)
    x_0 = mean + variance**0.5 * torch.randn(5, 1, 256, 256, generator=seeded())
    eps = torch.randn(x_0.shape, generator=seeded(1))

    def loss(offset=0.0, stretch=1.0):
        def model(x_t, t):
            alpha_bar = alphas_bar[t].view(-1, 1, 1, 1)
            gain = alpha_bar.sqrt() * variance / (alpha_bar * variance + 1 - alpha_bar)
            best = mean + gain * (x_t - alpha_bar.sqrt() * mean)
            return stretch * from_x_0(kind, best, x_t, alpha_bar) + offset

        error = squared_error(model, x_0, t, eps, alphas_bar=alphas_bar, config=config)
        return loss_weight(alphas_bar[t], config=config) * error

    alpha_bar = alphas_bar[t]
    posterior = variance * (1 - alpha_bar) / (alpha_bar * variance + 1 - alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    on_x_0 = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones(5)}[kind]
    expected = {
        "none": on_x_0 * posterior,
        "min_snr": snr.clamp(max=5) * posterior,
        "p2": snr / (1 + snr) * posterior,
    }[weighting]
    assert_close(loss(), expected, rtol=0.03, atol=0)
    for worse in ({"offset": 0.1}, {"offset": -0.1}, {"stretch": 0.9}, {"stretch": 1.1}):
        assert (loss(**worse) > loss()).all()


def test_squared_error_is_zero_for_a_perfect_model_and_single_precision():
    config = process()
    alphas_bar = alphas_bar_of(config)
    x_0 = torch.randn(64, 1, 2, 2, generator=seeded())
    t, eps = sample_timesteps_and_noise(
        x_0.shape, num_train_timesteps=1000, config=config, generator=seeded(1), device="cpu"
    )

    def perfect(x_t, t):
        return from_x_0("v_prediction", x_0, x_t, alphas_bar[t].view(-1, 1, 1, 1)).bfloat16()

    error = squared_error(perfect, x_0, t, eps, alphas_bar=alphas_bar, config=config)
    assert error.shape == (64,)
    assert error.dtype == torch.float32
    assert error.max() < 1e-3


def test_noise_is_standard_normal_and_all_timesteps_are_drawn():
    t, eps = sample_timesteps_and_noise(
        (4096, 2, 4, 4), num_train_timesteps=1000, config=process(), generator=seeded(),
        device="cpu",
    )  # fmt: skip
    assert (t.shape, eps.shape) == ((4096,), (4096, 2, 4, 4))
    assert t.dtype == torch.long
    assert (int(t.min()), int(t.max())) == (0, 999)
    assert t.float().mean().item() == pytest.approx(499.5, abs=15)
    assert eps.mean().item() == pytest.approx(0, abs=0.01)
    assert eps.std().item() == pytest.approx(1, abs=0.01)


def test_the_configured_timestep_shift_is_drawn_with():
    t, _ = sample_timesteps_and_noise(
        (4096, 1, 1, 1), num_train_timesteps=1000, config=process(timestep_shift=3.0),
        generator=seeded(), device="cpu",
    )  # fmt: skip
    # half of them lie above the place where u is one half: 3/2 / (1 + 2/2)
    assert (t >= 750).float().mean().item() == pytest.approx(0.5, abs=0.025)


def test_offset_noise_adds_to_the_mean_of_each_channel_alone():
    def draw(strength):
        return sample_timesteps_and_noise(
            (2000, 2, 8, 8), num_train_timesteps=1000, config=process(offset_noise=strength),
            generator=seeded(), device="cpu",
        )  # fmt: skip

    (t, plain), (t_too, offset) = draw(0.0), draw(0.5)
    assert torch.equal(t, t_too)
    added = offset - plain
    assert_close(added, added[..., :1, :1].expand_as(added))
    common = added[..., 0, 0]
    assert common.std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(torch.corrcoef(common.T)[0, 1].item()) < 0.1
    assert offset.mean(dim=(2, 3)).var().item() == pytest.approx(0.25 + 1 / 64, rel=0.1)


def test_whole_conditions_are_dropped_as_often_as_asked():
    kept = sample_kept(4000, prob=0.1, generator=seeded(), device="cpu")
    assert kept.shape == (4000, 1, 1, 1)
    assert set(kept.flatten().tolist()) == {0.0, 1.0}
    assert kept.mean().item() == pytest.approx(0.9, abs=0.015)
    assert not sample_kept(9, prob=1.0, generator=seeded(), device="cpu").any()


def test_a_run_that_drops_nothing_draws_no_numbers_for_it():
    generator = seeded()
    assert sample_kept(9, prob=0.0, generator=generator, device="cpu").all()
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_a_dropped_drawing_trains_the_null_cond_that_guidance_leads_away_from():
    base = {
        "task": "sketch", "max_train_steps": 1,
        "model": {
            "sample_size": 16, "fold": 2, "backbone_variant": None, "block_out_channels": [8, 16],
            "norm_num_groups": 4, "attention_head_dim": 8,
        },
        "data": {"size": 32, "hint_prob": 0.0},
    }  # fmt: skip
    task = find_task("sketch")
    dropping, keeping = (
        parse_config({**base, "diffusion": {"cond_drop_prob": prob}}, origin="here")
        for prob in (1.0, 0.0)
    )
    torch.manual_seed(0)
    model = build_model(dropping.model, task)
    alphas_bar = build_scheduler("ddpm", dropping.diffusion).alphas_cumprod
    x_0 = torch.rand(3, 3, 16, 16, generator=seeded()) * 2 - 1
    drawing = torch.rand(3, 1, 32, 32, generator=seeded()) * 2 - 1
    _, null_cond = encode_both(model.encoder, drawing, hints=None, size=(16, 16))

    def error(condition, config, network=model):
        batch = {"x_0": x_0, "condition": condition, "features": None}
        how = {"config": config, "task": task, "alphas_bar": alphas_bar}
        with torch.no_grad():
            return batch_error(network, batch, 5, **how)[0]

    def blind(x_t, t, condition, **_):
        return model.predict(x_t, t, null_cond)

    assert_close(error(drawing, dropping), error(drawing, keeping, blind))
    assert torch.equal(error(drawing, dropping), error(-drawing, dropping))
    assert not torch.allclose(error(drawing, keeping), error(drawing, dropping), rtol=1e-3)
    assert not torch.allclose(error(-torch.ones_like(drawing), keeping), error(drawing, dropping))


def test_dropout_draws_other_numbers_than_timesteps_and_noise():
    drawn = []

    def network(x_t, t, condition, **_):
        drawn.append(torch.rand(4))
        return x_t

    settings = parse_config({"task": "none", "max_train_steps": 1, "seed": 3}, origin="here")
    batch = {"x_0": torch.zeros(1, 3, 64, 64), "condition": torch.zeros(1, 0, 256, 256)}
    alphas_bar = build_scheduler("ddpm", settings.diffusion).alphas_cumprod
    how = {"config": settings, "task": find_task("none"), "alphas_bar": alphas_bar}
    for _ in range(2):
        batch_error(network, {**batch, "features": None}, 5, **how)
    assert torch.equal(*drawn)
    noise = torch.rand(4, generator=torch.Generator().manual_seed(seed_of(3, 5)))
    assert not torch.isin(drawn[0], noise).any()


def guide(cond, uncond, scale):
    return guide_along({0: cond, 1: uncond}, (scale,))


def test_guidance_goes_from_blind_past_plain_to_exaggerated():
    cond, uncond = torch.randn(2, 1, 3, 4, 4, generator=seeded())
    assert_close(guide(cond, uncond, 0.0), uncond)
    assert_close(guide(cond, uncond, 1.0), cond)
    assert_close(guide(cond, uncond, 3.0), cond + 2 * (cond - uncond))


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_projected_guidance_turns_hues_and_keeps_a_share_of_what_it_adds_to_strength(
    prediction_type,
):
    """In x_0, whatever the network predicts: along each pixel's colour `eta` of it is added."""
    alpha_bar = torch.tensor(0.3)
    x_t, cond, uncond = torch.randn(3, 2, 2, 4, 4, generator=seeded())
    outputs = [from_x_0(prediction_type, x_0, x_t, alpha_bar) for x_0 in (cond, uncond)]
    plain = guide(*outputs, 2.5)
    assert project_guidance(plain, outputs[0], cond, eta=1) is plain
    for eta in (0.0, 0.4):
        found = project_guidance(plain, outputs[0], cond, eta=eta)
        added = to_x_0(prediction_type, found, x_t, alpha_bar) - cond
        full = 1.5 * (cond - uncond)
        colour = cond / cond.square().sum(1, keepdim=True).sqrt()
        across = torch.stack([-colour[:, 1], colour[:, 0]], dim=1)
        for direction, share in ((colour, eta), (across, 1.0)):
            mine, all_of_it = ((x * direction).sum(1) for x in (added, full))
            torch.testing.assert_close(mine, share * all_of_it, rtol=1e-3, atol=1e-3)
        arrays = (plain.numpy(), outputs[0].numpy(), cond.numpy())
        np.testing.assert_allclose(project_guidance(*arrays, eta=eta), found.numpy(), atol=1e-5)


def test_projected_guidance_of_grey_is_unchanged():
    guided, cond = torch.randn(2, 1, 2, 4, 4, generator=seeded())
    assert torch.equal(project_guidance(guided, cond, torch.zeros_like(cond), eta=0), guided)


def test_guidance_of_two_gaussians_samples_the_mean_that_it_should():
    """Of two normals of one variance: the score is that of the normal at the guided mean."""
    alpha_bar, variance = torch.tensor(0.3), 0.09
    x_t = torch.randn(1, 1, 8, 8, generator=seeded())

    def best_noise(mean):
        return (
            (1 - alpha_bar).sqrt()
            * (x_t - alpha_bar.sqrt() * mean)
            / (alpha_bar * variance + 1 - alpha_bar)
        )

    assert_close(guide(best_noise(0.4), best_noise(-0.1), 2.0), best_noise(0.9))
