"""`condiff train`: train a model on photos."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condiff.cli import options
from condiff.cli.sampling import Group, expand_groups

if TYPE_CHECKING:
    from condiff.config import TrainConfig
    from condiff.training.loop import Logged
    from condiff.training.progress import Filled
    from condiff.training.trainer import Trainer

BAR = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {postfix}"
SAME_SIGNAL = 2.0  # seconds


@dataclass(frozen=True)
class TrainFlags(Group):
    """The task, the data and the length of a run."""

    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="A folder of photos, a parquet or tar file, a folder of those, or owner/name of a "
            "Hugging Face data set.",
            metavar="DIR|ID",
        ),
    ]
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="The run's folder; the trained model becomes DIR/model.",
            metavar="DIR",
        ),
    ]
    task: Annotated[
        str | None,
        typer.Option(
            help="What to learn: colorize, sketch (line drawings to pictures), edge, depth (edge "
            "or depth maps to pictures), restyle (any pairs of aligned pictures), none (pictures "
            "from noise alone) or upscale (small pictures to large ones, along their lines); "
            "default: the settings' task, or colorize.",
            metavar="NAME",
        ),
    ] = None
    config_path: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Read settings from this YAML file, such as configs/*.yaml.",
            metavar="FILE",
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a setting, such as optimizer.learning_rate=1e-4; may be repeated. -n "
            "lists all settings.",
            metavar="K=V",
        ),
    ] = None
    init: Annotated[
        str | None,
        typer.Option(
            help="Start from these weights: a model folder, or any diffusers UNet2DModel or DDPM "
            "pipeline.",
            metavar="FOLDER|ID",
        ),
    ] = None
    base: Annotated[
        str | None,
        typer.Option(
            help="Train the U-Net of a pretrained base: a folder or Hub id with the architecture "
            "of Stable Diffusion 1 or 2.",
            metavar="FOLDER|ID",
        ),
    ] = None
    lora: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train only low-rank updates of this rank of the base: far less memory.",
            metavar="RANK",
        ),
    ] = None
    max_minutes: Annotated[
        float | None,
        typer.Option(
            min=0, help="Stop after this many minutes; the learning rate falls to 0 by then."
        ),
    ] = None
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many optimizer steps.")
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Photos per batch of each process.")
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Random seed of weights, order, crops and noise (default: 0)."),
    ] = None
    profile: Annotated[
        bool, typer.Option("--profile", help="Only time the parts of a few steps, then stop.")
    ] = False
    push_to_hub: Annotated[
        str | None,
        typer.Option(help="Upload the model to this repository when done.", metavar="OWNER/NAME"),
    ] = None
    force: Annotated[
        bool,
        typer.Option("-f", "--force", help="Start over: remove the run in the folder."),
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "-n", "--dry-run", help="Print all settings and what a step costs, and do nothing."
        ),
    ] = False


@expand_groups
def train(
    messages: options.Messages,
    flags: TrainFlags,
) -> None:
    """Train a model on your photos.

    Try it: condiff train --config configs/smoke.yaml --data photos/ -o runs/smoke

    The model folder to use and share is OUTPUT/model. The same command resumes a run that was
    stopped or killed, bit for bit. On several GPUs: accelerate launch -m condiff train …
    docs/guide/training.md explains the settings.
    """
    from condiff.models.base_settings import read_run_config
    from condiff.tasks import task_of
    from condiff.training.run_folder import check_output

    given = {
        "task": flags.task,
        "max_minutes": flags.max_minutes,
        "max_train_steps": flags.max_steps,
        "train_batch_size": flags.batch_size,
        "seed": flags.seed,
    }
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    config = read_run_config(
        flags.config_path, [*(flags.settings or []), *overrides], base=flags.base, lora=flags.lora
    )
    task_of(config).check(config)
    if flags.push_to_hub:
        from condiff.models.hub import check_login, check_repo_id

        check_repo_id(flags.push_to_hub)
        if not flags.dry_run:
            check_login(flags.push_to_hub)
    options.quiet_libraries()
    loop = _import_loop()
    check_output(flags.output, data=flags.data)
    if flags.dry_run and config.base.name is not None:
        _show_memory(config, flags.data, push_to_hub=flags.push_to_hub)
        return
    if flags.dry_run:
        _show_cost(
            loop.Trainer(config, flags.data, None, init=flags.init), push_to_hub=flags.push_to_hub
        )
        return
    if flags.profile:
        _show_profile(loop.Trainer(config, flags.data, flags.output, init=flags.init))
        return
    trainer = loop.start(config, flags.data, flags.output, init=flags.init, force=flags.force)
    silent = messages.quiet or not trainer.is_main
    options.report(trainer.describe(), quiet=silent)
    if trainer.step:
        options.report(f"resumed at step {trainer.step}", quiet=silent)
    with _stopping(trainer):
        _show_progress(loop.run(trainer), silent=silent)
    if trainer.stop_signal:
        name = signal.Signals(trainer.stop_signal).name
        again = (
            f"saved at step {trainer.step}; the same command resumes the run"
            if trainer.step
            else "stopped before the first step; the same command begins the run again"
        )
        options.report(f"{name}: {again}", quiet=silent)
        raise typer.Exit(128 + trainer.stop_signal)
    if not trainer.is_main:
        return
    record = {"model": str(flags.output / "model")}
    if flags.push_to_hub:
        from condiff.models.hub import push_to_hub as push

        record["hub"] = push(flags.output / "model", flags.push_to_hub)
    print(json.dumps(record) if messages.as_json else "\n".join(record.values()))


def _import_loop() -> Any:
    from condiff.errors import DependencyError

    try:
        from condiff.training import loop
    except ModuleNotFoundError as error:
        raise DependencyError.of(f"Training needs {error.name}", extra="train") from error
    return loop


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
    casts = f"{cost.cast_bytes / 2**20:.0f} MiB of weights in half precision, "
    print(
        f"# at least {cost.memory(config.train_batch_size) / 2**30:.3g} GiB a device: "
        f"{cost.parameter_bytes / 2**20:.0f} MiB of weights, gradients and averages, "
        f"{casts if cost.cast_bytes else ''}"
        f"{cost.activation_bytes / 2**20:.1f} MiB of activations an image"
    )
    if push_to_hub:
        print(f"# would be pushed to {push_to_hub}")


def _show_memory(config: "TrainConfig", data: str, *, push_to_hub: str | None) -> None:
    """Print all settings as YAML, and as comments the data and the memory of each choice."""
    import torch

    from condiff.config import to_yaml
    from condiff.data.loading import build_dataset
    from condiff.models.base import read_base
    from condiff.tasks import task_of
    from condiff.training.memory import describe_frozen, make_table

    dataset = build_dataset(
        config,
        task_of(config),
        data,
        cache_dir=Path(),
        feature_channels={},
        device=torch.device("cpu"),
    )
    base = read_base(str(config.base.name))
    print(to_yaml(config), end="")
    print(f"# {config.task}: {dataset.describe()}")
    for line in make_table(base, config, words=base.words):
        print(f"# {line}")
    print(f"# {describe_frozen(base, config)}")
    if push_to_hub:
        print(f"# would be pushed to {push_to_hub}")


def _show_profile(trainer: "Trainer") -> None:
    """Print how long the parts of a step take."""
    from condiff.training.profile import profile

    list(trainer.fill_cache())
    table = profile(trainer).table()
    if trainer.is_main:
        print(f"{trainer.describe()}\n{table}")


def _show_progress(events: "Iterator[Filled | Logged]", *, silent: bool) -> None:
    """Draw a bar of the run on stderr; without a terminal, print a line for each checkpoint."""
    from tqdm import tqdm

    from condiff.training.loop import Logged

    hidden = silent or not sys.stderr.isatty()
    with tqdm(total=1000, disable=hidden, bar_format=BAR) as bar:
        for event in events:
            if isinstance(event, Logged):
                bar.set_description("training")
                bar.n = round(1000 * event.step.progress)
                bar.set_postfix_str(event.summary())
                if event.saved:
                    options.report(event.summary(), quiet=silent or not hidden)
            else:
                bar.set_description("backbone features")
                bar.n = round(1000 * event.done / max(1, event.total))
                bar.refresh()


@contextmanager
def _stopping(trainer: "Trainer") -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run after the current step; a later one ends it at once.

    Ctrl-C reaches a launcher and its processes, and torchrun then sends them SIGTERM as well, so
    signals within `SAME_SIGNAL` seconds of the first are the same.
    """
    first = 0.0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not trainer.stop_signal:
            trainer.stop_signal, first = number, time.monotonic()
        elif time.monotonic() - first > SAME_SIGNAL:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    before: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
