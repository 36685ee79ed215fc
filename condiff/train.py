"""The training loop: a generator of steps. The only module that knows accelerate."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor

from condiff.checkpoint import load_model, save_model
from condiff.color import lab_to_rgb
from condiff.config import TrainConfig, to_yaml
from condiff.data import Batch, Dataset, FeatureCache, build_dataset, load_batches
from condiff.diffusion import build_scheduler, denoise, initial_noise, squared_error
from condiff.errors import ConfigError
from condiff.figures import make_contact_sheet
from condiff.hints import simulate_hints
from condiff.model import Model, build_model
from condiff.tasks import Task, find_task

DECILES = 10


@dataclass(frozen=True)
class Step:
    """What one optimizer step came to."""

    step: int
    loss: float
    decile_losses: list[float]  # of this step's images; nan where no timestep fell
    learning_rate: float
    images_per_second: float
    minutes: float
    progress: float  # 0..1 of the run


@dataclass(frozen=True)
class Filled:
    """Feature cache: so many photos of all are done."""

    done: int
    total: int


class Trainer:
    """Everything a run holds; `steps()` makes it go, the caller looks, samples and saves."""

    def __init__(self, config: TrainConfig, data: Path, output: Path, *, init: str | None = None):
        self.config, self.output = config, output
        self.task: Task = find_task(config.task)
        if self.task.name != "colorize":
            raise ConfigError(f"The task {self.task.name} cannot be trained yet: use colorize.")
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
        torch.manual_seed(config.seed)  # the same weights on every process
        self.model: Model = (
            load_model(init).model.train() if init else build_model(config.model, self.task)
        )
        self.model.unet.register_to_config(sample_size=config.model.sample_size)
        self.ema = EMAModel(
            self.model.trainable(),
            decay=config.optimizer.ema_decay,
            use_ema_warmup=True,
            power=0.75,
            foreach=True,
        )
        self.dataset = self._dataset(data)
        self.scheduler = build_scheduler("ddpm", config.diffusion)

    def _dataset(self, data: Path) -> Dataset:
        config, accelerator = self.config, self.accelerator

        def build() -> Dataset:
            return build_dataset(
                config,
                self.task,
                data,
                cache_dir=self.output / "cache",
                feature_channels=self.model.encoder.feature_channels,
                device=accelerator.device,
            )

        if config.data.cache_features:
            with accelerator.main_process_first():  # one process makes the files
                return build()
        return build()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.accelerator.is_main_process)

    def describe(self) -> str:
        """One line: what is trained on what."""
        count = sum(p.numel() for p in self.model.trainable()) / 1e6
        processes = self.accelerator.num_processes
        batch = self.config.train_batch_size * processes * self.config.gradient_accumulation_steps
        return (
            f"{self.task.name}: {self.dataset.describe()}; {count:.1f} M parameters to train, "
            f"batches of {batch}, {processes} x {self.accelerator.device.type}"
        )

    def fill_cache(self) -> Iterator[Filled]:
        """Run the frozen backbone once over every photo, each process over its share."""
        if isinstance(self.dataset, FeatureCache):
            process, count = self.accelerator.process_index, self.accelerator.num_processes
            rows = range(process, len(self.dataset), count)
            for done in self.dataset.fill(self.model.encoder.features, rows):
                yield Filled(done, len(rows))
        self.accelerator.wait_for_everyone()

    def steps(self) -> Iterator[Step]:
        """Train until the configured end; one item for each optimizer step."""
        config, accelerator = self.config, self.accelerator
        # Each process draws its own noise and timesteps.
        torch.manual_seed(config.seed + 1 + accelerator.process_index)
        optimizer = torch.optim.AdamW(
            self.model.trainable(),
            lr=config.optimizer.learning_rate,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        batches = load_batches(
            self.dataset,
            batch_size=config.train_batch_size,
            process=accelerator.process_index,
            num_processes=accelerator.num_processes,
            device=accelerator.device,
        )
        model, optimizer = accelerator.prepare(self.model, optimizer)
        self.ema.to(accelerator.device)
        alphas_bar = self.scheduler.alphas_cumprod.to(accelerator.device)
        started = last = time.monotonic()
        step, images = 0, 0
        model.train()
        for batch in batches:
            with accelerator.accumulate(model):
                progress = self._progress(step, started)
                learning_rate = self._learning_rate(step, progress)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate
                error, t = self._error(model, batch, alphas_bar)
                accelerator.backward(error.mean())
                images += len(t) * accelerator.num_processes
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(
                        self.model.trainable(), config.optimizer.max_grad_norm
                    )
                optimizer.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            self.ema.step(self.model.trainable())
            step += 1
            now = time.monotonic()
            error, t = accelerator.gather((error.detach(), t))
            yield Step(
                step=step,
                loss=float(error.mean()),
                decile_losses=_by_decile(error, t, len(alphas_bar)),
                learning_rate=learning_rate,
                images_per_second=images / max(now - last, 1e-9),
                minutes=(now - started) / 60,
                progress=progress,
            )
            last, images = time.monotonic(), 0
            if self._progress(step, started) >= 1:
                break

    def _error(self, model: Any, batch: Batch, alphas_bar: Tensor) -> tuple[Tensor, Tensor]:
        data, size = self.config.data, self.config.model.sample_size
        x_0 = F.interpolate(batch["x_0"], (size, size), mode="area")
        hints = simulate_hints(x_0, hint_prob=data.hint_prob, max_hints=data.max_hints)
        condition = batch["condition"]
        return squared_error(
            lambda x_t, t: model(x_t, t, condition, features=batch["features"], hints=hints),
            x_0,
            alphas_bar=alphas_bar,
            prediction_type=self.config.diffusion.prediction_type,
            timestep_shift=self.config.diffusion.timestep_shift,
        )

    def _progress(self, step: int, started: float) -> float:
        """0..1 by steps or by the clock, whichever is nearer its end; the first process decides."""
        limits = [0.0]
        if self.config.max_train_steps:
            limits.append(step / self.config.max_train_steps)
        if self.config.max_minutes:
            limits.append((time.monotonic() - started) / 60 / self.config.max_minutes)
        value = torch.tensor(min(max(limits), 1.0), device=self.accelerator.device)
        return float(broadcast(value))

    def _learning_rate(self, step: int, progress: float) -> float:
        """Linear warm-up, then half a cosine down to zero at the end of the run."""
        optimizer = self.config.optimizer
        warm = min(1.0, (step + 1) / max(1, optimizer.warmup_steps))
        return optimizer.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))

    @torch.no_grad()
    def sample_grid(self, *, photos: int = 8, steps: int = 10) -> Image.Image:
        """Grey, sampled and true colours of the first photos, one column each; fixed noise.

        Sampled with the averaged weights, at the size that is being trained.
        """
        size, fold = self.config.model.sample_size, self.config.model.fold
        device = self.accelerator.device
        batch = next(load_batches(self.dataset, batch_size=photos, device=device))
        condition = batch["condition"]
        with self._averaged():
            self.model.eval()
            cond = self.model.encoder(condition, features=batch["features"], size=(size, size))
            generators = [torch.Generator().manual_seed(i) for i in range(len(cond))]
            noise = initial_noise(generators, (self.task.out_channels, size, size)).to(cond)
            *_, x_0 = denoise(
                lambda x_t, t: self.model.predict(x_t, t, cond),
                build_scheduler("ddim", self.config.diffusion),
                noise,
                steps=steps,
                clip=self.task.clip,
            )
            self.model.train()
        side = (size * fold, size * fold)
        lightness = F.interpolate(50 * (condition + 1), side, mode="area")

        def picture(chroma: Tensor) -> list[Image.Image]:
            full = F.interpolate(chroma, side, mode="bilinear", align_corners=False)
            labs = torch.cat([lightness, full], dim=1).permute(0, 2, 3, 1).cpu().numpy()
            return [Image.fromarray(lab_to_rgb(np.ascontiguousarray(lab))) for lab in labs]

        truth = batch["x_0"] * self.task.scale
        rows = [picture(0 * truth), picture(x_0 * self.task.scale), picture(truth)]
        return make_contact_sheet(rows, side=side[0])

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in place of the trained ones, for a while."""
        parameters = self.model.trainable()
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    def save(self, *, half: bool = True) -> Path:
        """Write the averaged weights as the model folder OUTPUT/model; return it."""
        folder = self.output / "model"
        if self.is_main:
            with self._averaged():
                save_model(
                    folder,
                    self.model,
                    task=self.task,
                    diffusion=self.config.diffusion,
                    dtype=torch.float16 if half else torch.float32,
                )
            (folder / "config.yaml").write_text(to_yaml(self.config), "utf-8")
        return folder


def _by_decile(error: Tensor, t: Tensor, num_train_timesteps: int) -> list[float]:
    decile = t * DECILES // num_train_timesteps
    return [float(error[decile == d].mean()) for d in range(DECILES)]
