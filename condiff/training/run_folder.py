"""A run's folder: its configuration, metrics, samples and checkpoints.

RUN/config.yaml               all settings, with their defaults
RUN/metrics.jsonl             one line every `log_steps` steps
RUN/curves.png                losses and learning rate
RUN/samples/                  grids of samples
RUN/cache/                    features or latents of all photos, with data.cache_features
RUN/checkpoints/step-000500/  the state to resume from; `state.json` is written last
RUN/model/                    the averaged weights: a model folder to use and share
"""

import json
import logging
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import safetensors.torch
from pydantic import BaseModel
from torch import Tensor

from condiff.config import TrainConfig, parse_config, read_yaml, to_yaml
from condiff.errors import CheckpointError, ConfigError, TrainingError
from condiff.files import lock_file, part_name, replace_folder, write_text
from condiff.models.info import INDEX

logger = logging.getLogger(__name__)

STATE, LOCK = "state.json", ".lock"
NAME = re.compile(r"step-(\d{6,})")
IMAGES = "images per step"  # of all processes and accumulated batches, in `state.json`
FOLDERS = ("checkpoints", "samples", "model")
FILES = ("metrics.jsonl", "config.yaml", "curves.png")

# Settings, or sections, that may change when a run is resumed: duration, output, details of
# computation, and how the trained model is sampled. The batch may be divided differently;
# `Trainer.resume` compares the images per step.
FREE_KEYS = {
    "train_batch_size",
    "gradient_accumulation_steps",
    "max_train_steps",
    "max_minutes",
    "sample_steps",
    "log_steps",
    "keep_checkpoints",
    "tracker",
    "compile",
    "gradient_checkpointing",
    "data.num_workers",
    "sampling",
    "looks",
}


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: its folder and the content of its `state.json`."""

    folder: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Number of optimizer steps done."""
        return int(self.state["step"])

    def read(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of its files, `model`, `ema` or `optimizer`, by name."""
        return safetensors.torch.load_file(self.folder / f"{name}.safetensors")


def check_output(output: Path, *, data: str) -> None:
    """Raise ConfigError if a run would remove files of others, or train on its own samples.

    Call it before the work. `data` is the argument of the command.
    """
    source = Path(data)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file: give a folder with -o.")
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise ConfigError(
            f"The run's folder {output} is inside that of the photos, {data}: its sample grids "
            "would become photos. Choose another folder with -o."
        )
    found = next((name for name in (*FOLDERS, *FILES) if (output / name).exists()), None)
    if found and not _is_run(output):
        raise ConfigError(
            f"{output} contains {found}, but was not made by `condiff train`: a run would "
            "overwrite it. Choose another folder with -o."
        )


def _is_run(output: Path) -> bool:
    """Whether a run wrote the folder: config.yaml has every section, and no model is in it."""
    if (output / INDEX).exists():
        return False
    try:
        values = read_yaml(output / "config.yaml")
    except ConfigError:
        return False
    return values.keys() >= {"task", "seed", "log_steps", "model", "diffusion", "data", "optimizer"}


def find_start(
    output: Path, config: TrainConfig, *, data: str, init: str | None = None
) -> Checkpoint | None:
    """The newest complete checkpoint of a run, to resume from; None for a new run. Only reads.

    `data` and `init` are the arguments of the command: the data and the weights to start from.
    Raises ConfigError if the run was begun with other settings, data or weights, or if the folder
    contains a model but no checkpoint.
    """
    newest = next(find_checkpoints(output, resume=True), None)
    if newest is None:
        if (output / "model").exists():
            raise ConfigError(
                f"{output} contains a model but no checkpoint to resume from: choose another "
                "folder, or start over with --force."
            )
        return None
    begun = parse_config(read_yaml(output / "config.yaml"), origin=str(output / "config.yaml"))
    fixed = {key: value for key, value in flatten(config).items() if not _is_free(key)}
    refuse_changes(output, flatten(begun), fixed)
    if IMAGES not in newest.state:  # written before the batch could be divided differently
        of_one = begun.train_batch_size * begun.gradient_accumulation_steps
        newest.state[IMAGES] = of_one * int(newest.state.get("processes", 1))
    before = {"--data": newest.state["data"], "--init": newest.state.get("init", init)}
    refuse_changes(
        output,
        {key: _where(place) for key, place in before.items()},
        {"--data": _where(data), "--init": _where(init)},
    )
    return newest


def _is_free(key: str) -> bool:
    return key in FREE_KEYS or key.partition(".")[0] in FREE_KEYS


def _where(place: str | None) -> str | None:
    """The absolute path of a folder, so that spellings can be compared; Hub ids are unchanged."""
    return str(Path(place).resolve()) if place and Path(place).exists() else place


def begin(output: Path, config: TrainConfig, start: Checkpoint | None) -> None:
    """Prepare the folder: remove all files written after the checkpoint `start`, or of the run.

    The feature cache is kept: it checks which photos it belongs to.
    """
    try:
        if start is None:
            clear(output)
        else:
            cut_metrics(output / "metrics.jsonl", start.step)
        (output / "samples").mkdir(parents=True, exist_ok=True)
        write_text(output / "config.yaml", to_yaml(config))
    except OSError as error:
        raise TrainingError(
            f"Cannot write into {output}: {error.strerror}. Choose another folder with -o."
        ) from error


def refuse_changes(output: Path, begun: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ConfigError for the first setting of `now` that differs from `begun`."""
    for key, value in now.items():
        if begun.get(key) != value:
            raise ConfigError(
                f"The run in {output} was begun with {key} = {begun.get(key)}, not {value}: give "
                "the same settings to resume, choose another folder, or start over with --force."
            )


def refuse_nan(output: Path, loss: float, *, step: int) -> None:
    """Raise TrainingError if the loss of a step is nan or infinite."""
    if math.isfinite(loss):
        return
    newest = next(find_checkpoints(output), None)
    good = f"The last good checkpoint is {newest.folder}" if newest else "There is no checkpoint"
    raise TrainingError(
        f"The loss of step {step} is {loss}. {good}; start again in a new folder with a lower "
        "optimizer.learning_rate, or with mixed_precision bf16 where it was fp16."
    )


def flatten(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """All settings by their dotted keys, such as data.size."""
    flat: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def clear(output: Path) -> None:
    """Remove the files of a run, except the feature cache."""
    for name in FOLDERS:
        shutil.rmtree(output / name, ignore_errors=True)
    for name in FILES:
        (output / name).unlink(missing_ok=True)


def cut_metrics(path: Path, step: int) -> None:
    """Remove the lines after `step`, and an incomplete last line of a killed process."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            continue
    write_text(path, "".join(kept))


def lock_run(output: Path) -> IO[bytes]:
    """Lock a run's folder for this process until the returned file is closed: see `lock_file`.

    Raises TrainingError if another process trains in the folder, or if it is not writable.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        return lock_file(output / LOCK)
    except BlockingIOError:
        raise TrainingError(
            f"Another process trains in {output}: wait for it, or choose another folder with -o."
        ) from None
    except OSError as error:
        raise TrainingError(
            f"Cannot write into {output}: {error.strerror}. Choose another folder with -o."
        ) from error


def write_checkpoint(
    output: Path, state: dict[str, Any], tensors: dict[str, dict[str, Tensor]]
) -> Path:
    """Write checkpoints/step-NNNNNN atomically and return it.

    Raises CheckpointError if it cannot be written.
    """
    folder = output / "checkpoints" / f"step-{state['step']:06d}"
    part = folder.with_name(part_name(folder.name))  # two processes may write the same step
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        sizes, sums = {}, {}
        for name, values in tensors.items():
            data = safetensors.torch.save(values)
            sizes[name], sums[name] = len(data), zlib.crc32(data)
            _write(part / f"{name}.safetensors", data)
        _write(part / STATE, json.dumps({**state, "sizes": sizes, "checksums": sums}).encode())
        replace_folder(part, folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(
            f"Cannot write the checkpoint {folder}: {error.strerror}. Earlier checkpoints "
            "are intact: make room and run the same command again."
        ) from error
    return folder


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def find_checkpoints(output: Path, *, resume: bool = False) -> Iterator[Checkpoint]:
    """The complete checkpoints of a run, newest first.

    With `resume`, files are verified, and damaged checkpoints are skipped with a warning.
    """
    folders = [p for p in (output / "checkpoints").glob("step-*") if NAME.fullmatch(p.name)]
    for folder in sorted(folders, key=lambda p: int(p.name[5:]), reverse=True):
        try:
            state = json.loads((folder / STATE).read_text("utf-8"))
            for name, size in state["sizes"].items():
                if (folder / f"{name}.safetensors").stat().st_size != size:
                    raise ValueError(f"{name}.safetensors is truncated")
            int(state["step"]), float(state["smoothed_loss"])
            for name, value in state.get("checksums", {}).items() if resume else ():
                if _checksum(folder / f"{name}.safetensors") != value:
                    raise ValueError(f"{name}.safetensors does not match its checksum")
            yield Checkpoint(folder, state)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if resume:
                logger.warning("%s is damaged and skipped: %s", folder, error)


def prune_checkpoints(output: Path, *, keep: int) -> None:
    """Remove all checkpoints except the newest `keep` and the one with the lowest smoothed loss."""
    whole = list(find_checkpoints(output))
    if not whole:
        return
    best = min(whole, key=lambda c: _finite(float(c.state["smoothed_loss"])))
    for checkpoint in whole[keep:]:
        if checkpoint is not best:
            shutil.rmtree(checkpoint.folder)


def _finite(loss: float) -> float:
    """The loss, with infinity for nan (no loss yet), as nan cannot be compared."""
    return math.inf if math.isnan(loss) else loss
