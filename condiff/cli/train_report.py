"""How `condiff train` tells of its steps: the progress bar, and the lines of metrics.jsonl."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condiff.training.progress import Step

BAR = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {postfix}"


def smooth_deciles(before: list[float] | None, now: list[float], keep: float = 0.8) -> list[float]:
    """The moving averages of the losses of each tenth of the timesteps; nan where none fell."""
    if before is None:
        return now
    return [
        b if math.isnan(n) else n if math.isnan(b) else keep * b + (1 - keep) * n
        for b, n in zip(before, now, strict=True)
    ]


def summarize(step: "Step", deciles: list[float], rate: float) -> str:
    """One line: the step, its loss, and the smoothed loss of each tenth of the timesteps."""
    by_t = " ".join("-" if math.isnan(value) else f"{value:.2f}" for value in deciles)
    return f"step {step.step} loss {step.loss:.3f} by t [{by_t}] {rate:.0f} img/s"


def make_record(step: "Step", rate: float) -> dict[str, Any]:
    """A line of metrics.jsonl; `rate` is in images per second since the line before."""
    deciles = [None if math.isnan(v) else round(v, 5) for v in step.decile_losses]
    return {
        "step": step.step,
        "loss": round(step.loss, 6),
        "decile_losses": deciles,
        "learning_rate": step.learning_rate,
        "images_per_second": round(rate, 2),
        "minutes": round(step.minutes, 4),
    }
