"""The sampler without torch: the numbers of diffusers' schedulers."""

import numpy as np
import pytest
import torch

from condiff.config import DiffusionConfig
from condiff.diffusion.diffusers_schedulers import build_scheduler, denoise
from condiff.diffusion.sampler import (
    BROAD,
    SAMPLERS,
    damp_broad_noise,
    sample,
    sample_initial_noise,
)
from condiff.diffusion.schedule import compute_alphas_bar, space_timesteps
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


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_alphas_bar_are_those_of_diffusers(process):
    config = DiffusionConfig(**process)
    theirs = build_scheduler("ddim", config).alphas_cumprod.numpy()
    np.testing.assert_allclose(compute_alphas_bar(config), theirs, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("scheduler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 10, 25, 50])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_every_x_t_is_that_of_diffusers(process, steps, scheduler):
    """The network is a curve of x_t and t; equal to 3e-5 of a clip of 2."""
    config = DiffusionConfig(**process)
    noise = sample_initial_noise(steps, (1, 2, 6, 5))

    def curve(x, t):
        return 0.8 * np.sin(1.5 * x + np.float32(t / 300))

    def torch_curve(x, t):
        assert isinstance(x, torch.Tensor)  # it never leaves torch
        return 0.8 * torch.sin(1.5 * x + torch.tensor(t / 300, dtype=torch.float32))

    def noise_of(seed):
        generator = torch.Generator().manual_seed(seed)
        return lambda shape: torch.randn(shape, generator=generator)

    source = noise_of(5)

    def numpy_noise(shape):
        return source(shape).numpy()

    how = {"scheduler": scheduler, "config": config, "steps": steps, "clip": 2.0}
    in_numpy = sample(curve, noise, **how, sample_noise=numpy_noise)
    in_torch = sample(torch_curve, torch.from_numpy(noise), **how, sample_noise=noise_of(5))
    theirs = denoise(
        lambda x, t: torch.from_numpy(curve(x.numpy(), float(t))),
        build_scheduler(scheduler, config), torch.from_numpy(noise), steps=steps, clip=2.0,
        generators=[torch.Generator().manual_seed(5)],
    )  # fmt: skip
    for one, other, x_t in zip(in_numpy, in_torch, theirs, strict=True):
        assert one.dtype == np.float32 and other.dtype == torch.float32
        np.testing.assert_allclose(one, x_t.numpy(), atol=3e-5)
        np.testing.assert_allclose(other.numpy(), x_t.numpy(), atol=3e-5)


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
