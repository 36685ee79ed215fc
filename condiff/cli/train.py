"""`condiff train`: train a model on photos."""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condiff.cli import options

if TYPE_CHECKING:
    from condiff.config import TrainConfig
    from condiff.training.progress import Step
    from condiff.training.trainer import Trainer


def train(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="A folder of photos or parquet shards, or a Hugging Face data set's owner/name.",
            metavar="DIR|ID",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="The run's folder; the trained model becomes DIR/model.",
            metavar="DIR",
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="What to learn: colorize, sketch (line drawings to pictures), edge (edge maps to "
            "pictures), none (pictures from noise alone) or upscale (small pictures to large ones, "
            "along their lines); default: as the settings say, or colorize.",
            metavar="NAME",
        ),
    ] = None,
    config_path: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Read settings from this YAML file, such as configs/*.yaml.",
            metavar="FILE",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a setting, such as optimizer.learning_rate=1e-4; may be repeated. -n "
            "lists all settings.",
            metavar="K=V",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Start from these weights: a model folder, or any diffusers UNet2DModel or DDPM "
            "pipeline.",
            metavar="FOLDER|ID",
        ),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            min=0, help="Stop after so many minutes; the learning rate falls to 0 by then."
        ),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many optimizer steps.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Photos per batch of each process.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Random seed of weights, order, crops and noise (default: 0)."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Only time the parts of a few steps, then stop.")
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(help="Upload the model to this repository when done.", metavar="OWNER/NAME"),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("-f", "--force", help="Start over: remove the run that the folder holds."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "-n", "--dry-run", help="Print all settings and what a step costs, and do nothing."
        ),
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Train a model on your photos.

    Try it: condiff train --config configs/smoke.yaml --data photos/ -o runs/smoke

    The model folder to use and share is OUTPUT/model. The same command again resumes a run that was
    stopped or killed, bit for bit. On several GPUs: accelerate launch -m condiff train …
    docs/training.md explains the settings.
    """
    from condiff.config import read_config

    flags = {
        "task": task,
        "max_minutes": max_minutes,
        "max_train_steps": max_steps,
        "train_batch_size": batch_size,
        "seed": seed,
    }
    overrides = [f"{key}={value}" for key, value in flags.items() if value is not None]
    config = read_config(config_path, [*(settings or []), *overrides])
    if push_to_hub:
        from condiff.training.push import check_repo_id

        check_repo_id(push_to_hub)
    options.quiet_libraries()
    build = _import_trainer()
    if dry_run:
        trainer = build(config, data, None, init=init)
        _show_cost(trainer, config, push_to_hub=push_to_hub)
        return
    if profile:
        _show_profile(build(config, data, output, init=init))
        return
    from condiff.training.run import begin, find_start

    start = None if force else find_start(output, config, data=data, init=init)
    trainer = build(config, data, output, init=init)
    if start is not None:
        trainer.resume(start)
    if trainer.is_main:  # all processes have met by now: none of them looks at the folder later
        begin(output, config, start)
    silent = quiet or not trainer.is_main
    options.say(trainer.describe(), quiet=silent)
    if start is not None:
        options.say(f"going on from {start.folder}", quiet=silent)
    folder = _run(trainer, output, silent=silent)
    if not trainer.is_main:
        return
    told = {"model": str(folder)}
    if push_to_hub:
        from condiff.training.push import push_to_hub as push

        told["hub"] = push(folder, push_to_hub)
    print(json.dumps(told) if as_json else "\n".join(told.values()))


def _import_trainer() -> "type[Trainer]":
    from condiff.errors import ConfigError

    try:
        from condiff.training.trainer import Trainer
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Training takes {error.name}, which is not installed: pip install 'condiff[train]'"
        ) from error
    return Trainer


def _show_cost(trainer: "Trainer", config: "TrainConfig", *, push_to_hub: str | None) -> None:
    """The resolved settings as YAML; the data and what a step costs as comments."""
    from condiff.config import to_yaml
    from condiff.training.profile import count_cost

    cost = count_cost(trainer, cached_features=config.data.cache_features)
    if not trainer.is_main:
        return
    print(to_yaml(config), end="")
    print(f"# {trainer.describe()}")
    print(f"# {cost.flops / 1e9:.3g} GFLOP an image, forward and backward")
    print(
        f"# at least {cost.memory(config.train_batch_size) / 2**30:.3g} GiB a device: "
        f"{cost.parameter_bytes / 2**20:.0f} MiB of weights, gradients and averages, "
        f"{cost.activation_bytes / 2**20:.1f} MiB of activations an image"
    )
    if push_to_hub:
        print(f"# would be pushed to {push_to_hub}")


def _show_profile(trainer: "Trainer") -> None:
    """Where the time of a step goes."""
    from condiff.training.profile import profile

    list(trainer.fill_cache())
    table = profile(trainer).table()
    if trainer.is_main:
        print(f"{trainer.describe()}\n{table}")


def _run(trainer: "Trainer", output: Path, *, silent: bool) -> Path:
    from tqdm import tqdm

    hidden = silent or not sys.stderr.isatty()
    with tqdm(desc="backbone features", unit=" photos", disable=hidden, leave=False) as bar:
        for filled in trainer.fill_cache():
            bar.total = filled.total
            bar.update(filled.done - bar.n)
    config = trainer.config
    trainer.accelerator.init_trackers("condiff")
    smooth: list[float] | None = None
    with (
        _stopping(trainer),
        tqdm(desc="training", total=1000, disable=hidden, bar_format=BAR) as bar,
        open(output / "metrics.jsonl" if trainer.is_main else os.devnull, "ab", buffering=0) as log,
    ):
        began, images = time.monotonic(), 0
        for step in trainer.steps():
            images += len(step.errors)
            saves = step.step % config.sample_steps == 0
            if not (saves or step.step % config.log_steps == 0 or step.progress >= 1):
                continue
            trainer.observe(step.loss)  # waits for the device: now the time is that of the work
            rate = images / (time.monotonic() - began)
            smooth = _smooth(smooth, step.decile_losses)
            bar.n = round(1000 * step.progress)
            bar.set_postfix_str(_summary(step, smooth, rate))
            record = _record(step, rate)
            with _writing(output):
                log.write(json.dumps(record).encode() + b"\n")
            scalars = {k: v for k, v in record.items() if isinstance(v, float)}
            trainer.accelerator.log(scalars, step=step.step)
            if saves:
                _save(trainer, output, name=f"step-{step.step:06d}")
                options.say(_summary(step, smooth, rate), quiet=silent or not hidden)
            began, images = time.monotonic(), 0
    if trainer.stop_signal:
        trainer.save_checkpoint()
        trainer.close()
        name = signal.Signals(trainer.stop_signal).name
        options.say(
            f"{name}: saved at step {trainer.step}; the same command goes on.", quiet=silent
        )
        raise typer.Exit(128 + trainer.stop_signal)
    folder = _save(trainer, output, name="final")
    trainer.close()
    return folder


def _save(trainer: "Trainer", output: Path, *, name: str) -> Path:
    """A checkpoint, the model, a grid of samples and the curves, by the first process."""
    trainer.save_checkpoint()
    with _writing(output):
        folder = trainer.save()
        grid = trainer.sample_grid()
        if grid is not None:
            grid.save(output / "samples" / f"{name}.png")
            _draw_curves(output)
    return folder


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """A full disk is told in one sentence, whatever was being written."""
    from safetensors import SafetensorError

    from condiff.errors import CheckpointError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"Cannot write into {output}: {reason}. Its checkpoints are whole: make room and start "
            "the same command again."
        ) from error


def _draw_curves(output: Path) -> None:
    from condiff.training.curves import make_curves, read_metrics

    if find_spec("matplotlib"):  # an extra of the extra: metrics.jsonl has the numbers
        make_curves(read_metrics(output / "metrics.jsonl")).save(output / "curves.png")


@contextmanager
def _stopping(trainer: "Trainer") -> Iterator[None]:
    """SIGINT and SIGTERM end the run after the step in work; a second one ends it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        trainer.stop_signal = number
        for each in before:
            signal.signal(each, before[each])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


BAR = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {postfix}"


def _smooth(before: list[float] | None, now: Iterable[float], keep: float = 0.8) -> list[float]:
    now = list(now)
    if before is None:
        return now
    return [
        b if math.isnan(n) else n if math.isnan(b) else keep * b + (1 - keep) * n
        for b, n in zip(before, now, strict=True)
    ]


def _summary(step: "Step", deciles: list[float], rate: float) -> str:
    """One line: the step, its loss, and the smoothed loss of each tenth of the timesteps."""
    by_t = " ".join("-" if math.isnan(value) else f"{value:.2f}" for value in deciles)
    return f"step {step.step} loss {step.loss:.3f} by t [{by_t}] {rate:.0f} img/s"


def _record(step: "Step", rate: float) -> dict[str, Any]:
    """A line of metrics.jsonl: the loss is this step's, the rate that of all since the last."""
    deciles = [None if math.isnan(v) else round(v, 5) for v in step.decile_losses]
    return {
        "step": step.step,
        "loss": round(step.loss, 6),
        "decile_losses": deciles,
        "learning_rate": step.learning_rate,
        "images_per_second": round(rate, 2),
        "minutes": round(step.minutes, 4),
    }
