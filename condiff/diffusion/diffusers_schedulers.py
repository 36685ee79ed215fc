"""The samplers that diffusers runs, and the scheduler that a model folder contains."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from condiff.config import DiffusionConfig
from condiff.diffusion.parameterization import from_x_0, to_x_0
from condiff.diffusion.sampler import Array, Correct, Predict, SampleNoise, as_predicted
from condiff.diffusion.schedule import compute_betas
from condiff.errors import ConfigError

# "leading", the default of some schedulers, starts below T, where the model expects a little of the
# image in the noise: results get dull, brown casts.
TIMESTEP_SPACING = "trailing"

SCHEDULERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddpm": (DDPMScheduler, {"clip_sample": False}),  # of model folders; `sampler` samples with it
    "unipc": (UniPCMultistepScheduler, {"final_sigmas_type": "zero"}),
    "euler": (EulerDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {"use_karras_sigmas": True}),
}
SIGMA_SPACE = (EulerDiscreteScheduler, HeunDiscreteScheduler)  # x_t / sqrt(alpha_bar) inside

# A step of Heun overshoots by half the ratio of two neighbouring sigmas, so the first sigma must
# not be infinite. Its steps start and are spaced as in Karras et al. 2022.
HEUN_MAX_SIGMA = 80.0

# Schedules that all of diffusers' solvers have by name; only its DDPM has sigmoid.
BY_NAME = ("linear", "scaled_linear", "squaredcos_cap_v2")

PROCESS = {
    "num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "rescale_betas_zero_snr",
    "prediction_type",
}  # fmt: skip


def build_scheduler(name: str, config: DiffusionConfig) -> Any:
    """A diffusers scheduler by its short name, with trailing spacing.

    A shifted schedule, and one that is not in `BY_NAME`, is given by its betas.
    `sample_with_diffusers` does the clipping, in the same way for all schedulers. Raises
    ConfigError for an unknown name.
    """
    if name not in SCHEDULERS:
        raise ConfigError(f"There is no scheduler {name!r}: choose from {', '.join(SCHEDULERS)}.")
    kind, options = SCHEDULERS[name]
    process = config.model_dump(include=PROCESS)
    if config.schedule_shift != 1 or config.beta_schedule not in BY_NAME:
        process["trained_betas"] = compute_betas(config).tolist()
    if kind is HeunDiscreteScheduler:
        del process["rescale_betas_zero_snr"]
        alphas_bar = build_scheduler("ddpm", config).alphas_cumprod
        # alpha_bar must keep falling, since diffusers interpolates between neighbours
        least = torch.linspace(1.01, 1, len(alphas_bar)) / (1 + HEUN_MAX_SIGMA**2)
        alphas_bar = alphas_bar.maximum(least)
        before = torch.cat([alphas_bar.new_ones(1), alphas_bar[:-1]])
        process["trained_betas"] = (1 - alphas_bar / before).tolist()
    return kind(**process, **options, timestep_spacing=TIMESTEP_SPACING)


@torch.no_grad()
def sample_with_diffusers(
    predict: Predict,
    noise: Array,
    *,
    scheduler: str,
    config: DiffusionConfig,
    steps: int,
    clip: float,
    sample_noise: SampleNoise | None = None,
    correct: Correct = as_predicted,
) -> Iterator[Array]:
    """`sampler.sample` by unipc, euler or heun; NumPy arrays stay NumPy's, tensors torch's.

    x_t is sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, also for schedulers that scale it
    otherwise inside. None of the three adds noise.
    """
    solver, kind = build_scheduler(scheduler, config), config.prediction_type
    in_sigma_space = isinstance(solver, SIGMA_SPACE)
    in_numpy = isinstance(noise, np.ndarray)

    def model(x_t: Tensor, t: float) -> Tensor:
        if in_numpy:
            return torch.from_numpy(predict(x_t.contiguous().numpy(), t))
        return predict(x_t, t)

    def corrected(x_0: Tensor) -> Tensor:
        return torch.from_numpy(correct(x_0.contiguous().numpy())) if in_numpy else correct(x_0)

    solver.set_timesteps(steps)
    yield noise
    x_t = (torch.from_numpy(noise) if in_numpy else noise) * solver.init_noise_sigma
    for t in solver.timesteps:
        x_in = solver.scale_model_input(x_t, t)
        alpha_bar = _alpha_bar(solver, t).to(x_t)
        x_0 = to_x_0(kind, model(x_in, float(t)), x_in, alpha_bar)
        x_0 = corrected(x_0).clamp(-clip, clip)
        x_t = solver.step(from_x_0(kind, x_0, x_in, alpha_bar), t, x_t).prev_sample
        result = x_t * _alpha_bar(solver, t).sqrt().to(x_t) if in_sigma_space else x_t
        yield result.numpy() if in_numpy else result


def _alpha_bar(scheduler: Any, t: Tensor) -> Tensor:
    if isinstance(scheduler, SIGMA_SPACE):  # Karras spacing puts t between the trained timesteps
        return 1 / (1 + scheduler.sigmas[scheduler.step_index] ** 2)
    return scheduler.alphas_cumprod[int(t)]
