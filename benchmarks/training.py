"""Training speed of condiff and of a plain diffusers loop, in one run on one machine.

    python benchmarks/training.py PHOTOS --batch-size 16 --size 64 --rounds 5
    python benchmarks/training.py PHOTOS --batch-size 256 --size 64 --steps 50 --workers 16
        --mixed-precision bf16 --cache device --compile --channels 128 256 256 512  # on a GPU

Both train the same unconditional U-Net from the same photos at the same batch and size with AdamW,
an EMA and gradient clipping. The plain loop is written from the steps of diffusers' unconditional
image generation example (examples/unconditional_image_generation of huggingface/diffusers): photos
decoded by PIL at each access, resized, cropped and flipped, DDPMScheduler.add_noise, F.mse_loss,
accelerate around model, optimizer and loader, EMAModel after each step. The loops take turns, round
after round, and the best round of each counts. Prints images/s of both, their ratio, and condiff's
share of the peak speed of a matrix product on the device in that precision.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from condiff.config import TrainConfig
from condiff.sources.folders import open_source
from condiff.training.profile import count_cost, measure_peak, synchronize
from condiff.training.trainer import Trainer


class PlainPhotos(Dataset[Tensor]):
    """Photos with the example's transforms: resize, random crop, flip, normalise."""

    def __init__(self, root: Path, size: int, count: int):
        items = islice(open_source(str(root)).items(), count)
        self.files, self.size = [item.image for item in items], size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        image = Image.open(self.files[index].opened()).convert("RGB")
        scale = self.size / min(image.size)
        sides = tuple(max(self.size, round(side * scale)) for side in image.size)
        image = image.resize(sides, Image.Resampling.BILINEAR)
        left, top = (int(torch.randint(side - self.size + 1, ())) for side in sides)
        image = image.crop((left, top, left + self.size, top + self.size))
        if torch.rand(()) < 0.5:
            image = ImageOps.mirror(image)
        return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1)) / 127.5 - 1


def plain_steps(unet: UNet2DModel, args: argparse.Namespace) -> Iterator[Tensor]:
    """The example's loop; yields one loss per step."""
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    photos = PlainPhotos(args.photos, args.size, args.count)
    loader = DataLoader(
        photos, batch_size=args.batch_size, shuffle=True, num_workers=args.workers, drop_last=True
    )
    ema = EMAModel(unet.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    lr_scheduler = get_scheduler(
        "cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=100_000
    )
    model, optimizer, loader, lr_scheduler = accelerator.prepare(
        unet, optimizer, loader, lr_scheduler
    )
    ema.to(accelerator.device)
    model.train()
    while True:
        for clean in loader:
            noise = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device)
            t = torch.randint(0, 1000, (len(clean),), device=clean.device).long()
            noisy = scheduler.add_noise(clean, noise, t)
            with accelerator.accumulate(model):
                loss = F.mse_loss(model(noisy, t).sample.float(), noise.float())
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            ema.step(unet.parameters())
            yield loss.detach()


def our_trainer(args: argparse.Namespace, output: Path) -> Trainer:
    """The same training by condiff, with the options of the flags."""
    return Trainer(
        TrainConfig.model_validate(
            {
                "task": "none",
                "train_batch_size": args.batch_size,
                "max_train_steps": 1_000_000,
                "mixed_precision": args.mixed_precision,
                "compile": args.compile,
                "model": {
                    "sample_size": args.size,
                    "backbone_variant": None,
                    "block_out_channels": args.channels,
                    "norm_num_groups": 8,
                },
                "data": {
                    "size": args.size,
                    "min_crop": 1,
                    "max_photos": args.count,
                    "cache": args.cache,
                    "num_workers": args.workers if args.cache == "none" else 0,
                },
                "diffusion": {
                    "beta_schedule": "linear",
                    "prediction_type": "epsilon",
                    "rescale_betas_zero_snr": False,
                },
            }
        ),
        args.photos,
        output,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128, 128])
    parser.add_argument("--count", type=int, default=1000, help="photos")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="a round")
    parser.add_argument("--threads", type=int, help="of torch; default: all")
    parser.add_argument("--mixed-precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("--cache", choices=["none", "ram", "device"], default="ram")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(args, Path(folder))
        device = trainer.accelerator.device
        # A U-Net of the same shape, in diffusers' memory layout.
        plain_unet = UNet2DModel.from_config(trainer.model.unet.config)
        ours: Callable[[], object] = iter(trainer.steps()).__next__
        plain: Callable[[], object] = iter(plain_steps(plain_unet, args)).__next__
        best = {"condiff": math.inf, "diffusers": math.inf}
        for number in range(-1, args.rounds):
            for name, step in (("condiff", ours), ("diffusers", plain)):
                synchronize(device)
                began = time.perf_counter()
                for _ in islice(iter(step, None), args.steps):
                    pass
                synchronize(device)
                if number >= 0:  # the first round warms up
                    best[name] = min(best[name], time.perf_counter() - began)
        cost = count_cost(trainer, cached_features=False)
    rate = {name: args.steps * args.batch_size / seconds for name, seconds in best.items()}
    dtypes = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    peak = measure_peak(device, dtypes[args.mixed_precision])
    figures = {
        "images_per_second": {name: round(value, 2) for name, value in rate.items()},
        "ratio": round(rate["condiff"] / rate["diffusers"], 3),
        "gflop_an_image": round(cost.flops / 1e9, 3),
        "share_of_matrix_peak": round(rate["condiff"] * cost.flops / peak, 4),
        "device": str(device),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
