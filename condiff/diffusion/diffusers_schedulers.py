"""The mathematics of diffusion: the noise process, the training loss, sampling. No I/O.

Ho et al. 2020 (arXiv:2006.11239) for the process, Salimans & Ho 2022 (arXiv:2202.00512) for v.
docs/diffusion.md holds all formulas beside their configuration keys.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from numpy.typing import NDArray
from torch import Tensor

from condiff.config import DiffusionConfig, PredictionType
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


def add_noise(x_0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps; alpha_bar is (B,1,1,1)."""
    return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps


def target(prediction_type: PredictionType, x_0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The training target: eps, x_0, or v = sqrt(alpha_bar) eps - sqrt(1-alpha_bar) x_0.

    The squared error of v is that of the noise weighted by 1/alpha_bar.
    """
    if prediction_type == "epsilon":
        return eps
    if prediction_type == "sample":
        return x_0
    return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x_0


def to_x_0(
    prediction_type: PredictionType, model_output: Tensor, x_t: Tensor, alpha_bar: Tensor
) -> Tensor:
    """The clean image that a model output stands for."""
    if prediction_type == "epsilon":
        return (x_t - (1 - alpha_bar).sqrt() * model_output) / alpha_bar.sqrt()
    if prediction_type == "sample":
        return model_output
    return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * model_output


def from_x_0(
    prediction_type: PredictionType, x_0: Tensor, x_t: Tensor, alpha_bar: Tensor
) -> Tensor:
    """The model output that stands for a clean image: the inverse of `to_x_0`."""
    if prediction_type == "sample":
        return x_0
    eps = (x_t - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt().clamp(min=1e-8)
    return target(prediction_type, x_0, eps, alpha_bar)


def draw_noise(
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
    t = draw_timesteps(
        shape[0],
        num_train_timesteps,
        shift=config.timestep_shift,
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
    noise is SNR times that of x_0, and alpha_bar times that of v.
    """
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


def drop_condition(cond: Tensor, *, prob: float, generator: torch.Generator | None) -> Tensor:
    """The condition (B,…) in [-1,1], each row set to zero, the null_cond, with probability `prob`.

    Ho & Salimans 2022 (arXiv:2207.12598). Zero is a uniform mid-grey, which no drawing, edge map or
    photo is.
    """
    if not prob:
        return cond
    dropped = torch.rand(len(cond), generator=generator, device=cond.device) < prob
    return cond.masked_fill(dropped.view(-1, *[1] * (cond.dim() - 1)), 0)


def draw_timesteps(
    count: int,
    num_train_timesteps: int,
    *,
    shift: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Timesteps (count,) for training: uniform, or crowded towards the noisy end by `shift` > 1.

    u -> shift u / (1 + (shift - 1) u), Esser et al. 2024 (arXiv:2403.03206), eq. 23. Chroma is
    smooth, so colours are decided in the noisiest fifth; uniform t gives it a fifth of the steps.
    """
    u = torch.rand(count, generator=generator, device=device)
    shifted = shift * u / (1 + (shift - 1) * u)
    return (shifted * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)


def initial_noise(generators: list[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """x_T: standard normal (B,*shape), row i from generator i, so no image depends on its batch."""
    return torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generators])


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
    predict: Callable[[NDArray[Any], float], NDArray[Any]],
    noise: NDArray[Any],
    *,
    scheduler: str,
    config: DiffusionConfig,
    steps: int,
    clip: float,
    seed: int,
) -> Iterator[NDArray[Any]]:
    """Like `sampler.sample`, for every row of SCHEDULERS; the seed is for ddpm."""
    generator = torch.Generator().manual_seed(seed)

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.from_numpy(predict(x_t.contiguous().numpy(), float(t)))

    for x_t in denoise(
        model,
        build_scheduler(scheduler, config),
        torch.from_numpy(noise),
        steps=steps,
        clip=clip,
        generators=[generator],
    ):
        yield x_t.numpy()


def _alpha_bar(scheduler: Any, t: Tensor) -> Tensor:
    if isinstance(scheduler, SIGMA_SPACE):  # Karras spacing puts t between the trained timesteps
        return 1 / (1 + scheduler.sigmas[scheduler.step_index] ** 2)
    return scheduler.alphas_cumprod[int(t)]
