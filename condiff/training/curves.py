"""The curves of a run, drawn from its metrics."""

import json
import math
from pathlib import Path

from condiff.errors import ConfigError


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl."""
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the metrics {path}: {error}.") from error


def draw_curves(metrics: list[dict[str, float]], target: Path) -> None:
    """Loss (each logged step, and smoothed) and learning rate over the steps, as a PNG."""
    from matplotlib.figure import Figure

    steps = [line["step"] for line in metrics]
    figure = Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
    loss_axes, rate_axes = figure.subplots(1, 2)
    losses = [line["loss"] for line in metrics]
    loss_axes.plot(steps, losses, color="0.75", linewidth=0.8, label="a step")
    loss_axes.plot(steps, smooth(losses), color="tab:blue", label="smoothed")
    loss_axes.set(xlabel="step", ylabel="loss", yscale="log")
    loss_axes.legend(frameon=False)
    rate_axes.plot(steps, [line["learning_rate"] for line in metrics], color="tab:orange")
    rate_axes.set(xlabel="step", ylabel="learning rate")
    figure.savefig(target)


def smooth(values: list[float], *, keep: float = 0.9) -> list[float]:
    """An exponential moving average without the bias of its beginning."""
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(total / weight if weight else value)
    return smoothed
