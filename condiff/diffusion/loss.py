"""The training loss: timesteps and noise, the weighted squared error, dropped conditions."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from condiff.config import DiffusionConfig
from condiff.diffusion.parameterization import add_noise, target
from condiff.diffusion.schedule import sample_timesteps

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> model output


def sample_timesteps_and_noise(
    shape: Sequence[int],
    *,
    num_train_timesteps: int,
    config: DiffusionConfig,
    generator: torch.Generator | None,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """The timesteps t (B,) and the noise eps (B,C,h,w) of a training batch of that shape.

    `offset_noise` times one normal number per channel is added to all its pixels, so that the mean
    of an image is learned, too (Guttenberg 2023, "Diffusion with Offset Noise").
    """
    t = sample_timesteps(
        shape[0],
        num_train_timesteps,
        shift=config.timestep_shift,
        power=config.timestep_power,
        generator=generator,
        device=device,
    )
    eps = torch.randn(*shape, generator=generator, device=device)
    if config.offset_noise:
        common = torch.randn(*shape[:2], 1, 1, generator=generator, device=device)
        eps = eps + config.offset_noise * common
    return t, eps


def squared_error(
    model: Denoiser,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    *,
    alphas_bar: Tensor,
    config: DiffusionConfig,
) -> Tensor:
    """The squared error (B,) of what the model predicts, unweighted, in single precision.

    alphas_bar is (T,); `model` is called with (x_t, t). The loss is (loss_weight * this).mean().
    """
    alpha_bar = alphas_bar[t].view(-1, 1, 1, 1)
    model_output = model(add_noise(x_0, eps, alpha_bar), t)
    error = model_output.float() - target(config.prediction_type, x_0, eps, alpha_bar)
    return error.square().mean(dim=(1, 2, 3))


def loss_weight(alpha_bar: Tensor, *, config: DiffusionConfig) -> Tensor:
    """The weight (B,) of the squared error of the predicted quantity, at alpha_bar (B,).

    min_snr weights the error of x_0 by min(SNR, gamma) (Hang et al. 2023, arXiv:2303.09556), p2
    that of the noise by 1/(k + SNR)^gamma (Choi et al. 2022, arXiv:2204.00227). For other
    predictions the weight is converted, so that the loss is the same: the squared error of the
    noise is SNR times that of x_0, and alpha_bar times that of v. No weight is less than
    `loss_weight_floor`, so that pure noise, whose SNR is 0, is trained, too.
    """
    return _unfloored_weight(alpha_bar, config).clamp(min=config.loss_weight_floor)


def _unfloored_weight(alpha_bar: Tensor, config: DiffusionConfig) -> Tensor:
    if config.loss_weighting == "none":
        return torch.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    if config.loss_weighting == "min_snr":
        of_noise = (config.min_snr_gamma / snr).clamp(max=1)
    else:
        of_noise = (config.p2_k + snr) ** -config.p2_gamma
    if config.prediction_type == "epsilon":
        return of_noise
    return of_noise * (snr if config.prediction_type == "sample" else alpha_bar)


def sample_kept(
    count: int, *, prob: float, generator: torch.Generator | None, device: torch.device | str
) -> Tensor:
    """1 or 0 for each condition (B,1,1,1): kept, or left out so that guidance is learnt.

    It is left out with `prob` (Ho & Salimans 2022, arXiv:2207.12598). With a `prob` of 0 no random
    numbers are drawn.
    """
    if not prob:
        return torch.ones((count, 1, 1, 1), device=device)
    chance = torch.rand(count, generator=generator, device=device)
    return (chance >= prob).float().view(-1, 1, 1, 1)


def drop_words_and_picture(
    count: int, *, prob: float, generator: torch.Generator | None, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """1 or 0 for picture (B,1,1,1) and words (B,1,1): kept, or left out so that guidance is learnt.

    For each image, words alone, picture alone and both are left out with `prob` each, as in
    InstructPix2Pix (Brooks et al. 2022, arXiv:2211.09800).
    """
    chance = torch.rand(count, generator=generator, device=device)
    words = (chance >= 2 * prob).float()
    picture = ((chance < prob) | (chance >= 3 * prob)).float()
    return picture.view(-1, 1, 1, 1), words.view(-1, 1, 1)
