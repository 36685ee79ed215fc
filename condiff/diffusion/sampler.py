"""Sampling, from noise to an image, in NumPy: it works without torch and diffusers.

DDIM (Song et al. 2021, arXiv:2010.02502) and DPM-Solver++ 2M (Lu et al. 2022, arXiv:2211.01095),
with trailing spacing; tests/test_sampling.py compares them with diffusers'.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condiff.config import DiffusionConfig, PredictionType
from condiff.errors import ConfigError

Array = NDArray[Any]  # float32
Predict = Callable[[Array, float], Array]  # (x_t, t) -> model output
PredictX0 = Callable[[Array, int, np.float32], Array]  # (x_t, t, alpha_bar) -> x_0
Solver = Callable[[PredictX0, Array, Array, int], Iterator[Array]]

BROAD = 8  # cells on a side of what counts as a broad area
BETA_START, BETA_END, MAX_BETA = 1e-4, 0.02, 0.999


def draw_noise(seed: int, shape: tuple[int, ...]) -> Array:
    """x_T: standard normal of that shape, the same for every engine, device and NumPy.

    RandomState's streams are frozen (NEP 19); those of NumPy's newer generators are not.
    """
    if seed < 0:
        raise ConfigError(f"A seed is 0 or more, not {seed}.")
    bits = np.random.MT19937(np.random.SeedSequence(seed))
    return np.random.RandomState(bits).standard_normal(shape).astype(np.float32)


def damp_broad_noise(noise: Array, *, variety: float) -> Array:
    """x_T (B,C,h,w) with the means of blocks of BROAD cells multiplied by `variety`.

    The noise's mean over a broad area decides the colour cast of whole objects. With variety 1 x_T
    is drawn as in training, and samples differ as far as the model thinks possible. With 0 broad
    areas get the colours that it finds likeliest, and only details depend on the seed.
    """
    if variety == 1:
        return noise
    rows, columns = (max(1, round(side / BROAD)) for side in noise.shape[-2:])
    at = [
        np.arange(side) * n // side
        for side, n in zip(noise.shape[-2:], (rows, columns), strict=True)
    ]
    blocks = at[0][:, None] * columns + at[1]
    sums = np.array([[np.bincount(blocks.ravel(), c.ravel()) for c in image] for image in noise])
    means = sums / np.bincount(blocks.ravel())
    broad = means[..., blocks]
    return (noise - (1 - variety) * broad).astype(np.float32)


def compute_alphas_bar(config: DiffusionConfig) -> Array:
    """alpha_bar (T,) as diffusers' schedulers of that configuration hold it.

    It is rounded to single precision in the same places as theirs: at the noisy end predictions
    are divided by it, so that rounding shows.
    """
    count = config.num_train_timesteps
    if config.beta_schedule == "squaredcos_cap_v2":
        edges = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - edges[1:] / edges[:-1], MAX_BETA)
    elif config.beta_schedule == "scaled_linear":
        betas = np.linspace(BETA_START**0.5, BETA_END**0.5, count) ** 2
    else:
        u = np.linspace(0, 1, count)
        if config.beta_schedule == "sigmoid":
            u = 1 / (1 + np.exp(6 - 12 * u))
        betas = BETA_START + u * (BETA_END - BETA_START)
    betas = betas.astype(np.float32)
    if config.schedule_shift != 1:
        alphas_bar = np.cumprod(1 - betas.astype(float))
        shifted = config.schedule_shift**2 * alphas_bar
        shifted /= shifted + 1 - alphas_bar
        betas = (1 - shifted / np.append(1, shifted[:-1])).astype(np.float32)
    alphas_bar = np.cumprod(1 - betas, dtype=float).astype(np.float32)
    if config.rescale_betas_zero_snr:  # Lin et al. 2023, arXiv:2305.08891, algorithm 1
        first, last = np.sqrt(alphas_bar[[0, -1]])
        alphas_bar = ((np.sqrt(alphas_bar) - last) * (first / (first - last))) ** 2
    return alphas_bar


def space_timesteps(num_train_timesteps: int, steps: int) -> list[int]:
    """`steps` timesteps from the last one down, evenly spaced ("trailing")."""
    spaced = np.round(np.arange(num_train_timesteps, 0, -num_train_timesteps / steps))
    return [int(t) - 1 for t in spaced[:steps]]


def sample(
    predict: Predict,
    noise: Array,
    *,
    scheduler: str,
    config: DiffusionConfig,
    steps: int,
    clip: float,
) -> Iterator[Array]:
    """Yield the pure noise (B,C,h,w), then x_t after every step; the last one is the sample.

    Every predicted x_0 is clipped to ±clip.
    """
    alphas_bar = compute_alphas_bar(config)
    kind = config.prediction_type

    def predict_x_0(x_t: Array, t: int, alpha_bar: np.float32) -> Array:
        return to_x_0(kind, predict(x_t, float(t)), x_t, alpha_bar).clip(-clip, clip)

    yield noise
    yield from SOLVERS[scheduler](predict_x_0, noise, alphas_bar, steps)


def guide(cond_output: Array, uncond_output: Array, guidance_scale: float) -> Array:
    """Classifier-free guidance: uncond + guidance_scale (cond - uncond), so that 1 is off."""
    return uncond_output + guidance_scale * (cond_output - uncond_output)


def to_x_0(kind: PredictionType, model_output: Array, x_t: Array, alpha_bar: np.float32) -> Array:
    """The clean image that a model output stands for."""
    if kind == "sample":
        return model_output
    signal, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    if kind == "epsilon":
        return (x_t - sigma * model_output) / signal
    return signal * x_t - sigma * model_output


def _ddim(predict_x_0: PredictX0, x_t: Array, alphas_bar: Array, steps: int) -> Iterator[Array]:
    """Deterministic DDIM: eq. 12 with sigma 0."""
    count = len(alphas_bar)
    for t in space_timesteps(count, steps):
        before = t - count // steps  # as diffusers has it, also where `steps` does not divide
        alpha_bar, next_alpha_bar = alphas_bar[t], alphas_bar[before] if before >= 0 else 1
        x_0 = predict_x_0(x_t, t, alpha_bar)
        eps = (x_t - np.sqrt(alpha_bar) * x_0) / max(np.sqrt(1 - alpha_bar), np.float32(1e-8))
        x_t = np.sqrt(next_alpha_bar, dtype=np.float32) * x_0
        x_t = x_t + np.sqrt(1 - next_alpha_bar, dtype=np.float32) * eps
        yield x_t


def _dpm_solver(
    predict_x_0: PredictX0, x_t: Array, alphas_bar: Array, steps: int
) -> Iterator[Array]:
    """DPM-Solver++ 2M, its algorithm 2: the first and the last step are of the first order."""
    timesteps = space_timesteps(len(alphas_bar), steps)
    # A zero signal has no logarithm; diffusers takes this one in its place.
    alphas_bar = np.where(alphas_bar == 0, np.float32(2**-24), alphas_bar)
    alpha_bar = np.append(alphas_bar[timesteps].astype(float), 1.0)
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    half_log_snr = np.log(alpha[:-1] / sigma[:-1])
    last_x_0 = None
    for i, t in enumerate(timesteps):
        x_0 = predict_x_0(x_t, t, alphas_bar[t])
        if i == len(timesteps) - 1:
            yield x_0
            return
        h = half_log_snr[i + 1] - half_log_snr[i]
        ahead = x_0
        if last_x_0 is not None:
            r = (half_log_snr[i] - half_log_snr[i - 1]) / h
            ahead = x_0 + (x_0 - last_x_0) / np.float32(2 * r)
        kept, added = sigma[i + 1] / sigma[i], -alpha[i + 1] * math.expm1(-h)
        x_t = np.float32(kept) * x_t + np.float32(added) * ahead
        last_x_0 = x_0
        yield x_t


SOLVERS: dict[str, Solver] = {"ddim": _ddim, "dpmsolver++": _dpm_solver}
