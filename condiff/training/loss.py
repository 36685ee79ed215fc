"""The training loss of one batch, with all random numbers that it takes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from condiff.color.hints import hints_from_mask, sample_hint_mask
from condiff.config import TrainConfig
from condiff.data.crops import Batch
from condiff.diffusion.loss import (
    drop_condition,
    loss_weight,
    sample_timesteps_and_noise,
    squared_error,
)
from condiff.tasks import Task


def batch_error(
    model: Callable[..., Tensor],
    batch: Batch,
    number: int,
    *,
    config: TrainConfig,
    task: Task,
    alphas_bar: Tensor,
    process: int = 0,
    num_processes: int = 1,
) -> tuple[Tensor, Tensor]:
    """Weighted squared error (B,) and timesteps (B,) of a process's share of batch `number`.

    Timesteps, noise, dropped conditions and hints are a function of (seed, number): every process
    samples them for the whole batch and uses its own rows.
    """
    x_0, condition = batch["x_0"], batch["condition"]
    device, size = x_0.device, config.model.sample_size
    if x_0.shape[-1] != size:
        x_0 = F.interpolate(x_0, (size, size), mode="area")
    share = slice(len(x_0) * process, len(x_0) * (process + 1))
    total = len(x_0) * num_processes
    seed = seed_of(config.seed, number)
    torch.manual_seed(seed + process)  # for dropout, where a pretrained U-Net has any
    generator = torch.Generator(device).manual_seed(seed)
    t, eps = sample_timesteps_and_noise(
        (total, *x_0.shape[1:]),
        num_train_timesteps=len(alphas_bar),
        config=config.diffusion,
        generator=generator,
        device=device,
    )
    t, eps = t[share], eps[share]
    kept = torch.ones((total, 1, 1, 1), device=device)
    kept = drop_condition(kept, prob=config.diffusion.cond_drop_prob, generator=generator)[share]
    hints = None
    if task.hint_channels:
        mask = sample_hint_mask(
            (total, size, size),
            hint_prob=config.data.hint_prob,
            max_hints=config.data.max_hints,
            generator=generator,
            device=device,
        )
        hints = hints_from_mask(x_0, mask[share])
    error = squared_error(
        lambda x_t, t: model(x_t, t, condition, features=batch["features"], hints=hints, kept=kept),
        x_0,
        t,
        eps,
        alphas_bar=alphas_bar,
        config=config.diffusion,
    )
    return error * loss_weight(alphas_bar[t], config=config.diffusion), t


def seed_of(seed: int, number: int) -> int:
    """The seed of batch `number` of a run; neighbouring batches get unrelated seeds."""
    return (seed * 1_000_003 + number) * 2654435761 % 2**62
