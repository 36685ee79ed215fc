"""The mathematics against diffusers' own numbers and against closed forms."""

from typing import get_args

import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close

from condiff.config import BetaSchedule, DiffusionConfig
from condiff.diffusion.diffusers_schedulers import (
    SCHEDULERS,
    build_scheduler,
    denoise,
)
from condiff.diffusion.parameterization import add_noise, from_x_0, target, to_x_0
from condiff.diffusion.schedule import sample_timesteps
from condiff.errors import ConfigError


def initial_noise(generators, shape):
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


PREDICTIONS = ["epsilon", "v_prediction", "sample"]
SCHEDULES = get_args(BetaSchedule)
PROCESSES = [
    *({"beta_schedule": name} for name in SCHEDULES),
    {"schedule_shift": 0.5},
    {"schedule_shift": 2.0},
]


def process(prediction_type="v_prediction", **changes):
    return DiffusionConfig(
        prediction_type=prediction_type,
        rescale_betas_zero_snr=prediction_type != "epsilon",
        **changes,
    )


def generators(count, start=0):
    return [torch.Generator().manual_seed(start + i) for i in range(count)]


def oracle(config, x_0):
    """The perfect model of a single image: it puts out what x_0 asks for."""
    alphas_bar = build_scheduler("ddpm", config).alphas_cumprod

    def model(x_t, t):
        return from_x_0(config.prediction_type, x_0, x_t, between(alphas_bar, t))

    return model


def between(alphas_bar, t):
    """alpha_bar at a timestep that may be fractional: sigma is geometric between two of them."""
    low, part = int(t), float(t) - int(t)
    log_sigma = ((1 - alphas_bar) / alphas_bar.clamp(min=2**-24)).log() / 2
    high = min(low + 1, len(alphas_bar) - 1)
    return 1 / (1 + ((1 - part) * log_sigma[low] + part * log_sigma[high]).exp() ** 2)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_and_target_equal_diffusers(schedule):
    scheduler = DDPMScheduler(beta_schedule=schedule)
    x_0, eps = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 10, 500, 999])
    alpha_bar = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    assert_close(add_noise(x_0, eps, alpha_bar), scheduler.add_noise(x_0, eps, t))
    assert_close(target("v_prediction", x_0, eps, alpha_bar), scheduler.get_velocity(x_0, eps, t))


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_output_and_x_0_are_inverse(kind):
    x_0, eps = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    alpha_bar = torch.tensor([0.9, 0.2]).view(-1, 1, 1, 1)
    x_t = add_noise(x_0, eps, alpha_bar)
    output = target(kind, x_0, eps, alpha_bar)
    assert_close(to_x_0(kind, output, x_t, alpha_bar), x_0)
    assert_close(from_x_0(kind, x_0, x_t, alpha_bar), output)


def test_the_error_of_v_is_that_of_the_noise_over_alpha_bar():
    x_0, eps, guess = torch.randn(3, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    alpha_bar = torch.tensor(0.3).view(1, 1, 1, 1)
    x_t = add_noise(x_0, eps, alpha_bar)
    guessed_v = from_x_0("v_prediction", to_x_0("epsilon", guess, x_t, alpha_bar), x_t, alpha_bar)
    error_v = (guessed_v - target("v_prediction", x_0, eps, alpha_bar)).square().mean()
    assert_close(error_v, (guess - eps).square().mean() / 0.3)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_perfect_model_gets_its_image_back(name, kind):
    config = process(kind)
    x_0 = torch.rand(2, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = initial_noise(generators(2), (2, 8, 8))
    scheduler = build_scheduler(name, config)
    *_, last = denoise(
        oracle(config, x_0), scheduler, noise, steps=8, clip=1.0, generators=generators(2)
    )
    # epsilon at the noisiest step divides rounding errors by sqrt(alpha_bar) = 5e-5
    assert_close(last, x_0, atol=2e-2 if kind == "epsilon" else 2e-3, rtol=0)


@pytest.mark.parametrize("changes", PROCESSES, ids=lambda c: "-".join(map(str, c.values())))
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_gaussian_is_sampled_with_its_own_mean_and_variance(name, changes):
    """Where x_0 ~ N(m, s²) the best denoiser is known in closed form, and the sample's law too."""
    mean, variance = 0.4, 0.09
    config = process(**changes)
    alphas_bar = build_scheduler("ddpm", config).alphas_cumprod

    def model(x_t, t):
        alpha_bar = between(alphas_bar, t)
        gain = alpha_bar.sqrt() * variance / (alpha_bar * variance + 1 - alpha_bar)
        x_0 = mean + gain * (x_t - alpha_bar.sqrt() * mean)
        return from_x_0("v_prediction", x_0, x_t, alpha_bar)

    noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    scheduler = build_scheduler(name, config)
    steps = 500 if name == "ddpm" else 100  # DDPM's small variance is exact in the limit only
    *_, last = denoise(model, scheduler, noise, steps=steps, clip=5.0, generators=generators(1))
    assert last.mean().item() == pytest.approx(mean, abs=0.03)
    assert last.std().item() == pytest.approx(variance**0.5, rel=0.12)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_predictions_are_clipped(name):
    scheduler = build_scheduler(name, process())
    noise = initial_noise(generators(1), (2, 8, 8))
    steps = denoise(
        lambda x_t, t: -50 * torch.ones_like(x_t), scheduler, noise, steps=5, clip=1.5,
        generators=generators(1),
    )  # fmt: skip
    *_, last = steps
    assert last.abs().max() <= 1.5 + 1e-3


@pytest.mark.parametrize("name", SCHEDULERS)
def test_sampling_starts_at_pure_noise(name):
    scheduler = build_scheduler(name, process())
    scheduler.set_timesteps(10)
    assert int(scheduler.timesteps[0]) >= 990
    assert scheduler.alphas_cumprod[-1] < 2e-4


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_way_starts_with_the_noise_and_every_x_t_is_of_unit_variance(name):
    """For x_0 ~ N(0, 1) each x_t is N(0, 1) too, in whatever scale the solver works."""
    config = process()
    alphas_bar = build_scheduler("ddpm", config).alphas_cumprod

    def model(x_t, t):  # the posterior mean of x_0 is sqrt(alpha_bar) x_t
        alpha_bar = between(alphas_bar, t)
        return from_x_0("v_prediction", alpha_bar.sqrt() * x_t, x_t, alpha_bar)

    noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    first, *later = denoise(
        model, build_scheduler(name, config), noise, steps=200, clip=6.0, generators=generators(1)
    )
    assert torch.equal(first, noise)
    assert len(later) >= 200
    assert all(x_t.std().item() == pytest.approx(1, rel=0.12) for x_t in later)


def test_ddpm_draws_from_each_images_own_generator():
    config = process()
    x_0 = torch.zeros(3, 1, 4, 4)

    def run(rows, start):
        noise = initial_noise(generators(rows, start), (1, 4, 4))
        scheduler = build_scheduler("ddpm", config)
        model = oracle(config, x_0[:rows])
        draws = generators(rows, 100 + start)
        return list(denoise(model, scheduler, noise, steps=4, clip=1.0, generators=draws))[-2]

    assert_close(run(3, 0)[2:], run(1, 2))


def test_an_unknown_scheduler_is_told_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'plms'.*ddim"):
        build_scheduler("plms", process())


def test_shifted_timesteps_crowd_at_the_noisy_end():
    def share_above(shift, t=800):
        drawn = sample_timesteps(
            20_000, 1000, shift=shift, generator=torch.Generator().manual_seed(0)
        )
        assert drawn.min() >= 0
        assert drawn.max() <= 999
        return (drawn >= t).float().mean().item()

    assert share_above(1.0) == pytest.approx(0.2, abs=0.01)
    # u = t' / (s - (s - 1) t') is the inverse: t' = 0.8 comes from u = 4/7 where s = 3
    assert share_above(3.0) == pytest.approx(1 - 0.8 / (3 - 2 * 0.8), abs=0.01)
