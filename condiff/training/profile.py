"""The cost of a training step: FLOPs and memory counted, time measured part by part."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from condiff.models.denoiser import Model
from condiff.training.accelerator import is_sharded, local_part
from condiff.training.memory import keeping, storage_of
from condiff.training.trainer import Trainer

BYTES_A_PARAMETER = 4 * 5  # weight, gradient, two moments of AdamW, average; single precision


@dataclass(frozen=True)
class Cost:
    """The cost of training on one image: FLOPs forward and backward, bytes kept in between."""

    flops: int
    activation_bytes: int
    parameter_bytes: int  # weights, gradients, moments and averages; independent of the batch
    cast_bytes: int  # of weights, by mixed precision; independent of the batch

    def memory(self, batch_size: int) -> int:
        """Bytes that a step keeps on a device, without temporary buffers."""
        return self.parameter_bytes + self.cast_bytes + batch_size * self.activation_bytes


def count_cost(trainer: Trainer, *, cached_features: bool) -> Cost:
    """Count the cost of one image forward and backward, on the run's device, in its precision.

    With cached features the backbone is not counted: it runs once per photo, not in each step.
    """
    # The difference of two batches is the part that grows. A batch of one image is no measure: some
    # of its transposed tensors need no copy.
    flops_of_two, kept_of_two = _count_step(trainer, 2, cached_features=cached_features)
    flops_of_three, kept_of_three = _count_step(trainer, 3, cached_features=cached_features)
    an_image = kept_of_three - kept_of_two
    # Single precision casts nothing, but FSDP gathers weights, which are counted below.
    in_mixed_precision = trainer.arithmetic.mixed_precision != "no"
    share = sum(local_part(p).numel() for p in trainer.model.trainable())
    # Besides the shard: frozen weights, and in FSDP the weights gathered for use.
    copied = sum(p.numel() for p in trainer.model.parameters())
    if not is_sharded(trainer.model):
        copied -= share
    return Cost(
        flops=flops_of_three - flops_of_two,
        activation_bytes=an_image,
        parameter_bytes=BYTES_A_PARAMETER * share + 4 * copied,
        cast_bytes=kept_of_two - 2 * an_image if in_mixed_precision else 0,
    )


def _count_step(trainer: Trainer, images: int, *, cached_features: bool) -> tuple[int, int]:
    """FLOPs of a step on that many images, and the bytes that it keeps besides the weights."""
    kept: dict[int, int] = {}
    model = trainer.model
    batch = trainer.first_batch(images)
    if cached_features and batch["features"] is None and isinstance(model, Model):
        batch["features"] = model.encoder.features(batch["condition"])
    with (
        # Operations of OpenVINO are not counted.
        model.encoder.backbone_by(None) if isinstance(model, Model) else nullcontext(),
        # torch.compile marks a network that first runs under a counter as not compilable.
        torch.compiler.set_stance("force_eager"),
        FlopCounterMode(display=False) as counter,
        keeping(kept),
    ):
        error, _ = trainer.error(batch, 0, alone=True)
        weights = {storage_of(p) for p in model.parameters()}
        error.mean().backward()
    trainer.optimizer.zero_grad()
    bytes_kept = sum(size for storage, size in kept.items() if storage not in weights)
    return counter.get_total_flops(), bytes_kept


def measure_peak(device: torch.device, dtype: torch.dtype, *, seconds: float = 1.0) -> float:
    """FLOP/s of a large matrix product, as an estimate of the device's peak."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best, end = float("inf"), time.monotonic() + seconds
    while time.monotonic() < end or best == float("inf"):
        best = min(best, timed(lambda: a @ b, device))
    return 2 * side**3 / best


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has finished some work."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class Profile:
    """Seconds per step of each part, and the FLOP/s compared with the device's peak."""

    parts: dict[str, float]
    batch_size: int  # images per step on this device
    flops: float  # FLOP/s reached
    peak: float  # FLOP/s of a matrix product

    def table(self) -> str:
        """The profile as lines for a terminal."""
        total = sum(self.parts.values())
        lines = [
            f"  {name:<10} {1000 * seconds:8.1f} ms {100 * seconds / total:5.1f} %"
            for name, seconds in self.parts.items()
        ]
        return "\n".join(
            [
                f"{self.batch_size / total:.1f} images/s, {1000 * total:.1f} ms a step of "
                f"{self.batch_size}",
                *lines,
                f"{self.flops / 1e12:.3f} TFLOP/s, {100 * self.flops / self.peak:.1f} % of "
                f"{self.peak / 1e12:.3f} TFLOP/s that a matrix product reaches here",
            ]
        )


def profile(trainer: Trainer, *, steps: int = 20, warm_up: int = 3) -> Profile:
    """Time the parts of `steps` steps; unlike in a run, each part waits for the one before.

    This changes the weights: use another Trainer for the run.
    """
    device = trainer.accelerator.device
    cost = count_cost(trainer, cached_features=trainer.config.data.cache_features)
    precision = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    dtype = precision[trainer.arithmetic.mixed_precision]
    batches = trainer.batches()
    parts = dict.fromkeys(("data", "forward", "backward", "update"), 0.0)
    trainer.parallel.train()
    made: dict[str, Any] = {}
    work: dict[str, Callable[[], object]] = {
        "data": lambda: made.update(batch=next(batches)),
        "forward": lambda: made.update(loss=trainer.error(made["batch"], 0)[0].mean()),
        "backward": lambda: trainer.accelerator.backward(made["loss"]),
        "update": trainer.update,
    }
    for number in range(-warm_up, steps):
        for name, part in work.items():
            seconds = timed(part, device)
            parts[name] += seconds if number >= 0 else 0
    total = sum(parts.values())
    size = trainer.config.train_batch_size
    return Profile(
        parts={name: seconds / steps for name, seconds in parts.items()},
        batch_size=size,
        flops=cost.flops * size * steps / total,
        peak=measure_peak(device, dtype),
    )
