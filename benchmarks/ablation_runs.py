"""Training of an ablation row by condiff's own trainer, on views that are cached once."""

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_rows import REFERENCE, ROWS, Row, config_of
from ablation_spaces import SPACES
from torch import Tensor, nn
from torch.utils.data import Dataset

from condiff.config import TrainConfig
from condiff.data.crops import Batch, cut, sample_crop
from condiff.data.feature_cache import FeatureCache
from condiff.resize import resize_square
from condiff.training.ema import build_average
from condiff.training.optimizer import SHARE
from condiff.training.trainer import Trainer

TUNED_RATE = 0.1  # of the learning rate, for pretrained weights


class Views(Dataset[Batch]):
    """Cached views whose x_0 is `chroma` (N,2,s,s); only their order depends on the seed."""

    def __init__(self, cache: FeatureCache, chroma: Tensor, *, seed: int):
        self.cache, self.chroma, self.seed = cache, chroma, seed
        self.num_photos, self.num_workers = len(cache), 0

    def __len__(self) -> int:
        return self.num_photos

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        row = copy(self.cache[key])
        row["x_0"] = self.chroma[key[1]]
        return row


@dataclass
class Photos:
    """The training photos of all rows, encoded once per backbone and size of L*."""

    source: Path
    work: Path
    overrides: Sequence[str] = ()
    caches: dict[tuple[str, int], tuple[FeatureCache, np.ndarray]] = field(default_factory=dict)

    def views(self, row: Row, *, seed: int) -> tuple[Views, float]:
        """The views that a row trains on, and the chroma of one unit of its x_0."""
        cache, cells = self.look(row)
        chroma = SPACES[row.space].chroma_of(cells)
        lab = SPACES["Lab"].chroma_of(cells) if row.space != "Lab" else chroma
        scale = row.scale * float(chroma.std() / lab.std())
        x_0 = torch.from_numpy((chroma / scale).transpose(0, 3, 1, 2).astype(np.float32))
        return Views(cache, x_0.contiguous(), seed=seed), scale

    def look(self, row: Row) -> tuple[FeatureCache, np.ndarray]:
        """The cache for a row, and the cells (N,s,s,3) uint8 sRGB of the same views."""
        config = config_of(row, self.overrides)
        key = (config.model.backbone_variant or "lite2", config.data.size)
        if key not in self.caches:
            seeing = (*self.overrides, f"model.backbone_variant={key[0]}")
            config = config_of(Row("", (f"data.size={key[1]}",)), seeing)
            folder = self.work / f"{key[0]}-{key[1]}"
            trainer = Trainer(config, self.source, folder)
            for filled in trainer.fill_cache():
                if filled.done % 800 == 0:
                    print(f"{folder.name}: {filled.done} of {filled.total} photos", flush=True)
            assert isinstance(trainer.dataset, FeatureCache)
            self.caches[key] = (trainer.dataset, _cells(trainer.dataset))
        return self.caches[key]


def _cells(cache: FeatureCache) -> np.ndarray:
    """The photos' colours (N,s,s,3) in the frames of the cached views."""
    views = cache.views
    cells = []
    for index in range(len(views)):
        pixels = views.photos[index].read("image")
        rng = np.random.default_rng((views.seed, 0, index))  # as CropDataset draws it
        frame = sample_crop(*pixels.shape[:2], rng, views.settings.config)
        cells.append(resize_square(cut(pixels, frame), views.settings.sample_size))
    return np.stack(cells)


def build_trainer(config: TrainConfig, views: Views, source: Path, *, tuned: bool) -> Trainer:
    """condiff's own trainer on the cached views; it saves nothing."""
    trainer = Trainer(config, source, None)
    trainer.dataset = views  # type: ignore[assignment]
    if tuned:
        _tune_last_stage(trainer)
    return trainer


def _tune_last_stage(trainer: Trainer) -> None:
    """Train the backbone's blocks of stride 32; the cached maps are their input."""
    model = trainer.model
    blocks = model.encoder.backbone.blocks
    first = max(i for i, block in enumerate(blocks) if block.stride == 2)
    tail = nn.Sequential(*blocks[first:]).requires_grad_(True)

    def see_anew(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        features = kwargs["features"]
        return args, {**kwargs, "features": {**features, 32: tail(features[16])}}

    model.register_forward_pre_hook(see_anew, with_kwargs=True)
    optimizer = trainer.optimizer.optimizer
    optimizer.add_param_group({"params": list(tail.parameters()), SHARE: TUNED_RATE})
    trainer.ema = build_average(model, trainer.config.optimizer.ema_decay)


def equal_steps(row: Row, photos: Photos, *, rounds: int = 3, steps: int = 4) -> int:
    """The number of a row's steps that take as much processor time as the reference's."""
    rows = (ROWS[REFERENCE], row)
    runs = []
    for each in rows:
        config = config_of(each, photos.overrides)
        views, _ = photos.views(each, seed=0)
        runs.append(iter(build_trainer(config, views, photos.source, tuned=False).steps()))
    best = [np.inf, np.inf]
    for number in range(rounds + 1):
        for i, run in enumerate(runs):
            began = time.process_time()
            for _ in islice(run, 1 if number == 0 else steps):
                pass
            if number:
                best[i] = min(best[i], time.process_time() - began)
    total = config_of(rows[0], photos.overrides).max_train_steps
    assert total is not None
    return max(1, round(total * best[0] / best[1]))
