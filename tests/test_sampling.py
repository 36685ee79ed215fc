"""The sampler without torch gives the numbers of diffusers' schedulers."""

from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    TCDScheduler,
)

from condiff.config import DiffusionConfig, SchedulerName
from condiff.diffusion.diffusers_schedulers import SCHEDULERS, sample_with_diffusers
from condiff.diffusion.parameterization import from_x_0, to_x_0
from condiff.diffusion.sampler import (
    BROAD,
    SAMPLERS,
    damp_broad_noise,
    sample,
    sample_initial_noise,
    spread_over_patches,
)
from condiff.diffusion.schedule import compute_alphas_bar, compute_betas, space_timesteps
from condiff.errors import ConfigError

PROCESSES = {
    "default": {},
    "v": {"rescale_betas_zero_snr": False},
    "epsilon": {
        "prediction_type": "epsilon", "rescale_betas_zero_snr": False, "beta_schedule": "linear",
    },
    "sample": {"prediction_type": "sample"},
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": False},
    "sigmoid": {"beta_schedule": "sigmoid", "num_train_timesteps": 400},
    "shifted": {"schedule_shift": 0.4},
}  # fmt: skip


STOCK = {
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "dpmsolver++": (DPMSolverMultistepScheduler, {"final_sigmas_type": "zero"}),
    "lcm": (LCMScheduler, {"timestep_scaling": 1e6}),  # no skip connection
    "tcd": (TCDScheduler, {}),
}


def stock_scheduler(name, config):
    kind, options = STOCK[name]
    process = config.model_dump(
        include={
            "num_train_timesteps", "beta_schedule", "rescale_betas_zero_snr", "prediction_type",
        }
    )  # fmt: skip
    if kind is not DDPMScheduler and config.beta_schedule == "sigmoid":
        process["trained_betas"] = DDPMScheduler(
            config.num_train_timesteps, beta_schedule="sigmoid"
        ).betas.tolist()
    if config.schedule_shift != 1:
        process["trained_betas"] = compute_betas(config).tolist()
    given = {"beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}
    return kind(**given | process | options)


def stock_samples(name, config, model, noise, *, steps, clip, generator):
    """Every x_t of diffusers' scheduler, with predictions clipped as in condiff."""
    scheduler, kind = stock_scheduler(name, config), config.prediction_type
    if name in ("lcm", "tcd"):  # their own spacing is that of a distillation
        timesteps = space_timesteps(config.num_train_timesteps, steps)
        scheduler.set_timesteps(timesteps=timesteps, original_inference_steps=steps)
    else:
        scheduler.set_timesteps(steps)
    draws = {"generator": generator} if name in ("ddpm", "lcm", "tcd") else {}
    x_t = noise
    yield x_t
    for t in scheduler.timesteps:
        alpha_bar = scheduler.alphas_cumprod[t]
        x_0 = to_x_0(kind, model(x_t, float(t)), x_t, alpha_bar).clamp(-clip, clip)
        x_t = scheduler.step(from_x_0(kind, x_0, x_t, alpha_bar), t, x_t, **draws).prev_sample
        if name == "tcd" and t == scheduler.timesteps[-1]:
            x_t = x_0  # theirs ends at timestep 0, which has noise
        yield x_t


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_alphas_bar_are_those_of_diffusers(process):
    config = DiffusionConfig(**process)
    theirs = stock_scheduler("ddpm", config).alphas_cumprod.numpy()
    np.testing.assert_allclose(compute_alphas_bar(config), theirs, rtol=1e-5, atol=2e-7)


def curve(x, t):
    """A network: a curve of x_t and t, in NumPy or torch."""
    sine = torch.sin if isinstance(x, torch.Tensor) else np.sin
    return 0.8 * sine(1.5 * x + float(np.float32(t / 300)))


@pytest.mark.parametrize("scheduler", SAMPLERS)
@pytest.mark.parametrize(
    ("process", "steps"),
    [(name, steps) for name in PROCESSES for steps in (1, 2, 4, 7, 25)]
    + [("default", steps) for steps in (3, 10, 50)],
)
def test_every_x_t_is_that_of_diffusers(process, steps, scheduler):
    """Equal to 3e-5 of a clip of 2."""
    atol = 3e-5
    config = DiffusionConfig(**PROCESSES[process])
    if scheduler == "ddim" and config.num_train_timesteps % steps:
        pytest.skip("there, diffusers does not step from one timestep to the next")
    noise = sample_initial_noise(steps, (1, 2, 6, 5))

    def noise_of(seed):
        generator = torch.Generator().manual_seed(seed)
        return lambda shape: torch.randn(shape, generator=generator)

    source = noise_of(5)

    def numpy_noise(shape):
        return source(shape).numpy()

    how = {"scheduler": scheduler, "config": config, "steps": steps, "clip": 2.0}
    in_numpy = sample(curve, noise, **how, sample_noise=numpy_noise)
    in_torch = sample(curve, torch.from_numpy(noise), **how, sample_noise=noise_of(5))
    theirs = stock_samples(
        scheduler, config, curve, torch.from_numpy(noise), steps=steps, clip=2.0,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    for one, other, x_t in zip(in_numpy, in_torch, theirs, strict=True):
        assert one.dtype == np.float32 and other.dtype == torch.float32
        np.testing.assert_allclose(one, x_t.numpy(), atol=atol)
        np.testing.assert_allclose(other.numpy(), x_t.numpy(), atol=atol)


@pytest.mark.parametrize("steps", [50, 60, 150, 300, 501])
def test_ddim_keeps_the_spread_of_the_data_at_any_number_of_steps(steps):
    """For x_0 of N(0, 0.5^2) the best prediction is known, and steps make x_t follow its spread."""
    config, spread = DiffusionConfig(prediction_type="sample"), 0.5
    alphas_bar = compute_alphas_bar(config)

    def predict(x_t, t):
        alpha_bar = alphas_bar[int(t)]
        kept = np.sqrt(alpha_bar) * spread**2
        return (kept / (alpha_bar * spread**2 + 1 - alpha_bar) * x_t).astype(np.float32)

    noise = sample_initial_noise(0, (1, 1, 128, 128))
    *_, x_0 = sample(predict, noise, scheduler="ddim", config=config, steps=steps, clip=9.0)
    assert 0.94 < x_0.std() / spread < 1.0  # 1 in the limit of many steps


@pytest.mark.parametrize("scheduler", dict.fromkeys([*SAMPLERS, *SCHEDULERS]))
@pytest.mark.parametrize("kind", [np.ndarray, torch.Tensor])
def test_arrays_stay_of_their_kind_for_the_whole_loop(kind, scheduler):
    noise = sample_initial_noise(3, (1, 2, 6, 5))
    seen = []

    def watched(x_t, t):
        seen.append(type(x_t))
        return curve(x_t, t)

    def convert(array):
        return torch.from_numpy(array) if kind is torch.Tensor else array

    chosen = sample if scheduler in SAMPLERS else sample_with_diffusers
    yielded = chosen(
        watched, convert(noise), scheduler=scheduler, config=DiffusionConfig(), steps=3, clip=2.0,
        sample_noise=lambda shape: convert(sample_initial_noise(4, shape)),
    )  # fmt: skip
    assert {type(x_t) for x_t in yielded} == set(seen) == {kind}


def test_every_scheduler_has_one_sampler():
    assert SAMPLERS.keys() | SCHEDULERS.keys() == set(get_args(SchedulerName))
    assert SAMPLERS.keys() & SCHEDULERS.keys() == {"ddpm"}  # of model folders


def test_timesteps_begin_at_the_last():
    assert space_timesteps(1000, 4) == [999, 749, 499, 249]
    assert space_timesteps(1000, 1) == [999]
    assert len(space_timesteps(300, 7)) == 7  # 300 - 7 * (300 / 7) is above 0 in floating point


def test_noise_is_normal_differs_by_seed_and_is_this_for_good():
    noise = sample_initial_noise(3, (2, 200, 200))
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert (
        abs(np.corrcoef(noise.ravel(), sample_initial_noise(4, (2, 200, 200)).ravel())[0, 1]) < 0.01
    )
    assert sample_initial_noise(2**40, (1,)).dtype == np.float32
    np.testing.assert_array_equal(sample_initial_noise(7, (2,)), FROZEN)
    with pytest.raises(ConfigError, match="0 or more, not -1"):
        sample_initial_noise(-1, (1,))


FROZEN = np.array([0.983802318572998, -1.4327963590621948], np.float32)


def test_noise_over_patches_has_the_means_that_noise_of_single_pixels_has():
    drawn = sample_initial_noise(3, (1, 2, 100, 60))
    spread = spread_over_patches(drawn, 2)
    assert spread.shape == (1, 2, 200, 120) and spread.dtype == np.float32
    corners = spread[..., ::2, ::2], spread[..., 1::2, ::2], spread[..., 1::2, 1::2]
    assert all(np.array_equal(corner, drawn / 2) for corner in corners)
    single = sample_initial_noise(4, spread.shape).reshape(1, 2, 100, 2, 60, 2).mean((3, 5))
    assert spread.std() == pytest.approx(single.std(), rel=0.03)
    assert spread_over_patches(drawn, 1) is drawn


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (5, 9), (16, 8)])
def test_calm_noise_has_no_broad_areas_left(size):
    noise = sample_initial_noise(3, (1, 2, *size))
    still = damp_broad_noise(noise, variety=0)
    rows, columns = (max(1, round(side / BROAD)) for side in size)
    for row in range(rows):
        for column in range(columns):
            ys = [y for y in range(size[0]) if y * rows // size[0] == row]
            xs = [x for x in range(size[1]) if x * columns // size[1] == column]
            block = still[:, :, ys][..., xs]
            assert np.abs(block.mean((2, 3))).max() < 1e-6
    half = damp_broad_noise(noise, variety=0.5)
    assert np.allclose(half, (noise + still) / 2, atol=1e-6)
    assert damp_broad_noise(noise, variety=1) is noise
