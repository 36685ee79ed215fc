"""`condiff train`: train a model on photos."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from condiff.cli import options
from condiff.cli.progress import BAR, make_record, smooth_deciles, summarize_step

if TYPE_CHECKING:
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
            help="What to learn: colorize, sketch (line drawings to pictures), edge, depth (edge "
            "or depth maps to pictures), restyle (any pairs of aligned pictures), none (pictures from "
            "noise alone) or upscale (small pictures to large ones, along their lines); default: "
            "as the settings say, or colorize.",
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
    from condiff.tasks import find_task

    flags = {
        "task": task,
        "max_minutes": max_minutes,
        "max_train_steps": max_steps,
        "train_batch_size": batch_size,
        "seed": seed,
    }
    overrides = [f"{key}={value}" for key, value in flags.items() if value is not None]
    config = read_config(config_path, [*(settings or []), *overrides])
    find_task(config.task).check(config)
    if push_to_hub:
        from condiff.models.hub import check_repo_id

        check_repo_id(push_to_hub)
    options.quiet_libraries()
    build = _import_trainer()
    if dry_run:
        trainer = build(config, data, None, init=init)
        _show_cost(trainer, push_to_hub=push_to_hub)
        return
    if profile:
        _show_profile(build(config, data, output, init=init))
        return
    from condiff.training.run_folder import begin, check_output, find_start

    check_output(output, data=data)
    start = None if force else find_start(output, config, data=data, init=init)
    trainer = build(config, data, output, init=init)
    if start is not None:
        trainer.resume(start)
    if trainer.is_main:  # all processes have met by now: none of them looks at the folder later
        begin(output, config, start)
    silent = quiet or not trainer.is_main
    options.report(trainer.describe(), quiet=silent)
    if start is not None:
        options.report(f"going on from {start.folder}", quiet=silent)
    folder = _run(trainer, output, silent=silent)
    if not trainer.is_main:
        return
    told = {"model": str(folder)}
    if push_to_hub:
        from condiff.models.hub import push_to_hub as push

        told["hub"] = push(folder, push_to_hub)
    print(json.dumps(told) if as_json else "\n".join(told.values()))


def _import_trainer() -> "type[Trainer]":
    from condiff.errors import ConfigError

    try:
        from condiff.training.trainer import Trainer
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Training needs {error.name}, which is not installed: pip install 'condiff[train]'"
        ) from error
    return Trainer


def _show_cost(trainer: "Trainer", *, push_to_hub: str | None) -> None:
    """Print all settings as YAML, and the data and the cost of a step as comments."""
    from condiff.config import to_yaml
    from condiff.training.profile import count_cost

    config = trainer.config
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
    """Print how long the parts of a step take."""
    from condiff.training.profile import profile

    list(trainer.fill_cache())
    table = profile(trainer).table()
    if trainer.is_main:
        print(f"{trainer.describe()}\n{table}")


def _run(trainer: "Trainer", output: Path, *, silent: bool) -> Path:
    """Train until the end or a signal, with a progress bar, metrics and regular saves."""
    from tqdm import tqdm

    hidden = silent or not sys.stderr.isatty()
    _fill_cache(trainer, hidden=hidden)
    config = trainer.config
    trainer.accelerator.init_trackers("condiff")
    smooth: list[float] | None = None
    with (
        _stopping(trainer),
        tqdm(desc="training", total=1000, disable=hidden, bar_format=BAR) as bar,
        open(output / "metrics.jsonl" if trainer.is_main else os.devnull, "ab", buffering=0) as log,
    ):
        began, images = time.monotonic(), 0  # since the last line of metrics
        for step in trainer.steps():
            images += len(step.errors)
            saves = step.step % config.sample_steps == 0
            if not (saves or step.step % config.log_steps == 0 or step.progress >= 1):
                continue
            trainer.observe(step.loss)  # waits for the device, so the time below is the work's
            rate = images / (time.monotonic() - began)
            smooth = smooth_deciles(smooth, step.decile_losses)
            bar.n = round(1000 * step.progress)
            bar.set_postfix_str(summarize_step(step, smooth, rate))
            record = make_record(step, rate)
            with _writing(output):
                log.write(json.dumps(record).encode() + b"\n")
            scalars = {k: v for k, v in record.items() if isinstance(v, float)}
            trainer.accelerator.log(scalars, step=step.step)
            if saves:
                _save(trainer, output, name=f"step-{step.step:06d}")
                options.report(summarize_step(step, smooth, rate), quiet=silent or not hidden)
            began, images = time.monotonic(), 0
    if trainer.stop_signal:
        trainer.save_checkpoint()
        trainer.close()
        name = signal.Signals(trainer.stop_signal).name
        options.report(
            f"{name}: saved at step {trainer.step}; the same command goes on.", quiet=silent
        )
        raise typer.Exit(128 + trainer.stop_signal)
    folder = _save(trainer, output, name="final")
    trainer.close()
    return folder


def _fill_cache(trainer: "Trainer", *, hidden: bool) -> None:
    from tqdm import tqdm

    with tqdm(desc="backbone features", unit=" photos", disable=hidden, leave=False) as bar:
        for filled in trainer.fill_cache():
            bar.total = filled.total
            bar.update(filled.done - bar.n)


def _save(trainer: "Trainer", output: Path, *, name: str) -> Path:
    """Save a checkpoint, the model folder, a grid of samples and the curves; returns the folder."""
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
    """Turn errors of writing, such as a full disk, into CheckpointError."""
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

    if find_spec("matplotlib"):  # optional: metrics.jsonl has the numbers
        make_curves(read_metrics(output / "metrics.jsonl")).save(output / "curves.png")


@contextmanager
def _stopping(trainer: "Trainer") -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run after the present step; a second one ends it at once."""

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
