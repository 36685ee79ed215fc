"""`condiff train`: photos become a model."""

import json
import math
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condiff.cli import options

if TYPE_CHECKING:
    from condiff.train import Step, Trainer


def train(
    data: Annotated[
        Path, typer.Option("--data", help="A folder of photos or parquet shards.", metavar="DIR")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The run's folder.", metavar="DIR")
    ],
    task: Annotated[str | None, typer.Option(help="What to learn: colorize.")] = None,
    config_path: Annotated[
        Path | None, typer.Option("--config", help="A YAML file.", metavar="FILE")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Override a field: optimizer.learning_rate=1e-4.", metavar="K=V"
        ),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Start from the weights of this model folder.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop by the clock; the learning rate ends with it.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many steps.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Photos a step and process.")
    ] = None,
    seed: options.Seed = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Train a model on your photos; OUTPUT/model is the folder to use and share.

    On several GPUs: accelerate launch -m condiff train …
    """
    from condiff.config import read_config, to_yaml

    flags = {
        "task": task,
        "max_minutes": max_minutes,
        "max_train_steps": max_steps,
        "train_batch_size": batch_size,
        "seed": seed,
    }
    overrides = [f"{key}={value}" for key, value in flags.items() if value is not None]
    config = read_config(config_path, [*(settings or []), *overrides])
    if dry_run:
        print(to_yaml(config), end="")
        return
    _refuse_a_second_run(output, force=force)
    options.quiet_libraries()
    trainer = _build_trainer()(config, data, output, init=init)
    if trainer.is_main:  # all processes have met by now: none of them looks at the folder later
        _clear(output)
        (output / "config.yaml").write_text(to_yaml(config), "utf-8")
    options.say(trainer.describe(), quiet=quiet or not trainer.is_main)
    folder = _run(trainer, output, silent=quiet or not trainer.is_main)
    if trainer.is_main:
        print(json.dumps({"model": str(folder)}) if as_json else folder)


def _refuse_a_second_run(output: Path, *, force: bool) -> None:
    from condiff.errors import ConfigError

    if (output / "metrics.jsonl").exists() and not force:
        raise ConfigError(
            f"{output} already holds a run: choose another folder, or start over with --force."
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"Cannot write into {output}: {error.strerror}.") from error


def _clear(output: Path) -> None:
    """Room for a new run; the feature cache stays, it knows which photos it is of."""
    (output / "metrics.jsonl").unlink(missing_ok=True)
    shutil.rmtree(output / "samples", ignore_errors=True)
    (output / "samples").mkdir()


def _build_trainer() -> "type[Trainer]":
    from condiff.errors import ConfigError

    try:
        from condiff.train import Trainer
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Training takes {error.name}, which is not installed: pip install 'condiff[train]'"
        ) from error
    return Trainer


def _run(trainer: "Trainer", output: Path, *, silent: bool) -> Path:
    from tqdm import tqdm

    hidden = silent or not sys.stderr.isatty()
    with tqdm(desc="backbone features", unit=" photos", disable=hidden, leave=False) as bar:
        for filled in trainer.fill_cache():
            bar.total = filled.total
            bar.update(filled.done - bar.n)
    every = trainer.config.sample_steps
    smooth: list[float] | None = None
    with (
        tqdm(desc="training", total=1000, disable=hidden, bar_format=BAR) as bar,
        open(
            output / "metrics.jsonl" if trainer.is_main else "/dev/null", "a", encoding="utf-8"
        ) as log,
    ):
        for step in trainer.steps():
            smooth = _smooth(smooth, step.decile_losses)
            bar.n = round(1000 * step.progress)
            bar.set_postfix_str(_summary(step, smooth))
            if trainer.is_main:
                log.write(json.dumps(_record(step)) + "\n")
            if step.step % every == 0:
                log.flush()
                trainer.save()
                if trainer.is_main:
                    trainer.sample_grid().save(output / "samples" / f"step-{step.step:06d}.png")
                    options.say(_summary(step, smooth), quiet=silent or not hidden)
    folder = trainer.save()
    if trainer.is_main:
        trainer.sample_grid().save(output / "samples" / "final.png")
    return folder


BAR = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {postfix}"


def _smooth(before: list[float] | None, now: Iterable[float], keep: float = 0.98) -> list[float]:
    now = list(now)
    if before is None:
        return now
    return [
        b if math.isnan(n) else n if math.isnan(b) else keep * b + (1 - keep) * n
        for b, n in zip(before, now, strict=True)
    ]


def _summary(step: "Step", deciles: list[float]) -> str:
    """One line: the step, its loss, and the smoothed loss of each tenth of the timesteps."""
    by_t = " ".join("-" if math.isnan(value) else f"{value:.2f}" for value in deciles)
    return f"step {step.step} loss {step.loss:.3f} by t [{by_t}] {step.images_per_second:.0f} img/s"


def _record(step: "Step") -> dict[str, Any]:
    deciles = [None if math.isnan(v) else round(v, 5) for v in step.decile_losses]
    return {
        "step": step.step,
        "loss": round(step.loss, 6),
        "decile_losses": deciles,
        "learning_rate": step.learning_rate,
        "images_per_second": round(step.images_per_second, 2),
        "minutes": round(step.minutes, 4),
    }
