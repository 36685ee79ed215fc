"""The mathematics compared with diffusers' numbers and closed forms."""

from typing import get_args

import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close

from condiff.config import BetaSchedule, DiffusionConfig, SchedulerName
from condiff.diffusion.diffusers_schedulers import build_scheduler, sample_with_diffusers
from condiff.diffusion.parameterization import add_noise, from_x_0, target, to_x_0
from condiff.diffusion.sampler import SAMPLERS, sample
from condiff.diffusion.schedule import compute_alphas_bar, sample_timesteps
from condiff.errors import ConfigError

NAMES = get_args(SchedulerName)
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


def run(name, model, noise, *, config, steps, clip):
    """All x_t of a sampler of condiff or diffusers, the noise first."""
    generator = torch.Generator().manual_seed(1)
    return list(
        (sample if name in SAMPLERS else sample_with_diffusers)(
            model, noise, scheduler=name, config=config, steps=steps, clip=clip,
            sample_noise=lambda shape: torch.randn(shape, generator=generator),
        )
    )  # fmt: skip


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def oracle(config, x_0):
    """The perfect model of a single image: its output corresponds to x_0."""
    alphas_bar = build_scheduler("ddpm", config).alphas_cumprod

    def model(x_t, t):
        return from_x_0(config.prediction_type, x_0, x_t, between(alphas_bar, t))

    return model


def ideal_x_0(name, x_t, alpha_bar, *, mean, variance):
    """The prediction of the optimal model for x_0 ~ N(mean, variance).

    It is the mean of x_0 given x_t, and for lcm the end of the probability flow through x_t.
    """
    spread = alpha_bar * variance + 1 - alpha_bar
    posterior = alpha_bar.sqrt() * variance / spread
    gain = (variance / spread).sqrt() if name == "lcm" else posterior
    return mean + gain * (x_t - alpha_bar.sqrt() * mean)


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
@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_model_gets_its_image_back(name, kind):
    config = process(kind)
    x_0 = torch.rand(2, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    model = oracle(config, x_0)
    *_, last = run(name, model, normal(2, 2, 8, 8), config=config, steps=8, clip=1.0)
    # epsilon at the noisiest step divides rounding errors by sqrt(alpha_bar) = 5e-5
    assert_close(last, x_0, atol=2e-2 if kind == "epsilon" else 2e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param(name, changes, id="-".join(map(str, (name, *changes.values()))))
        for name in NAMES
        if name != "tcd"  # which jumps far
        for changes in (PROCESSES if name in SAMPLERS else PROCESSES[1::4])
    ],
)
def test_a_gaussian_is_sampled_with_its_own_mean_and_variance(name, changes):
    """For x_0 ~ N(m, s²) the optimal denoiser and the samples' distribution have closed forms."""
    mean, variance = 0.4, 0.09
    config = process(**changes)
    alphas_bar = build_scheduler("ddpm", config).alphas_cumprod

    def model(x_t, t):
        alpha_bar = between(alphas_bar, t)
        x_0 = ideal_x_0(name, x_t, alpha_bar, mean=mean, variance=variance)
        return from_x_0("v_prediction", x_0, x_t, alpha_bar)

    steps = 500 if name == "ddpm" else 100  # DDPM's small variance is exact in the limit only
    *_, last = run(name, model, normal(1, 1, 64, 64), config=config, steps=steps, clip=5.0)
    assert last.mean().item() == pytest.approx(mean, abs=0.03)
    assert last.std().item() == pytest.approx(variance**0.5, rel=0.12)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_clipped(name):
    def model(x_t, t):
        return -50 * torch.ones_like(x_t)

    *_, last = run(name, model, normal(1, 2, 8, 8), config=process(), steps=5, clip=1.5)
    assert last.abs().max() <= 1.5 + 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_sampling_starts_at_pure_noise(name):
    timesteps = []

    def model(x_t, t):
        timesteps.append(t)
        return torch.zeros_like(x_t)

    run(name, model, normal(1, 1, 4, 4), config=process(), steps=10, clip=1.0)
    assert timesteps[0] >= 990
    assert compute_alphas_bar(process())[-1] == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_way_starts_with_the_noise_and_every_x_t_is_of_unit_variance(name):
    """For x_0 ~ N(0, 1) each x_t is also N(0, 1), in any scale of the solver."""
    config = process()
    alphas_bar = build_scheduler("ddpm", config).alphas_cumprod

    def model(x_t, t):
        alpha_bar = between(alphas_bar, t)
        x_0 = ideal_x_0(name, x_t, alpha_bar, mean=0.0, variance=1.0)
        return from_x_0("v_prediction", x_0, x_t, alpha_bar)

    noise = normal(1, 1, 64, 64)
    first, *later = run(name, model, noise, config=config, steps=200, clip=6.0)
    assert torch.equal(first, noise)
    assert len(later) >= 200
    assert all(x_t.std().item() == pytest.approx(1, rel=0.12) for x_t in later)


@pytest.mark.parametrize("name", ["ddpm", "lcm", "tcd"])
def test_a_sampler_that_adds_noise_takes_some_for_every_step_but_the_last(name):
    config, shapes = process(), []

    def model(x_t, t):
        return 0 * x_t

    def no_noise(shape):
        shapes.append(shape)
        return torch.zeros(shape)

    given = {"scheduler": name, "config": config, "steps": 4, "clip": 1.0}
    list(sample(model, normal(3, 1, 4, 6), **given, sample_noise=no_noise))
    assert shapes == [(3, 1, 4, 6)] * 3
    with pytest.raises(ConfigError, match=f"{name} adds noise"):
        list(sample(model, normal(3, 1, 4, 6), **given))


def test_an_unknown_scheduler_is_told_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'plms'.*unipc"):
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
