"""The curves of a run, drawn from its metrics."""

import json
import math
from pathlib import Path

from PIL import Image

from condiff.errors import TrainingError
from condiff.figures import Panel, make_plot


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl."""
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise TrainingError(f"Cannot read the metrics {path}: {error}.") from error


def make_curves(metrics: list[dict[str, float]]) -> Image.Image:
    """Loss (each logged step, and smoothed) and learning rate over the steps."""
    steps = [line["step"] for line in metrics]
    losses = [line["loss"] for line in metrics]
    rates = [line["learning_rate"] for line in metrics]
    loss = {"loss of a step": losses, "smoothed": smooth(losses)}
    return make_plot(
        [
            Panel("Loss", "step", "loss", loss, steps, log_y=True, faint=("loss of a step",)),
            Panel("Learning rate", "step", "learning rate", {"learning rate": rates}, steps),
        ]
    )


def smooth(values: list[float], *, keep: float = 0.9) -> list[float]:
    """An exponential moving average, bias-corrected at the start; non-finite values are skipped."""
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(total / weight if weight else value)
    return smoothed
