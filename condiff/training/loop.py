"""A complete training run: start or resume, logging, saving, end by a signal or limit."""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from condiff.checks import as_path, check_kind
from condiff.config import TrainConfig
from condiff.errors import CheckpointError, DataError, TrainingError
from condiff.training.accelerator import is_sharded, main_first
from condiff.training.progress import DECILES, Filled, Step, move_average
from condiff.training.run_folder import begin, check_output, find_start, lock_run
from condiff.training.trainer import Trainer

KEPT = 0.8  # share of the smoothed losses kept at each line of metrics


@dataclass(frozen=True)
class Logged:
    """A step that has a line in metrics.jsonl; `saved` if a checkpoint was written after it."""

    step: Step
    rate: float  # images per second since the line before
    smoothed: list[float]  # losses of each tenth of the timesteps; nan without any
    saved: bool

    def summary(self) -> str:
        """One line: the step, its loss, and the smoothed loss of each tenth of the timesteps."""
        by_t = " ".join("-" if math.isnan(value) else f"{value:.2f}" for value in self.smoothed)
        loss = self.step.loss
        return f"step {self.step.step} loss {loss:.3f} by t [{by_t}] {self.rate:.0f} img/s"

    def record(self) -> dict[str, Any]:
        """The line of metrics.jsonl."""
        step = self.step
        deciles = [None if math.isnan(v) else round(v, 5) for v in step.decile_losses]
        return {
            "step": step.step,
            "loss": round(step.loss, 6),
            "decile_losses": deciles,
            "learning_rate": step.learning_rate,
            "images_per_second": round(self.rate, 2),
            "minutes": round(step.minutes, 4),
        }


def train(
    config: TrainConfig,
    data: str | Path,
    output: str | Path,
    *,
    init: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Train a model on a folder of photos, parquet files or a hub data set; returns OUTPUT/model.

    An existing run in OUTPUT is resumed, bit for bit unless its end is set in minutes, or removed
    with `force`. `init` names the weights to start from. Raises ConfigError, DataError,
    TrainingError, ModelError for weights that cannot be used, or DependencyError.
    """
    folder = as_path("output", output)
    as_path("data", data)
    weights = None if init is None else str(as_path("init", init))
    trainer = start(config, data, folder, init=weights, force=force)
    for _ in run(trainer):
        pass
    return folder / "model"


def start(
    config: TrainConfig,
    data: str | Path,
    output: Path,
    *,
    init: str | None = None,
    force: bool = False,
) -> Trainer:
    """The trainer of a new run, or of one resumed from its newest checkpoint."""
    check_kind("config", config, TrainConfig)
    check_output(output, data=str(data))
    checkpoint = None if force else find_start(output, config, data=str(data), init=init)
    arithmetic = checkpoint.state.get("arithmetic") if checkpoint else None
    trainer = Trainer(config, data, output, init=init, arithmetic=arithmetic)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    with main_first(trainer.accelerator):  # all have synchronised: none reads the folder later
        if trainer.is_main:
            trainer.lock = lock_run(output)
            try:
                begin(output, config, checkpoint)
            except TrainingError:
                trainer.release()
                raise
    return trainer


def run(trainer: Trainer) -> Iterator[Filled | Logged]:
    """Train until the end or `trainer.stop_signal`; yields progress, saves at its intervals.

    At the end a model folder is written; after a signal only a checkpoint, to resume from, and
    before the first step not even that. A DataError, for a photo that cannot be read, is raised
    after a checkpoint, too. In all cases the folder is then released to other processes.
    """
    try:
        yield from _train(trainer)
    except DataError as error:
        if not trainer.step or is_sharded(trainer.model):  # shards need all processes
            raise
        trainer.save_checkpoint(alone=True)
        raise DataError(f"{error} The run is saved at step {trainer.step}.") from error
    finally:
        trainer.release()


def _train(trainer: Trainer) -> Iterator[Filled | Logged]:
    config, output = trainer.config, trainer.output
    yield from trainer.fill_cache()
    trainer.accelerator.init_trackers("condiff")
    smoothed = [math.nan] * DECILES
    metrics = output / "metrics.jsonl" if trainer.is_main else os.devnull
    saved = ""  # the name of the save after the last step, if any
    with open(metrics, "ab", buffering=0) as log:
        began, images = time.monotonic(), 0  # since the last line of metrics
        for step in trainer.steps():
            images += len(step.errors)
            saves, saved = step.step % config.sample_steps == 0, ""
            if not (saves or step.step % config.log_steps == 0 or step.progress >= 1):
                continue
            trainer.observe(step.loss)  # waits for the device, so the time below includes the work
            rate = images / (time.monotonic() - began)
            pairs = zip(smoothed, step.decile_losses, strict=True)
            smoothed = [move_average(before, now, keep=KEPT) for before, now in pairs]
            logged = Logged(step, rate, smoothed, saved=saves)
            record = logged.record()
            with _writing(output):
                log.write(json.dumps(record).encode() + b"\n")
            scalars = {k: v for k, v in record.items() if isinstance(v, float)}
            trainer.accelerator.log(scalars, step=step.step)
            if saves:
                saved = f"step-{step.step:06d}"
                save(trainer, name=saved)
            yield logged
            began, images = time.monotonic(), 0
    if trainer.stop_signal:
        if trainer.step:
            trainer.save_checkpoint()
    elif not saved:
        save(trainer, name="final")
    elif trainer.is_main:
        with _writing(output):
            shutil.copyfile(_grid_path(output, saved), _grid_path(output, "final"))
    trainer.close()


def save(trainer: Trainer, *, name: str) -> None:
    """Save a checkpoint, the model folder, a grid of samples of that name and the curves."""
    from condiff.training.curves import make_curves, read_metrics

    trainer.save_checkpoint()
    output = trainer.output
    with _writing(output):
        trainer.save()
        grid = trainer.sample_grid()
        if grid is None:
            return
        grid.save(_grid_path(output, name))
        if find_spec("matplotlib"):  # optional: metrics.jsonl has the numbers
            make_curves(read_metrics(output / "metrics.jsonl")).save(output / "curves.png")


def _grid_path(output: Path, name: str) -> Path:
    return output / "samples" / f"{name}.png"


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Convert errors of writing, such as a full disk, to CheckpointError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"Cannot write into {output}: {reason}. Its checkpoints are intact: make room and run "
            "the same command again."
        ) from error
