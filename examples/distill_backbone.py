"""Teach a model's backbone to see in a grey photo or a line drawing what it sees in the colour one.

    torchrun --nproc_per_node 2 examples/distill_backbone.py colorize \\
        --config configs/colorize-long.yaml --data PHOTOS -o NEW --minutes 36
    condiff train --config configs/colorize-long.yaml --init NEW --data PHOTOS -o RUN

The published EfficientNet was trained on colour photos. A copy of it (the student) reads the
conditions of the task, such as grey photos, and is trained towards the maps and ImageNet classes
that the published one (the teacher) has for the colour pictures (Hinton et al. 2015,
arXiv:1503.02531). MODEL's own backbone may have been trained, too, so the student does not replace
it: the student's difference from the published weights is added to it (Ilharco et al. 2023,
arXiv:2212.04089), and NEW is MODEL with the sum. The other parts of NEW then have to get used to
it. The configuration's section `data` says how views are made. Ctrl-C saves the result.
"""

import argparse
import contextlib
import math
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from condiff.color.lab import lab_to_rgb_batch
from condiff.config import read_config
from condiff.data.crops import Batch
from condiff.data.loading import Dataset, build_dataset, load_batches
from condiff.models.backbone import EfficientNetLite, load_pretrained
from condiff.models.loading import load_model, save_model
from condiff.tasks import Task

WEIGHTS = {8: 0.3, 16: 0.5, 32: 1.0}  # of the maps' errors, by stride
CLASSES_WEIGHT = 0.5
WARMUP = 60  # steps
LAST_SHARE = 0.5  # of the time, over which the learning rate falls to zero
EMA_DECAY = 0.997
EVERY = 50  # steps between two lines


def main() -> None:
    """Parse the arguments, train the student, add its difference to the backbone, and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model folder, or an embedded model by name")
    parser.add_argument("--config", type=Path, required=True, help="its section data is used")
    parser.add_argument("--data", type=Path, required=True, help="photos to train on")
    parser.add_argument("-o", "--out", type=Path, required=True, help="new model folder")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--batch", type=int, default=32, help="of all processes")
    parser.add_argument("--rate", type=float, default=8e-5, help="learning rate")
    parser.add_argument("--share", type=float, default=1.0, help="of the difference that is added")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} is there already: give a new folder")
    torch.set_num_threads(1)
    if "RANK" in os.environ:  # set by torchrun
        dist.init_process_group("gloo")
    if args.batch % processes():
        parser.error(f"--batch {args.batch} is not a multiple of the {processes()} processes")

    loaded = load_model(args.model)
    encoder = loaded.model.float().encoder
    if encoder.backbone is None:
        parser.error(f"{args.model} has no backbone")
    own = encoder.backbone.state_dict()
    variant = encoder.config["backbone_variant"]
    teacher = load_pretrained(variant, with_head=True).requires_grad_(False)
    published = load_pretrained(variant)
    encoder.backbone = load_pretrained(variant)
    dataset = build_views(args, loaded.task)
    student = Distillation(teacher, encoder, loaded.task)
    average = fit(student, dataset, args)
    change = {name: average[name] - weight for name, weight in published.state_dict().items()}
    sums = {name: weight + args.share * change[name] for name, weight in own.items()}
    encoder.backbone.load_state_dict(sums)
    if process() == 0:
        save_model(
            args.out, loaded.model.eval(), task=loaded.task, diffusion=loaded.diffusion,
            dtype=torch.float32, condition_size=loaded.condition_size, sampling=loaded.sampling,
            looks=loaded.looks, second_stage=loaded.second_stage,
        )  # fmt: skip


def process() -> int:
    """The number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many share every batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def build_views(args: argparse.Namespace, task: Task) -> Dataset:
    """The views of the photos, with x_0 at the size of the condition."""
    size = read_config(args.config).data.size
    whole = ["model.fold=1", "model.patch_size=1", f"model.sample_size={size}"]
    config = read_config(args.config, [*whole, "data.hint_prob=0", "data.recolor=0"])
    return build_dataset(
        config, task, args.data, cache_dir=args.out, feature_channels={}, device=torch.device("cpu")
    )


class Distillation(nn.Module):
    """The error of the maps and classes of an encoder's backbone, the student."""

    def __init__(self, teacher: EfficientNetLite, encoder: nn.Module, task: Task):
        super().__init__()
        self.teacher, self.encoder, self.task = teacher, encoder, task
        self.variances: dict[int, Tensor] = {}  # of the teacher's channels, by stride
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted errors by name; each error of a map is relative to its variance."""
        with torch.no_grad():
            theirs = self.teacher(self.picture_of(batch))
        ours = self.encoder.features(batch["condition"])
        errors = {}
        for stride in ours.keys() & WEIGHTS:
            true = theirs[stride].float()
            error = (ours[stride].float() - true).square().mean(dim=(0, 2, 3))
            variance = self._variance(stride, true)
            relative = error / (variance + 0.05 * variance.mean())
            errors[f"stride {stride}"] = WEIGHTS[stride] * relative.mean()
        if 32 in ours:
            wanted = self._classes(theirs[32]).detach()
            found = self._classes(ours[32])
            errors["classes"] = CLASSES_WEIGHT * F.kl_div(
                found, wanted, reduction="batchmean", log_target=True
            )
        return errors

    def picture_of(self, batch: Batch) -> Tensor:
        """The colour pictures (B,3,H,W) in [0,1] of a batch."""
        space, x_0, condition = self.task.space, batch["x_0"], batch["condition"]
        if space.keeps_photo:
            return lab_to_rgb_batch(torch.cat([50 * (condition + 1), space.scale * x_0], dim=1))
        return ((x_0 + 1) / 2).clamp(0, 1)

    def _classes(self, maps: Tensor) -> Tensor:
        return self.teacher.classify_map(maps)[1].float().log_softmax(dim=1)

    def _variance(self, stride: int, true: Tensor) -> Tensor:
        """A moving average of the variance (C,) of the teacher's channels."""
        variance = true.var(dim=(0, 2, 3))
        before = self.variances.get(stride, variance)
        self.variances[stride] = before.lerp(variance, 0.02)
        return self.variances[stride]


def fit(student: Distillation, dataset: Dataset, args: argparse.Namespace) -> dict[str, Tensor]:
    """Train the student's backbone; the average of its weights by name."""
    backbone = student.encoder.backbone.requires_grad_(True)
    batches = load_batches(
        dataset, batch_size=args.batch // processes(), process=process(), num_processes=processes()
    )
    average = torch.optim.swa_utils.AveragedModel(
        backbone, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=args.rate, weight_decay=0.01)
    started = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        for step, batch in enumerate(batches, 1):
            minutes = from_first((time.monotonic() - started) / 60)
            if minutes >= args.minutes:
                break
            fallen = (1 - minutes / args.minutes) / LAST_SHARE
            for group in optimizer.param_groups:
                group["lr"] = args.rate * min(1, step / WARMUP, fallen)
            with torch.autocast("cpu", torch.bfloat16):
                errors = student(batch)
            loss = torch.stack(list(errors.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            add_up(backbone)
            nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(backbone)
            if process() == 0 and step % EVERY == 0:
                parts = ", ".join(f"{name} {error.item():.3f}" for name, error in errors.items())
                print(f"step {step}, {minutes:.1f} minutes: {parts}", flush=True)
            assert math.isfinite(loss.item())
    return average.module.state_dict()


def from_first(value: float) -> float:
    """The first process's value, in all processes."""
    shared = torch.tensor(value, dtype=torch.float64)
    if dist.is_initialized():
        dist.broadcast(shared, 0)
    return shared.item()


def add_up(net: nn.Module) -> None:
    """Average the gradients over all processes."""
    if not dist.is_initialized():
        return
    for parameter in net.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= processes()


if __name__ == "__main__":
    main()
