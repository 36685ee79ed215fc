"""The progress of a run: steps, clock, learning rate, and the result of a step."""

import math
from dataclasses import dataclass

from torch import Tensor

from condiff.config import OptimizerConfig, TrainConfig

DECILES = 10
SMOOTHING = 0.95  # per line of metrics; 0.99 would remember 3,000 steps at 10 per line


@dataclass(frozen=True)
class Filled:
    """Progress of the feature cache: `done` of `total` photos."""

    done: int
    total: int


@dataclass(frozen=True)
class Step:
    """The result of one optimizer step; reading its loss waits for the device."""

    step: int
    errors: Tensor  # (N,) weighted squared error of each image of all processes
    timesteps: Tensor  # (N,)
    num_train_timesteps: int
    learning_rate: float
    minutes: float  # of training, without pauses between starts
    progress: float  # of the run, from 0 to 1

    @property
    def loss(self) -> float:
        """The loss, mean over the images."""
        return float(self.errors.mean())

    @property
    def decile_losses(self) -> list[float]:
        """The mean loss in each tenth of the timesteps; nan for a tenth without any."""
        decile = self.timesteps * DECILES // self.num_train_timesteps
        return [float(self.errors[decile == d].mean()) for d in range(DECILES)]


def progress_of(config: TrainConfig, *, step: int, minutes: float) -> float:
    """Progress from 0 to 1, by steps or time, whichever is nearer its end."""
    by_steps = step / config.max_train_steps if config.max_train_steps else 0.0
    by_clock = minutes / config.max_minutes if config.max_minutes else 0.0
    return min(max(by_steps, by_clock), 1.0)


def learning_rate_at(optimizer: OptimizerConfig, *, step: int, progress: float) -> float:
    """Linear warm-up, constant, then a half cosine to zero over the last `decay_share`."""
    warm = min(1.0, (step + 1) / max(1, optimizer.warmup_steps))
    fallen = max(0.0, (progress - (1 - optimizer.decay_share)) / optimizer.decay_share)
    return optimizer.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * fallen))


def move_average(before: float, value: float, *, keep: float = SMOOTHING) -> float:
    """An exponential moving average with one more value; nan means no value."""
    if math.isnan(before):
        return value
    return before if math.isnan(value) else keep * before + (1 - keep) * value
