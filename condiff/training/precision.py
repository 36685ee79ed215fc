"""The precision and memory layout of a run: as configured, or the fastest."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from torch import Tensor

from condiff.config import TrainConfig
from condiff.data.crops import Batch
from condiff.diffusion.diffusers_schedulers import build_scheduler
from condiff.errors import ConfigError
from condiff.models.compiled_backbone import CompiledBackbone
from condiff.models.condition_encoder import ConditionEncoder
from condiff.models.denoiser import Denoiser, Model
from condiff.models.latent import LatentModel
from condiff.openvino_core import has_openvino
from condiff.tasks import Task
from condiff.training.loss import batch_error

logger = logging.getLogger(__name__)

Precision = Literal["no", "fp16", "bf16"]
BackboneLibrary = Literal["torch", "openvino"]  # that runs the frozen backbone
# CPU flags of bfloat16 instructions; without them bfloat16 is emulated.
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one is of ARM
ROUNDS, MEASURED_BATCH = 3, 8  # timed steps per candidate, and largest batch


@dataclass(frozen=True)
class Arithmetic:
    """How the steps of a run are computed, and why."""

    mixed_precision: Precision
    channels_last: bool
    why: str = "as the settings say"
    backbone: BackboneLibrary = "torch"

    def describe(self) -> str:
        """Precision, layout, the backbone's library if it is not torch, and the reason."""
        names = {"no": "float32", "fp16": "float16", "bf16": "bfloat16"}
        layout = "channels last" if self.channels_last else "channels first"
        library = "" if self.backbone == "torch" else f", backbone by {self.backbone}"
        return f"{names[self.mixed_precision]}, {layout}{library}: {self.why}"

    @property
    def dtype(self) -> torch.dtype | None:
        """The half precision of mixed precision; None without it."""
        return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.mixed_precision)

    def state(self) -> dict[str, Any]:
        """The state in a checkpoint; `Arithmetic(**state)` restores it."""
        return asdict(self)


def choose_arithmetic(
    config: TrainConfig, task: Task, build: Callable[[], Denoiser], *, kept: dict[str, Any] | None
) -> Arithmetic:
    """The arithmetic of a run: as configured, or for `mixed_precision: auto` the fastest.

    A GPU uses bfloat16 if it supports it. A CPU runs a few steps of each candidate on random
    photos, with a model of `build`: float32 in both layouts, bfloat16 if it has instructions for
    it, and the frozen backbone by torch and by OpenVINO. A resumed run keeps its first choice,
    `kept`. All processes use the choice of the main one.
    """
    # Like Accelerator: without this, CPU processes would not be connected.
    process = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    on_cpu = process.device.type == "cpu"
    if on_cpu and config.mixed_precision == "fp16":
        raise ConfigError(
            "mixed_precision fp16 needs a GPU, but there is none here: set it to auto, which uses "
            "bf16 if the processor has instructions for it, or to no."
        )
    if config.mixed_precision != "auto":
        return Arithmetic(config.mixed_precision, channels_last=not on_cpu)
    if kept is not None:
        return Arithmetic(**kept)
    if not on_cpu:
        has_bf16 = process.device.type == "cuda" and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        why = f"the GPU has {'bfloat16' if has_bf16 else 'no bfloat16'}"
        return Arithmetic("bf16" if has_bf16 else "no", channels_last=True, why=why)
    found = None
    if process.is_main_process:
        found = measure_arithmetic(build(), config, task, flags=read_cpu_flags())
    (chosen,) = broadcast_object_list([found])
    return cast(Arithmetic, chosen)


def measure_arithmetic(
    model: Denoiser, config: TrainConfig, task: Task, *, flags: set[str]
) -> Arithmetic:
    """The fastest candidate on a CPU with these features, by the best of a few steps each.

    The candidates take turns, so that other load on the machine affects all of them.
    """
    candidates: list[tuple[Precision, bool]] = [("no", False), ("no", True)]
    has_bf16 = bool(BF16_FLAGS & flags)
    if has_bf16:
        candidates.append(("bf16", True))
    batch = _random_batch(model, config, task)
    size = len(batch["x_0"])
    best = dict.fromkeys(candidates, float("inf"))
    for number in range(-1, ROUNDS):  # the first round warms up
        for candidate in candidates:
            seconds = _time_step(model, batch, config, task, *candidate)
            if number >= 0:
                best[candidate] = min(best[candidate], seconds)
    precision, channels_last = min(candidates, key=lambda candidate: best[candidate])
    rates = ", ".join(
        f"{size / best[candidate]:.3g} in {Arithmetic(*candidate, why='').describe()[:-2]}"
        for candidate in candidates
    )
    lacks = "" if has_bf16 else "; the processor has no instructions for bfloat16"
    why = f"the most images/s of {rates}{lacks}"
    runs_backbone = model.backbone is not None and batch["features"] is None
    if not isinstance(model, Model) or not runs_backbone or config.optimizer.backbone_rate:
        return Arithmetic(precision, channels_last, why)
    lay_out(model, channels_last=channels_last)
    library, speeds = measure_backbone(model.encoder, batch["condition"], precision)
    return Arithmetic(precision, channels_last, f"{why}; {speeds}", library)


def measure_backbone(
    encoder: ConditionEncoder, condition: Tensor, precision: Precision
) -> tuple[BackboneLibrary, str]:
    """The faster library for the backbone on conditions (B,N,H,W), and the speeds as text.

    OpenVINO computes in single precision, torch in that of the run.
    """
    if not has_openvino():
        return "torch", "openvino, which may run the backbone faster, is not installed"
    assert encoder.backbone is not None
    libraries: dict[BackboneLibrary, CompiledBackbone | None] = {
        "torch": None,
        "openvino": CompiledBackbone(encoder.backbone),
    }
    best = dict.fromkeys(libraries, float("inf"))
    for number in range(-1, ROUNDS):  # the first round compiles
        for name, compiled in libraries.items():
            began = time.perf_counter()
            with encoder.backbone_by(compiled), _autocast(precision):
                encoder.features(condition)
            if number >= 0:
                best[name] = min(best[name], time.perf_counter() - began)
    rates = " and ".join(f"{len(condition) / best[n]:.3g} by {n}" for n in libraries)
    return min(libraries, key=lambda name: best[name]), f"of the backbone {rates}"


def read_cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The names of the processor's features; empty if the system does not list them."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return set()
    names = (line.partition(":") for line in lines)
    return {n for key, _, ns in names if key.strip() in ("flags", "Features") for n in ns.split()}


def _random_batch(model: Denoiser, config: TrainConfig, task: Task) -> Batch:
    count = min(config.train_batch_size, MEASURED_BATCH)
    generator = torch.Generator().manual_seed(0)
    side = task.condition_size(config)
    x_0 = torch.randn(
        (count, task.space.channels, *[config.model.sample_size] * 2), generator=generator
    )
    condition = torch.rand((count, task.condition_channels, side, side), generator=generator)
    condition = 2 * condition - 1
    if isinstance(model, LatentModel):
        moments = torch.cat([x_0, torch.zeros_like(x_0)], dim=1)
        words = model.null_words.expand(count, -1, -1)
        return {"x_0": moments, "condition": x_0, "features": None, "words": words}
    features = None
    if config.data.cache_features and isinstance(model, Model):
        features = model.encoder.features(condition)
    batch: Batch = {"x_0": x_0, "condition": condition, "features": features or None}
    if isinstance(model, Model) and model.text_encoder is not None:
        batch["tokens"] = model.tokenize(["some words of a caption"] * count)
    return batch


def _time_step(
    model: Denoiser,
    batch: Batch,
    config: TrainConfig,
    task: Task,
    precision: Precision,
    channels_last: bool,
) -> float:
    """Seconds of one forward and backward pass."""
    model.train()
    lay_out(model, channels_last=channels_last)
    alphas_bar = build_scheduler("ddpm", config.diffusion).alphas_cumprod
    began = time.perf_counter()
    with _autocast(precision):
        error, _ = batch_error(model, batch, 0, config=config, task=task, alphas_bar=alphas_bar)
    error.mean().backward()
    seconds = time.perf_counter() - began
    model.zero_grad()
    return seconds


def _autocast(precision: Precision) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


def prepare_model(model: Denoiser, arithmetic: Arithmetic) -> None:
    """Set the model's memory layout and the backbone's library.

    A run resumed on a GPU, or without that library, continues with torch.
    """
    lay_out(model, channels_last=arithmetic.channels_last)
    encoder = model.encoder if isinstance(model, Model) else None
    if arithmetic.backbone != "openvino" or encoder is None or encoder.backbone is None:
        return
    if model.unet.device.type != "cpu":
        return
    if not has_openvino():
        logger.warning("openvino is not installed: torch runs the backbone instead, more slowly")
        return
    encoder.compiled_backbone = CompiledBackbone(encoder.backbone)


def lay_out(model: Denoiser, *, channels_last: bool) -> None:
    """Set the memory layout of the weights, and of x_t in training."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout)  # type: ignore[call-overload]
    model.trains_channels_last = channels_last
