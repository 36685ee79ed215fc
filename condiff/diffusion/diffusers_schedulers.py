"""Samplers by diffusers, and the scheduler that a model folder contains."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from condiff.config import DiffusionConfig
from condiff.diffusion.parameterization import from_x_0, to_x_0
from condiff.diffusion.sampler import Predict, SampleNoise
from condiff.errors import ConfigError

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> model output

# "leading", the default of some schedulers, starts below T, where the model expects a little of the
# image in the noise: results get dull, brown casts.
TIMESTEP_SPACING = "trailing"

SCHEDULERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True}),
    "dpmsolver++": (DPMSolverMultistepScheduler, {"final_sigmas_type": "zero"}),
    "unipc": (UniPCMultistepScheduler, {"final_sigmas_type": "zero"}),
    "euler": (EulerDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {"use_karras_sigmas": True}),
}
SIGMA_SPACE = (EulerDiscreteScheduler, HeunDiscreteScheduler)  # x_t / sqrt(alpha_bar) inside

# A step of Heun overshoots by half the ratio of two neighbouring sigmas, so the first sigma must
# not be infinite. Its steps start and are spaced as in Karras et al. 2022.
HEUN_MAX_SIGMA = 80.0

PROCESS = {"num_train_timesteps", "beta_schedule", "rescale_betas_zero_snr", "prediction_type"}


def build_scheduler(name: str, config: DiffusionConfig) -> Any:
    """A diffusers scheduler by its short name, with trailing spacing.

    Clipping is left to `denoise`, which does the same for all of them. Raises ConfigError for an
    unknown name.
    """
    if name not in SCHEDULERS:
        raise ConfigError(f"There is no scheduler {name!r}: choose from {', '.join(SCHEDULERS)}.")
    kind, options = SCHEDULERS[name]
    process = config.model_dump(include=PROCESS) | {"trained_betas": trained_betas(config)}
    if kind is HeunDiscreteScheduler:
        del process["rescale_betas_zero_snr"]
        alphas_bar = build_scheduler("ddpm", config).alphas_cumprod
        # alpha_bar must keep falling, since diffusers interpolates between neighbours
        least = torch.linspace(1.01, 1, len(alphas_bar)) / (1 + HEUN_MAX_SIGMA**2)
        alphas_bar = alphas_bar.maximum(least)
        before = torch.cat([alphas_bar.new_ones(1), alphas_bar[:-1]])
        process["trained_betas"] = (1 - alphas_bar / before).tolist()
    return kind(**process, **options, timestep_spacing=TIMESTEP_SPACING)


def trained_betas(config: DiffusionConfig) -> list[float] | None:
    """beta_t (T,) of a shifted or a sigmoid schedule; None for schedules that diffusers knows.

    The shift adds 2 log(schedule_shift) to log SNR (Hoogeboom et al. 2023, arXiv:2301.11093)
    before the rescaling to zero terminal SNR. Of diffusers' solvers only DDPM knows "sigmoid".
    """
    shift = config.schedule_shift
    if shift == 1 and config.beta_schedule != "sigmoid":
        return None
    stock = DDPMScheduler(config.num_train_timesteps, beta_schedule=config.beta_schedule)
    if shift == 1:
        return stock.betas.tolist()
    alphas_bar = (1 - stock.betas.double()).cumprod(0)
    shifted = shift**2 * alphas_bar / (shift**2 * alphas_bar + 1 - alphas_bar)
    before = torch.cat([shifted.new_ones(1), shifted[:-1]])
    return (1 - shifted / before).tolist()


@torch.no_grad()
def denoise(
    model: Denoiser,
    scheduler: Any,
    noise: Tensor,
    *,
    steps: int,
    clip: float,
    generators: list[torch.Generator] | None = None,
) -> Iterator[Tensor]:
    """Yield the pure noise (B,C,h,w), then x_t after every step; the last one is the sample.

    x_t is sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, also for schedulers that scale it
    otherwise inside. Every predicted x_0 is clipped to ±clip. The generators are for schedulers
    that draw new noise in each step (ddpm).
    """
    scheduler.set_timesteps(steps)
    kind = scheduler.config.prediction_type
    in_sigma_space = isinstance(scheduler, SIGMA_SPACE)
    draws = {"generator": generators} if isinstance(scheduler, DDPMScheduler) else {}
    yield noise
    x_t = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x_in = scheduler.scale_model_input(x_t, t)
        alpha_bar = _alpha_bar(scheduler, t).to(x_t)
        x_0 = to_x_0(kind, model(x_in, t), x_in, alpha_bar).clamp(-clip, clip)
        x_t = scheduler.step(from_x_0(kind, x_0, x_in, alpha_bar), t, x_t, **draws).prev_sample
        yield x_t * _alpha_bar(scheduler, t).sqrt().to(x_t) if in_sigma_space else x_t


def sample_with_diffusers(
    predict: Predict,
    noise: Any,
    *,
    scheduler: str,
    config: DiffusionConfig,
    steps: int,
    clip: float,
    sample_noise: SampleNoise | None = None,
) -> Iterator[Any]:
    """Like `sampler.sample`, for every row of SCHEDULERS; arrays stay of NumPy or of torch.

    None of the schedulers that condiff leaves to diffusers adds noise.
    """
    in_numpy = isinstance(noise, np.ndarray)
    start = torch.from_numpy(noise) if in_numpy else noise

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        if in_numpy:
            return torch.from_numpy(predict(x_t.contiguous().numpy(), float(t)))
        return predict(x_t, float(t))

    for x_t in denoise(model, build_scheduler(scheduler, config), start, steps=steps, clip=clip):
        yield x_t.numpy() if in_numpy else x_t


def _alpha_bar(scheduler: Any, t: Tensor) -> Tensor:
    if isinstance(scheduler, SIGMA_SPACE):  # Karras spacing puts t between the trained timesteps
        return 1 / (1 + scheduler.sigmas[scheduler.step_index] ** 2)
    return scheduler.alphas_cumprod[int(t)]
