"""Latents, embeddings and model folder of a run on a Stable Diffusion base."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from condiff.config import BaseConfig, TrainConfig
from condiff.data.crops import Batch
from condiff.data.latent_cache import FrozenShape, LatentCache
from condiff.models.base import Base, read_base
from condiff.models.base_settings import check_process
from condiff.models.denoiser import Denoiser
from condiff.models.latent import FrozenParts, LatentModel, save_latent_model
from condiff.tasks import Task
from condiff.training.progress import Filled


@dataclass(frozen=True)
class LatentParts:
    """The frozen parts of a run's base, which encode its data."""

    config: BaseConfig
    base: Base
    task: Task
    frozen: FrozenParts
    words: tuple[int, int]  # (n,d) of an embedding

    @classmethod
    def of(
        cls, config: TrainConfig, model: Denoiser, task: Task, device: torch.device
    ) -> Self | None:
        """The frozen parts for a run's model; None for a run without a base."""
        if config.base.name is None:
            return None
        assert isinstance(model, LatentModel)
        base = read_base(config.base.name)
        check_process(config, base)
        _, length, width = model.null_words.shape
        return cls(config.base, base, task, FrozenParts(base.path, device), (length, width))

    def shape(self) -> FrozenShape:
        """Shapes and fingerprint of the frozen parts for a cache; reads their weights once."""
        return FrozenShape(self.base.fingerprint(), self.base.factor, self.words)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Pictures -> moments (B,8,h,w) of x_0 and latents (B,4,h,w) of the condition."""
        assert self.task.picture is not None
        shown = self.task.picture.show(batch["condition"])
        return self.frozen.moments(batch["x_0"]), self.frozen.condition(shown)

    def encode_batch(self, batch: Batch) -> Batch:
        """Encode pictures and captions as latents and embeddings; encoded batches are unchanged."""
        if "words" in batch:
            return batch
        moments, condition = self.encode(batch)
        words = self.frozen.words(batch["texts"])
        return {"x_0": moments, "condition": condition, "features": None, "words": words}

    def fill(self, cache: LatentCache, process: int, num_processes: int) -> Iterator[Filled]:
        """Compute this process's share of the cache, then free the frozen parts' memory."""
        work = cache.fill(
            self.encode, self.frozen.words, process=process, num_processes=num_processes
        )
        for done, total in work:
            yield Filled(done, total)
        self.frozen.release()

    def save(self, folder: Path, model: Denoiser, **settings: Any) -> None:
        """Write the model folder."""
        assert isinstance(model, LatentModel)
        save_latent_model(folder, model, config=self.config, **settings)
