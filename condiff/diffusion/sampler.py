"""Sampling, from noise to an image, in NumPy or torch: arrays keep their library and device.

DDPM (Ho et al. 2020, arXiv:2006.11239), DDIM (Song et al. 2021, arXiv:2010.02502), DPM-Solver++ 2M
(Lu et al. 2022, arXiv:2211.01095), LCM (Luo et al. 2023, arXiv:2310.04378) and TCD, with trailing
spacing; tests/test_sampling.py compares them with diffusers'. NumPy works without torch.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condiff.checks import as_seed
from condiff.config import DiffusionConfig
from condiff.diffusion.parameterization import add_noise, to_eps, to_x_0
from condiff.diffusion.schedule import compute_alphas_bar, space_timesteps
from condiff.errors import ConfigError

Array = Any  # of NumPy or torch, float32
Predict = Callable[[Array, float], Array]  # (x_t, t) -> model output
PredictX0 = Callable[[Array, int, float], Array]  # (x_t, t, alpha_bar) -> x_0
SampleNoise = Callable[[tuple[int, ...]], Array]  # a shape -> standard normal noise
Correct = Callable[[Array], Array]  # a predicted x_0 -> the x_0 that the step goes on with
Sampler = Callable[[PredictX0, Array, NDArray[Any], int, SampleNoise], Iterator[Array]]

TCD_GAMMA = 0.3  # the default of its authors and of diffusers
BROAD = 8  # cells on a side of what counts as a large area


class NoiseSource:
    """Standard normal noise of a seed, the same for every engine, device and NumPy.

    RandomState's streams are frozen (NEP 19); those of NumPy's newer generators are not.
    """

    def __init__(self, seed: int):
        sequence = np.random.SeedSequence(as_seed(seed))
        self.state = np.random.RandomState(np.random.MT19937(sequence))

    def __call__(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The next noise, float32."""
        return self.state.standard_normal(shape).astype(np.float32)


def sample_initial_noise(seed: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """x_T: the first noise of a seed."""
    return NoiseSource(seed)(shape)


def damp_broad_noise(
    noise: NDArray[Any], *, variety: float, shared: NDArray[Any] | None = None
) -> NDArray[Any]:
    """x_T (B,C,h,w) with the means of blocks of BROAD cells multiplied by `variety`.

    `shared` is noise of the same shape; its means replace the noise's own.

    The noise's mean over a large area decides the colour cast of whole objects. With variety 1 x_T
    is that of training, and samples differ as much as the model allows. With 0 large areas get
    their most likely colours, and only details depend on the seed.
    """
    if variety == 1 and shared is None:
        return noise
    rows, columns = (max(1, round(side / BROAD)) for side in noise.shape[-2:])
    at = [
        np.arange(side) * n // side
        for side, n in zip(noise.shape[-2:], (rows, columns), strict=True)
    ]
    blocks = at[0][:, None] * columns + at[1]

    def spread_means(values: NDArray[Any]) -> NDArray[Any]:
        sums = [[np.bincount(blocks.ravel(), c.ravel()) for c in image] for image in values]
        return (np.array(sums) / np.bincount(blocks.ravel()))[..., blocks]

    broad = spread_means(noise)
    if shared is not None:
        return (noise - broad + variety * spread_means(shared)).astype(np.float32)
    return (noise - (1 - variety) * broad).astype(np.float32)


def spread_over_patches(noise: NDArray[Any], patch_size: int) -> NDArray[Any]:
    """Noise (B,C,h,w) -> x_T (B,C,h·p,w·p) that is equal within patches of p by p pixels.

    Its deviation is 1/p, that of the mean over a patch of independent noise. A model that has
    trained little on patches does not remove the noise of their single pixels, which shows as
    coloured specks; here there is none, and the model adds to a patch's mean what it predicts.
    """
    if patch_size == 1:
        return noise
    wide = noise.repeat(patch_size, axis=-2).repeat(patch_size, axis=-1)
    return wide / np.float32(patch_size)


def as_predicted(x_0: Array) -> Array:
    """x_0 itself."""
    return x_0


def sample(
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
    """Yield the pure noise (B,C,h,w), then x_t after every step; the last one is the sample.

    Every predicted x_0 is corrected by `correct`, and clipped to ±clip. `sample_noise` gives the
    noise that ddpm, lcm and tcd add in each step, as an array of the same kind as `noise`.
    """
    alphas_bar = compute_alphas_bar(config)
    kind = config.prediction_type

    def predict_x_0(x_t: Array, t: int, alpha_bar: float) -> Array:
        return correct(to_x_0(kind, predict(x_t, float(t)), x_t, alpha_bar)).clip(-clip, clip)

    def no_noise(shape: tuple[int, ...]) -> Array:
        raise ConfigError(f"The sampler {scheduler} adds noise: give it a source of noise.")

    yield noise
    yield from SAMPLERS[scheduler](predict_x_0, noise, alphas_bar, steps, sample_noise or no_noise)


def _ddim(
    predict_x_0: PredictX0, x_t: Array, alphas_bar: NDArray[Any], steps: int, _: SampleNoise
) -> Iterator[Array]:
    """Deterministic DDIM: eq. 12 with sigma 0, from each timestep to the next one and to x_0.

    diffusers' scheduler steps by T // steps instead, which leaves too much noise in every step if
    `steps` does not divide T.
    """
    timesteps = space_timesteps(len(alphas_bar), steps)
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        alpha_bar = alphas_bar[t]
        next_alpha_bar = 1 if following is None else alphas_bar[following]
        x_0 = predict_x_0(x_t, t, alpha_bar)
        x_t = add_noise(x_0, to_eps(x_0, x_t, alpha_bar), next_alpha_bar)
        yield x_t


def _ddpm(
    predict_x_0: PredictX0,
    x_t: Array,
    alphas_bar: NDArray[Any],
    steps: int,
    sample_noise: SampleNoise,
) -> Iterator[Array]:
    """Ancestral sampling: eq. 7 with the smaller of the two variances of section 3.2."""
    timesteps = space_timesteps(len(alphas_bar), steps)
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        alpha_bar = float(alphas_bar[t])
        next_alpha_bar = 1.0 if following is None else float(alphas_bar[following])
        x_0 = predict_x_0(x_t, t, alphas_bar[t])
        alpha = alpha_bar / next_alpha_bar
        of_x_0 = math.sqrt(next_alpha_bar) * (1 - alpha) / (1 - alpha_bar)
        of_x_t = math.sqrt(alpha) * (1 - next_alpha_bar) / (1 - alpha_bar)
        x_t = of_x_0 * x_0 + of_x_t * x_t
        if following is not None:
            variance = (1 - next_alpha_bar) / (1 - alpha_bar) * (1 - alpha)
            x_t = x_t + math.sqrt(variance) * sample_noise(tuple(x_t.shape))
        yield x_t


def _dpm_solver(
    predict_x_0: PredictX0, x_t: Array, alphas_bar: NDArray[Any], steps: int, _: SampleNoise
) -> Iterator[Array]:
    """DPM-Solver++ 2M, its algorithm 2: the first and the last step are of the first order."""
    timesteps = space_timesteps(len(alphas_bar), steps)
    # A zero signal has no logarithm; diffusers uses this one instead.
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
            ahead = x_0 + (x_0 - last_x_0) / _single(2 * r)
        kept, added = sigma[i + 1] / sigma[i], -alpha[i + 1] * math.expm1(-h)
        x_t = _single(kept) * x_t + _single(added) * ahead
        last_x_0 = x_0
        yield x_t


def _lcm(
    predict_x_0: PredictX0,
    x_t: Array,
    alphas_bar: NDArray[Any],
    steps: int,
    sample_noise: SampleNoise,
) -> Iterator[Array]:
    """Multistep consistency sampling (Song et al. 2023, arXiv:2303.01469): x_0, then new noise.

    It is for models that were distilled to predict x_0 in one step. The mean of x_0, which other
    models predict, loses its details here. LCM's skip connection, which matters at t = 0 only, is
    left out.
    """
    timesteps = space_timesteps(len(alphas_bar), steps)
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        x_t = predict_x_0(x_t, t, alphas_bar[t])
        if following is not None:
            x_t = add_noise(x_t, sample_noise(tuple(x_t.shape)), alphas_bar[following])
        yield x_t


def _tcd(
    predict_x_0: PredictX0,
    x_t: Array,
    alphas_bar: NDArray[Any],
    steps: int,
    sample_noise: SampleNoise,
) -> Iterator[Array]:
    """Trajectory consistency distillation (Zheng et al. 2024, arXiv:2402.19159), algorithm 4.

    Each step goes along the trajectory, past the next timestep by a share TCD_GAMMA of it, and is
    brought back there by new noise; the last one ends at x_0. It is for models that were distilled
    this way.
    """
    timesteps = space_timesteps(len(alphas_bar), steps)
    for t, following in pairwise(timesteps):
        past = alphas_bar[math.floor(np.float32(1 - TCD_GAMMA) * np.float32(following))]
        x_0 = predict_x_0(x_t, t, alphas_bar[t])
        x_t = add_noise(x_0, to_eps(x_0, x_t, alphas_bar[t]), past)
        x_t = add_noise(x_t, sample_noise(tuple(x_t.shape)), alphas_bar[following] / past)
        yield x_t
    yield predict_x_0(x_t, timesteps[-1], alphas_bar[timesteps[-1]])


def _single(x: float) -> float:
    """A number rounded to single precision."""
    return float(np.float32(x))


SAMPLERS: dict[str, Sampler] = {
    "ddpm": _ddpm,
    "ddim": _ddim,
    "dpmsolver++": _dpm_solver,
    "lcm": _lcm,
    "tcd": _tcd,
}
