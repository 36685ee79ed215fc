"""The training loop: a generator of steps.

All randomness in step n (photos, views, timesteps, noise, hints) is a function of (seed, n). A
resumed run therefore takes exactly the steps of an uninterrupted one, unless its end and learning
rate follow the clock (`max_minutes`), and no state of a random generator has to be saved. Each of
several processes draws the random numbers of the whole batch and uses its own rows: the result
equals that of one process with the whole batch.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from accelerate.utils import broadcast
from PIL import Image
from torch import Tensor

from condiff.config import ModelConfig, TrainConfig, list_idle, to_yaml
from condiff.data.crops import Batch
from condiff.data.feature_cache import FeatureCache
from condiff.data.latent_cache import LatentCache
from condiff.data.loading import build_dataset, load_batches
from condiff.diffusion.diffusers_schedulers import build_scheduler
from condiff.errors import ConfigError, TrainingError
from condiff.models.backbone import EfficientNetLite, load_pretrained
from condiff.models.denoiser import Denoiser, Model, build_model
from condiff.models.initialization import adopt_shape, load_init
from condiff.models.latent import LatentModel, build_on_base
from condiff.models.loading import save_model
from condiff.tasks import Task, task_of
from condiff.training.accelerator import build_accelerator, main_first, prepare
from condiff.training.checkpoint import gather_checkpoint, restore_checkpoint
from condiff.training.ema import averaged, build_average, update_average
from condiff.training.latents import LatentParts
from condiff.training.loss import Distance, batch_error, perceptual_distance
from condiff.training.model_card import make_card
from condiff.training.optimizer import build_optimizer, set_rate
from condiff.training.precision import choose_arithmetic, prepare_model
from condiff.training.preview import sample_grid
from condiff.training.progress import Filled, Step, learning_rate_at, move_average, progress_of
from condiff.training.run_folder import (
    IMAGES,
    Checkpoint,
    prune_checkpoints,
    refuse_changes,
    refuse_nan,
    write_checkpoint,
)

logger = logging.getLogger(__name__)


def find_maker(config: TrainConfig, init: str | None) -> Callable[[ModelConfig, Task], Denoiser]:
    """The function that builds a run's model: on a base, from the weights `init`, or new.

    Raises ConfigError if a run has both.
    """
    if config.base.name is not None:
        if init is not None:
            raise ConfigError("--init and --base both name weights to start from: give one.")
        return lambda _, task: build_on_base(config.base, task)
    return build_model if init is None else partial(load_init, init)


class Trainer:
    """A training run in memory; `steps()` trains; the caller logs, samples and saves.

    `output` is the run's folder, where features are cached; with None nothing is cached or saved.
    `init` names the weights to start from; None means random ones. `arithmetic` is the precision
    stored in the checkpoint of a resumed run.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: str | Path,
        output: Path | None,
        *,
        init: str | None = None,
        arithmetic: dict[str, Any] | None = None,
    ):
        if output is None:
            uncached = config.data.model_copy(update={"cache_features": False})
            config = config.model_copy(update={"data": uncached})
        self.source, self.init = str(data), init
        self.output = output or Path()
        self.task: Task = task_of(config)
        self.task.check(config)
        make = find_maker(config, init)
        self.arithmetic = choose_arithmetic(
            config, self.task, lambda: make(config.model, self.task), kept=arithmetic
        )
        self.accelerator = build_accelerator(
            config, self.output, mixed_precision=self.arithmetic.mixed_precision
        )
        torch.manual_seed(config.seed)  # the same weights on every process
        self.model = make(config.model, self.task)
        if init is not None:
            assert isinstance(self.model, Model)
            config = adopt_shape(config, self.model)
            self.task = task_of(config)  # the weights may take words, whatever the settings say
        self.config = config
        unet_size = config.model.sample_size // self.model.patch_size
        self.model.unet.register_to_config(sample_size=unet_size)
        if config.gradient_checkpointing:
            self.model.unet.enable_gradient_checkpointing()
        self.model.to(self.accelerator.device)
        backbone = self.model.backbone
        self.perceptual_backbone = self._load_perceptual()
        if config.optimizer.backbone_rate:
            assert backbone is not None  # ensured by `Task.check`
            used = max(self.model.feature_channels)
            backbone.train_from(config.optimizer.backbone_stride, last=used)
        prepare_model(self.model, self.arithmetic)
        self.parts = LatentParts.of(config, self.model, self.task, self.accelerator.device)
        if isinstance(self.model, LatentModel) and self.arithmetic.dtype is not None:
            self.model.halve_frozen(self.arithmetic.dtype)
        cached = config.data.cache_features
        with main_first(self.accelerator):  # one process makes the cache's files
            self.dataset = build_dataset(
                config,
                self.task,
                data,
                cache_dir=self.output / "cache",
                feature_channels=self.model.feature_channels,
                device=self.accelerator.device,
                backbone=backbone.fingerprint() if backbone is not None and cached else "",
                frozen=self.parts.shape() if self.parts and cached else None,
            )
        alphas_bar = build_scheduler("ddpm", config.diffusion).alphas_cumprod
        self.alphas_bar = alphas_bar.to(self.accelerator.device)
        optimizer = build_optimizer(
            config.optimizer,
            self.model.trainable(),
            backbone=() if backbone is None else backbone.parameters(),
        )
        if config.compile:
            self.model.unet.compile()
        self.parallel, self.optimizer = prepare(self.accelerator, self.model, optimizer)
        self.ema = build_average(self.model, config.optimizer.ema_decay)
        for sentence in list_idle(config) if self.is_main else ():
            logger.warning(sentence)
        self.step, self.minutes, self.smoothed_loss = 0, 0.0, math.nan
        self.lock: IO[bytes] | None = None  # on the run's folder, in the main process
        self.shown: Batch | None = None  # in the sample grids, the same photos in each
        self.stop_signal = 0  # number of a signal to stop after this step

    @property
    def is_main(self) -> bool:
        """Whether this process is the main one, the only one that writes files and messages."""
        return bool(self.accelerator.is_main_process)

    @property
    def batch_size(self) -> int:
        """Images per optimizer step, over all processes and accumulated batches."""
        of_one = self.config.train_batch_size * self.config.gradient_accumulation_steps
        return of_one * int(self.accelerator.num_processes)

    def describe(self) -> str:
        """One line on model, data and machine."""
        count = sum(p.numel() for p in self.model.trainable()) / 1e6
        chosen = self.config.mixed_precision == "auto"
        how = f", {self.arithmetic.describe()}" if chosen else ""
        return (
            f"{self.task.name}: {self.dataset.describe()}; {count:.3g} M parameters to train, "
            f"batches of {self.batch_size}, {self.machine}{how}"
        )

    @property
    def machine(self) -> str:
        """The processes and the kind of their devices, such as "2 x cuda"."""
        return f"{self.accelerator.num_processes} x {self.accelerator.device.type}"

    def fill_cache(self) -> Iterator[Filled]:
        """Compute the cached features or latents of all photos; each process computes its share.

        After a stop signal in any process all of them end. Raises TrainingError if the cache is not
        complete after that, because processes do not share its disk.
        """
        for filled in self._fill_share():
            yield filled
            if self.stop_signal:
                break
        if self.accelerator.num_processes > 1:  # this also waits for the other processes
            signals = torch.tensor([self.stop_signal], device=self.accelerator.device)
            self.stop_signal = int(self.accelerator.gather(signals).max())
        cache = self.dataset
        if self.stop_signal or not isinstance(cache, FeatureCache | LatentCache):
            return
        if not cache.is_complete:
            raise TrainingError(
                f"{cache.folder} lacks the photos of other processes: it must be on a disk that "
                "all machines share. Choose such a folder with -o, or set data.cache_features to "
                "false."
            )

    def _fill_share(self) -> Iterator[Filled]:
        process, count = self.accelerator.process_index, self.accelerator.num_processes
        if isinstance(self.dataset, LatentCache) and self.parts:
            yield from self.parts.fill(self.dataset, process, count)
        if isinstance(self.dataset, FeatureCache):
            assert isinstance(self.model, Model)
            encoder = self.model.encoder
            rows = range(process, len(self.dataset), count)

            def extract(condition: Tensor) -> dict[int, Tensor]:
                features = encoder.features(condition.to(self.accelerator.device))
                return {stride: maps.cpu() for stride, maps in features.items()}

            for done in self.dataset.fill(extract, rows):
                yield Filled(done, len(rows))

    def steps(self) -> Iterator[Step]:
        """Train until the configured end or a stop signal; yields once per optimizer step."""
        config, accelerator = self.config, self.accelerator
        accumulated = config.gradient_accumulation_steps
        batches = self.batches()
        began = time.monotonic() - 60 * self.minutes
        self.parallel.train()
        while self._goes_on():
            progress = self._progress
            learning_rate = learning_rate_at(config.optimizer, step=self.step, progress=progress)
            set_rate(self.optimizer, learning_rate)
            parts = []
            for part in range(accumulated):
                batch = next(batches)
                waits = part + 1 < accumulated  # processes exchange gradients only once per step
                with accelerator.no_sync(self.parallel) if waits else nullcontext():
                    error, t = self.error(batch, self.step * accumulated + part)
                    accelerator.backward(error.mean() / accumulated)
                parts.append((error.detach(), t))
            self.update()
            self.step += 1
            errors, t = accelerator.gather(
                (torch.cat([e for e, _ in parts]), torch.cat([t for _, t in parts]))
            )
            self.minutes = (time.monotonic() - began) / 60
            yield Step(
                step=self.step,
                errors=errors,
                timesteps=t,
                num_train_timesteps=len(self.alphas_bar),
                learning_rate=learning_rate,
                minutes=self.minutes,
                progress=self._progress,
            )

    def batches(self) -> Iterator[Batch]:
        """This process's batches, starting at the current step."""
        loaded = load_batches(
            self.dataset,
            batch_size=self.config.train_batch_size,
            start=self.step * self.config.gradient_accumulation_steps,
            process=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            device=self.accelerator.device,
        )
        return map(self._encoded, loaded)

    def _encoded(self, batch: Batch) -> Batch:
        """Encode a batch for the loss: pictures for a base become latents, captions tokens."""
        if self.parts is not None:
            return self.parts.encode_batch(batch)
        if isinstance(self.model, Model) and self.model.text_encoder is not None:
            batch["tokens"] = self.model.tokenize(batch["texts"])
        return batch

    def first_batch(self, batch_size: int) -> Batch:
        """The first images of the run, the same in every process; loaded without workers."""
        loaded = load_batches(
            self.dataset, batch_size=batch_size, device=self.accelerator.device, num_workers=0
        )
        return self._encoded(next(loaded))

    def update(self) -> None:
        """Clip the gradients, step the optimizer, update the averaged weights."""
        largest = self.config.optimizer.max_grad_norm
        # All of the model's parameters: with a subset, accelerate unscales fp16 gradients twice.
        self.accelerator.clip_grad_norm_(self.model.parameters(), largest)
        self.optimizer.step()
        self.optimizer.zero_grad()
        update_average(self.ema, self.model)

    def observe(self, loss: float) -> None:
        """Add a step's loss to the smoothed loss, which selects the best checkpoint.

        Raises TrainingError if the loss is not finite.
        """
        refuse_nan(self.output, loss, step=self.step)
        self.smoothed_loss = move_average(self.smoothed_loss, loss)

    def error(self, batch: Batch, number: int, *, alone: bool = False) -> tuple[Tensor, Tensor]:
        """Weighted squared error (B,) and timesteps (B,) of this process's share of batch `number`.

        With `alone`, the batch is a whole one, without other processes.
        """
        return batch_error(
            self.model if alone else self.parallel,
            batch,
            number,
            config=self.config,
            task=self.task,
            alphas_bar=self.alphas_bar,
            perceptual=self._perceptual(),
            process=0 if alone else self.accelerator.process_index,
            num_processes=1 if alone else self.accelerator.num_processes,
        )

    def _load_perceptual(self) -> EfficientNetLite | None:
        """The backbone of the perceptual term: the published one, trained on colour photos.

        The model's own may have been trained on grey photos, in this run or in an earlier one.
        """
        variant = self.config.model.backbone_variant
        if not self.config.diffusion.perceptual_weight or variant is None:
            return None
        backbone = load_pretrained(variant).requires_grad_(False).to(self.accelerator.device)
        if self.arithmetic.channels_last:
            backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return backbone

    def _perceptual(self) -> Distance | None:
        """The perceptual distance in the run's precision; None in steps without it."""
        diffusion, backbone = self.config.diffusion, self.perceptual_backbone
        if not diffusion.perceptual_weight or self._progress < 1 - diffusion.perceptual_share:
            return None
        assert backbone is not None  # ensured by `Task.check`

        def measure(found: Tensor, x_0: Tensor, condition: Tensor) -> Tensor:
            with self.accelerator.autocast():
                return perceptual_distance(backbone, found, x_0, condition)

        return measure

    @property
    def _progress(self) -> float:
        return progress_of(self.config, step=self.step, minutes=self.minutes)

    def _goes_on(self) -> bool:
        """Whether to take another step, by the main process's clock and stop signal."""
        if self.accelerator.num_processes > 1:
            said = torch.tensor(
                [self.minutes, float(self.stop_signal)],
                device=self.accelerator.device,
                dtype=torch.float64,
            )
            minutes, stop = broadcast(said).tolist()
            self.minutes, self.stop_signal = minutes, int(stop)
        return self._progress < 1 and not self.stop_signal

    def sample_grid(self, *, photos: int = 8, steps: int = 10) -> Image.Image | None:
        """A grid of the first photos: condition, sample of the averaged weights, truth.

        The noise is the same each time. All processes must call this; only the main one gets the
        grid, the others get None.
        """
        with averaged(self.ema, self.model, keep=self.is_main) as model:
            if model is None:
                return None
            # The frozen weights of a base may be in half precision.
            with nullcontext() if self.parts is None else self.accelerator.autocast():
                if self.shown is None or len(self.shown["x_0"]) != photos:
                    self.shown = self.first_batch(photos)
                return sample_grid(
                    model,
                    self.task,
                    self.shown,
                    config=self.config,
                    photos=photos,
                    steps=steps,
                    parts=self.parts,
                )

    def save(self, *, half: bool = True) -> Path:
        """Write the averaged weights to the folder OUTPUT/model; all processes must call this."""
        folder = self.output / "model"
        with averaged(self.ema, self.model, keep=self.is_main) as model:
            if model is not None:
                self._write_model(folder, model, torch.float16 if half else torch.float32)
        return folder

    def _write_model(self, folder: Path, model: Denoiser, dtype: torch.dtype) -> None:
        config = self.config
        shared: dict[str, Any] = {
            "task": self.task,
            "diffusion": config.diffusion,
            "condition_size": self.task.condition_size(config),
            "sampling": config.sampling,
            "looks": config.looks,
            "dtype": dtype,
            "texts": {"config.yaml": to_yaml(config), "README.md": self._card()},
        }
        if self.parts is not None:
            self.parts.save(folder, model, **shared)
            return
        assert isinstance(model, Model)
        save_model(folder, model, second_stage=config.second_stage, **shared)

    def _card(self) -> str:
        return make_card(
            self.config,
            self.task,
            data=self.dataset.describe(),
            parameters=sum(p.numel() for p in self.model.trainable()),
            step=self.step,
            batch_size=self.batch_size,
            minutes=self.minutes,
            device=self.machine,
            loss=self.smoothed_loss,
            init=self.init,
            licence=self.parts.base.licence() if self.parts else None,
        )

    @property
    def _counts(self) -> dict[str, int | None]:
        """The counts that, besides the settings, determine the photos of each step.

        The order of a stream depends on how a step's images are divided, too.
        """
        division: dict[str, int | None] = {
            "train_batch_size": self.config.train_batch_size,
            "gradient_accumulation_steps": self.config.gradient_accumulation_steps,
            "processes": int(self.accelerator.num_processes),
        }
        counts = {"photos": self.dataset.num_photos, IMAGES: self.batch_size}
        return counts if self.dataset.num_photos is not None else counts | division

    def close(self) -> None:
        """Finish the trackers and disconnect the processes."""
        # Release the parallel model first: destroying the process group before may hang.
        self.accelerator.wait_for_everyone()
        self.parallel = self.model
        self.accelerator.free_memory()
        self.accelerator.end_training()
        self.release()

    def release(self) -> None:
        """Let other processes train in the run's folder."""
        if self.lock is not None:
            self.lock.close()

    def save_checkpoint(self, *, alone: bool = False) -> None:
        """Write a checkpoint and remove old ones, except the newest and the best.

        All processes must call this, and the main one writes; with `alone`, the calling one, which
        is for weights that are not sharded. Raises TrainingError if a weight is not finite,
        CheckpointError if it cannot be written.
        """
        writes = self.is_main or alone
        files = gather_checkpoint(self.model, self.optimizer, self.ema, keep=writes)
        if not writes:
            return
        if not all(weight.isfinite().all() for weight in files["model"].values()):
            self.observe(math.nan)
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "minutes": self.minutes,
            "smoothed_loss": self.smoothed_loss,
            "ema_steps": self.ema.optimization_step,
            "data": self.source,
            "init": self.init,
            "arithmetic": self.arithmetic.state(),
            **self._counts,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        write_checkpoint(self.output, state, files)
        if self.is_main:
            prune_checkpoints(self.output, keep=self.config.keep_checkpoints)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint; the run then continues bit for bit.

        The images of a step may be divided differently among processes and accumulated batches.
        Raises ConfigError if their number or that of the photos has changed.
        """
        state = checkpoint.state
        refuse_changes(self.output, {**self._counts, **state}, self._counts)
        restore_checkpoint(self.model, self.optimizer, self.ema, checkpoint.read)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.ema.optimization_step = int(state["ema_steps"])
        self.step, self.minutes = checkpoint.step, float(state["minutes"])
        self.smoothed_loss = float(state["smoothed_loss"])
