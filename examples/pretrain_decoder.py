"""Pretrain the feature decoder of a colorizer: a regression of chroma on the backbone's maps.

    python examples/pretrain_decoder.py MODEL --data PHOTOS --val val.parquet -o NEW
    condiff train --config configs/colorize-long.yaml --init NEW --data PHOTOS -o RUN

The decoder trains on the features of a few views of each photo, cached in the folder --cache, and
learns the mean chroma at its own resolution: about six times as many photos per second as training
the whole model. A view is exhausted after about five passes. The decoder's last layer stays zero,
so NEW gives the results of MODEL until it is trained. The share of the variance of a and b in other
photos that the regression explains is printed every --every steps. A run that is stopped by Ctrl-C
saves its result.
"""

import argparse
import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn

from condiff.config import parse_config
from condiff.data.crops import Batch
from condiff.data.feature_cache import FeatureCache
from condiff.data.loading import build_dataset, collate
from condiff.models.compiled_backbone import CompiledBackbone
from condiff.models.denoiser import Model, add_decoder
from condiff.models.feature_decoder import FeatureDecoder
from condiff.models.loading import load_model, save_model
from condiff.openvino_core import has_openvino
from condiff.tasks import Task

DROPPED = 0.1  # of the maps' channels
LAST_SHARE = 0.35  # of the steps, over which the learning rate falls to zero
EMA_DECAY = 0.998


def main() -> None:
    """Parse the arguments, cache the features, fit, and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a colorizer without a feature decoder")
    parser.add_argument("--data", type=Path, required=True, help="photos to train on")
    parser.add_argument("--files", nargs="+", help="patterns of names in a folder of parquet files")
    parser.add_argument("--val", type=Path, required=True, help="other photos")
    parser.add_argument("-o", "--out", type=Path, required=True, help="new model folder")
    parser.add_argument("--cache", type=Path, default=Path("features"), help="folder of features")
    parser.add_argument("--views", type=int, default=2, help="of each photo")
    parser.add_argument("--channels", type=int, default=128, help="of a new decoder")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--mirrored", type=float, default=0.25, help="share of batches")
    parser.add_argument("--every", type=int, default=500, help="steps between two lines")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} is there already: give a new folder")
    diffusers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    loaded = load_model(args.model)
    model = loaded.model.train()
    if model.encoder.decoder is not None:
        parser.error(f"{args.model} has a trained feature decoder: go on with condiff train")
    add_decoder(model, channels=args.channels)
    if has_openvino():
        model.encoder.compiled_backbone = CompiledBackbone(model.encoder.backbone)
    caches = [
        cache_features(model, loaded.task, args.data, args.cache / f"{view}", args.files, seed=view)
        for view in range(args.views)
    ]
    found = sum(map(len, caches))
    if found < args.batch:
        parser.error(f"{args.data} has {found} views for batches of {args.batch}: lower --batch")
    others = cache_features(model, loaded.task, args.val, args.cache / "val")
    fit(model.encoder.decoder, caches, others, args)
    save_model(
        args.out, model.eval(), task=loaded.task, diffusion=loaded.diffusion,
        dtype=torch.float32, condition_size=loaded.condition_size, sampling=loaded.sampling,
        looks=loaded.looks, second_stage=loaded.second_stage,
    )  # fmt: skip


def cache_features(
    model: Model,
    task: Task,
    photos: Path,
    folder: Path,
    patterns: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> FeatureCache:
    """Cache one view of each photo with the backbone's maps; existing rows are kept."""
    data: dict[str, object] = {"cache_features": True}
    if patterns:
        data["files"] = dict.fromkeys(patterns, 1_000_000)  # all rows of each
    settings = {"task": task.name, "max_train_steps": 1, "seed": seed, "data": data}
    config = parse_config(settings, origin="here")
    dataset = build_dataset(
        config, task, photos, cache_dir=folder,
        feature_channels=model.feature_channels, device=torch.device("cpu"),
        backbone=model.backbone.fingerprint() if model.backbone else "",
    )  # fmt: skip
    assert isinstance(dataset, FeatureCache)
    for done in dataset.fill(model.encoder.features, range(len(dataset))):
        if done % 400 == 0:
            print(f"{folder}: {done} of {len(dataset)} photos", flush=True)
    return dataset


def fit(
    decoder: FeatureDecoder,
    caches: Sequence[FeatureCache],
    others: FeatureCache,
    args: argparse.Namespace,
) -> None:
    """Train the decoder with a linear layer from its hidden channels to chroma; keep the EMA."""
    net = Regression(decoder)
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 100, (1 - step / args.steps) / LAST_SHARE),
    )
    rng, started = np.random.default_rng(0), time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        for step, batch in zip(range(1, args.steps + 1), batches(caches, args.batch), strict=False):
            features, x_0 = batch["features"], net.shrink(batch["x_0"])
            if rng.random() < args.mirrored:  # its maps are almost the mirrored ones
                features = {stride: values.flip(3) for stride, values in features.items()}
                x_0 = x_0.flip(3)
            loss = F.mse_loss(net(features), x_0)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(net)
            if step % args.every == 0 or step == args.steps:
                a, b = explained(average.module.eval(), others)
                minutes = (time.monotonic() - started) / 60
                line = f"step {step}, {step * args.batch} photos, {minutes:.1f} minutes"
                print(f"{line}: loss {loss:.5f}, explained of a {a:.3f}, of b {b:.3f}", flush=True)
    decoder.load_state_dict(average.module.decoder.state_dict())


class Regression(nn.Module):
    """Chroma (B,2,h,w), in x_0's units at the decoder's resolution, from a backbone's maps."""

    def __init__(self, decoder: FeatureDecoder):
        super().__init__()
        self.decoder = decoder
        self.to_chroma = nn.Conv2d(decoder.last.in_channels, 2, 1)
        nn.init.zeros_(self.to_chroma.weight)
        # The decoder's own last layer is not used.
        self.decoder.last.requires_grad_(False)

    def forward(self, features: dict[int, Tensor]) -> Tensor:
        if self.training:
            features = {s: F.dropout2d(values, DROPPED) for s, values in features.items()}
        return self.to_chroma(self.decoder.hidden(features))

    def shrink(self, x_0: Tensor) -> Tensor:
        """x_0 at the decoder's resolution; a view is 256²."""
        side = 256 // self.decoder.fine
        return F.interpolate(x_0, (side, side), mode="area")


def batches(caches: Sequence[FeatureCache], size: int) -> Iterator[Batch]:
    """Endless batches of all views of all photos, in a new order each time."""
    rng = np.random.default_rng(0)
    photos = len(caches[0])
    while True:
        order = rng.permutation(len(caches) * photos)
        for start in range(0, len(order) - size + 1, size):
            rows = (divmod(int(place), photos) for place in order[start : start + size])
            yield collate([caches[view][0, row] for view, row in rows])


@torch.no_grad()
def explained(net: Regression, photos: FeatureCache) -> tuple[float, float]:
    """The share of the variance of a and of b over 8 x 8 cells of all photos."""
    true, found = [], []
    for start in range(0, len(photos), 32):
        rows = range(start, min(start + 32, len(photos)))
        batch = collate([photos[0, row] for row in rows])
        for plane, cells in ((batch["x_0"], true), (net(batch["features"]), found)):
            cells.append(F.interpolate(plane, (8, 8), mode="area"))
    truth = torch.cat(true)
    error = (torch.cat(found) - truth).square().mean(dim=(0, 2, 3))
    a, b = (1 - error / truth.var(dim=(0, 2, 3), correction=0)).tolist()
    assert math.isfinite(a + b)
    return a, b


if __name__ == "__main__":
    main()
