"""The training loss of one batch, including all its random numbers."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from condiff.color.hints import hints_from_mask, sample_hint_mask
from condiff.color.lab import lab_to_rgb_batch
from condiff.config import DataConfig, TrainConfig
from condiff.data.crops import Batch
from condiff.diffusion.loss import (
    drop_words_and_picture,
    loss_weight,
    sample_kept,
    sample_timesteps_and_noise,
    squared_error,
)
from condiff.diffusion.parameterization import to_x_0
from condiff.spaces import Chroma
from condiff.tasks import Task
from condiff.training.reference_hints import add_references, sample_matches

PERCEIVED_SIZE = 128  # side of the pictures in the perceptual term
PERCEIVED_STRIDES = (4, 8, 16, 32)  # of the backbone's maps
# (predicted x_0, x_0, condition) -> the distance (B,) of the two pictures
Distance = Callable[[Tensor, Tensor, Tensor], Tensor]


def batch_error(
    model: Callable[..., Tensor],
    batch: Batch,
    number: int,
    *,
    config: TrainConfig,
    task: Task,
    alphas_bar: Tensor,
    perceptual: Distance | None = None,
    process: int = 0,
    num_processes: int = 1,
) -> tuple[Tensor, Tensor]:
    """Weighted squared error (B,) and timesteps (B,) of a process's share of batch `number`.

    Timesteps, noise, dropped conditions and hints are a function of (seed, number): every process
    samples them for the whole batch and uses its own rows. `perceptual`, if not None, is added to
    each image's error, weighted by diffusion.perceptual_weight.
    """
    x_0, condition = batch["x_0"], batch["condition"]
    device, size = x_0.device, config.model.sample_size
    if x_0.shape[-1] != size:
        x_0 = F.interpolate(x_0, (size, size), mode="area")
    share = slice(len(x_0) * process, len(x_0) * (process + 1))
    total = len(x_0) * num_processes
    seed = seed_of(config.seed, number)
    # For dropout of a pretrained U-Net: independent of timesteps and noise.
    torch.manual_seed(seed + 1 + process)
    generator = torch.Generator(device).manual_seed(seed)
    if task.space.is_latent:
        x_0 = sample_latents(x_0, total, share, generator)
    t, eps = sample_timesteps_and_noise(
        (total, *x_0.shape[1:]),
        num_train_timesteps=len(alphas_bar),
        config=config.diffusion,
        generator=generator,
        device=device,
    )
    t, eps = t[share], eps[share]
    prob = config.diffusion.cond_drop_prob
    given: dict[str, Any] = _sample_kept(total, share, generator, prob=prob, words=task.takes_text)
    if task.space.is_latent:
        given["words"] = batch["words"]
    else:
        given |= {"features": batch["features"], "hints": None, "tokens": batch.get("tokens")}
    if task.hint_channels:
        given["hints"] = _sample_hints(x_0, condition, total, share, generator, config=config.data)
    made: dict[str, Tensor] = {}

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        made.update(x_t=x_t, output=model(x_t, t, condition, **given))
        return made["output"]

    error = squared_error(predict, x_0, t, eps, alphas_bar=alphas_bar, config=config.diffusion)
    error = error * loss_weight(alphas_bar[t], config=config.diffusion)
    if perceptual is not None:
        alpha_bar = alphas_bar[t].view(-1, 1, 1, 1)
        kind = config.diffusion.prediction_type
        found = to_x_0(kind, made["output"].float(), made["x_t"], alpha_bar)
        distance = perceptual(found, x_0, condition)
        error = error + config.diffusion.perceptual_weight * distance
    return error, t


def _sample_kept(
    total: int, share: slice, generator: torch.Generator, *, prob: float, words: bool
) -> dict[str, Tensor]:
    """1 or 0 for pictures, and for `words` if any: kept, or dropped for guidance."""
    device = generator.device
    if words:
        kept, words_kept = drop_words_and_picture(
            total, prob=prob, generator=generator, device=device
        )
        return {"kept": kept[share], "words_kept": words_kept[share]}
    kept = sample_kept(total, prob=prob, generator=generator, device=device)
    return {"kept": kept[share]}


def _sample_hints(
    x_0: Tensor,
    lightness: Tensor,
    total: int,
    share: slice,
    generator: torch.Generator,
    *,
    config: DataConfig,
) -> Tensor:
    """Hints (B,C+1,h,w) for x_0 (B,C,h,w), the `share` of a whole batch of `total`.

    Simulated hints of a user, and of a reference if configured.
    """
    shape = (total, x_0.shape[2], x_0.shape[3])
    mask = sample_hint_mask(
        shape,
        hint_prob=config.hint_prob,
        max_hints=config.max_hints,
        generator=generator,
        device=x_0.device,
    )
    hints = hints_from_mask(x_0, mask[share])
    if not config.reference_prob:
        return hints
    matches = sample_matches(shape, prob=config.reference_prob, generator=generator)
    return add_references(hints, x_0, lightness, matches.rows(share), scale=Chroma.scale)


def sample_latents(moments: Tensor, total: int, share: slice, generator: torch.Generator) -> Tensor:
    """x_0 (B,C,h,w), a sample of a VAE's normal distribution (mean and deviation, (B,2C,h,w)).

    The noise is the `share` of the noise of a whole batch of `total`.
    """
    mean, deviation = moments.chunk(2, dim=1)
    shape = (total, *mean.shape[1:])
    noise = torch.randn(shape, generator=generator, device=moments.device)
    return mean + deviation * noise[share]


def perceptual_distance(
    backbone: Callable[[Tensor], dict[int, Tensor]], found: Tensor, x_0: Tensor, condition: Tensor
) -> Tensor:
    """Perceptual distance (B,) of two pictures with the same L*, by a backbone.

    `found` and `x_0` are chroma (B,2,h,w) in x_0's units, `condition` is L* (B,1,H,W) in [-1,1].
    The pictures are compared at PERCEIVED_SIZE: the squared distance of the backbone's maps,
    divided by the mean square of the truth's map, averaged over the strides (Johnson et al. 2016,
    arXiv:1603.08155).
    """
    size = (PERCEIVED_SIZE, PERCEIVED_SIZE)
    lightness = 50 * (F.interpolate(condition, size, mode="area") + 1)

    def look(chroma: Tensor) -> dict[int, Tensor]:
        wide = F.interpolate(chroma, size, mode="bilinear", align_corners=False)
        return backbone(lab_to_rgb_batch(torch.cat([lightness, Chroma.scale * wide], dim=1)))

    with torch.no_grad():
        theirs = look(x_0)
    ours = look(found.clamp(-Chroma.clip, Chroma.clip))
    distances = []
    for stride in PERCEIVED_STRIDES:
        true = theirs[stride].float()
        gap = (ours[stride].float() - true).square().mean(dim=(1, 2, 3))
        distances.append(gap / true.square().mean(dim=(1, 2, 3)).clamp(min=1e-6))
    return torch.stack(distances).mean(dim=0)


def seed_of(seed: int, number: int) -> int:
    """The seed of batch `number` of a run; neighbouring batches get unrelated seeds."""
    return (seed * 1_000_003 + number) * 2654435761 % 2**62
