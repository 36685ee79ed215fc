"""The noise process: alpha_bar at each timestep, and the timesteps of sampling and of training."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from condiff.config import DiffusionConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Array = NDArray[Any]  # float32

MAX_BETA = 0.999


def compute_betas(config: DiffusionConfig) -> Array:
    """beta_t (T,) of the schedule and its shift, before the rescaling to zero terminal SNR.

    The shift adds 2 log(schedule_shift) to log SNR (Hoogeboom et al. 2023, arXiv:2301.11093).
    """
    count = config.num_train_timesteps
    start, end = config.beta_start, config.beta_end
    if config.beta_schedule == "squaredcos_cap_v2":
        edges = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - edges[1:] / edges[:-1], MAX_BETA)
    elif config.beta_schedule == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, count) ** 2
    else:
        u = np.linspace(0, 1, count)
        if config.beta_schedule == "sigmoid":
            u = 1 / (1 + np.exp(6 - 12 * u))
        betas = start + u * (end - start)
    betas = betas.astype(np.float32)
    if config.schedule_shift != 1:
        alphas_bar = np.cumprod(1 - betas.astype(float))
        shifted = config.schedule_shift**2 * alphas_bar
        shifted /= shifted + 1 - alphas_bar
        betas = (1 - shifted / np.append(1, shifted[:-1])).astype(np.float32)
    return betas


def compute_alphas_bar(config: DiffusionConfig) -> Array:
    """alpha_bar (T,) as in diffusers' schedulers of that configuration.

    It is rounded to single precision in the same places as theirs: at the noisy end predictions
    are divided by it, so that rounding shows.
    """
    betas = compute_betas(config)
    alphas_bar = np.cumprod(1 - betas, dtype=float).astype(np.float32)
    if config.rescale_betas_zero_snr:  # Lin et al. 2023, arXiv:2305.08891, algorithm 1
        first, last = np.sqrt(alphas_bar[[0, -1]])
        alphas_bar = ((np.sqrt(alphas_bar) - last) * (first / (first - last))) ** 2
    return alphas_bar


def space_timesteps(num_train_timesteps: int, steps: int) -> list[int]:
    """`steps` timesteps from the last one down, evenly spaced ("trailing")."""
    spaced = np.round(np.arange(num_train_timesteps, 0, -num_train_timesteps / steps))
    return [int(t) - 1 for t in spaced[:steps]]


def sample_timesteps(
    count: int,
    num_train_timesteps: int,
    *,
    shift: float = 1.0,
    power: float = 1.0,
    generator: "torch.Generator | None" = None,
    device: "torch.device | str" = "cpu",
) -> "Tensor":
    """Timesteps (count,) for training: uniform, or crowded towards the noisy end.

    `shift` > 1: u -> shift u / (1 + (shift - 1) u), Esser et al. 2024 (arXiv:2403.03206), eq. 23.
    `power` > 1: u -> 1 - u^power, a density of (1 - t/T)^(1/power - 1) / power / T. Chroma is
    smooth, so colours are decided in the noisiest fifth; uniform t gives it a fifth of the steps.
    """
    import torch

    u = torch.rand(count, generator=generator, device=device)
    if power != 1:
        u = 1 - u**power
    shifted = shift * u / (1 + (shift - 1) * u)
    return (shifted * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)
