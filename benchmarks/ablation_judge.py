"""Evaluation of an ablation run: held-out photos, coloured from fixed noise and measured."""

from pathlib import Path

import numpy as np
import torch
from ablation_spaces import SPACES

from condiff.color.lab import join_chroma, lightness, rgb_to_lab
from condiff.config import TrainConfig
from condiff.diffusion.sampler import sample, sample_initial_noise
from condiff.evaluation.baselines import grey_passthrough
from condiff.evaluation.colorization import HIGHEST_PSNR
from condiff.evaluation.feature_extractors import BATCH, Lite0Extractor
from condiff.evaluation.metrics import ciede2000, colorfulness, frechet_distance, psnr
from condiff.evaluation.pairs import read_truths
from condiff.models.denoiser import Model
from condiff.resize import shrink_to

STEPS = 10


class Judge:
    """Held-out photos, their Lite0 features, and the metrics of results for them."""

    def __init__(self, val: Path, limit: int):
        truths = read_truths(val)
        chosen = np.linspace(0, len(truths) - 1, min(limit, len(truths))).astype(int)
        self.truths = [truths[i] for i in chosen]
        self.extractor = Lite0Extractor()
        self.seen = self._extract(self.truths)
        grey = self._extract([grey_passthrough(truth) for truth in self.truths])
        self.grey_frechet = frechet_distance(grey[0], self.seen[0])
        self.colorfulness = float(np.mean([colorfulness(truth) for truth in self.truths]))

    def _extract(self, photos: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        starts = range(0, len(photos), BATCH)
        features, logits = zip(
            *(self.extractor(photos[i : i + BATCH]) for i in starts), strict=True
        )
        return np.concatenate(features), np.concatenate(logits)

    def figures(self, pictures: list[np.ndarray]) -> dict[str, float]:
        """Means over the photos; colourfulness and Fréchet relative to the truth's and grey's."""
        features, logits = self._extract(pictures)
        pairs = list(zip(pictures, self.truths, strict=True))
        errors = [ciede2000(rgb_to_lab(p), rgb_to_lab(t)).mean() for p, t in pairs]
        values = {
            "colourfulness_ratio": np.mean([colorfulness(p) for p in pictures]) / self.colorfulness,
            "frechet_ratio": frechet_distance(features, self.seen[0]) / self.grey_frechet,
            "psnr": np.mean([min(psnr(p, t), HIGHEST_PSNR) for p, t in pairs]),
            "ciede2000": np.mean(errors),
            "top1": np.mean(logits.argmax(1) == self.seen[1].argmax(1)),
        }
        return {name: round(float(value), 4) for name, value in values.items()}

    @torch.inference_mode()
    def colour(
        self, model: Model, config: TrainConfig, *, space: str, scale: float, steps: int = STEPS
    ) -> list[np.ndarray]:
        """The photos (square), coloured by DDIM; photo i from the noise of seed i."""
        side, limit = config.model.sample_size, SPACES[space].limit
        pictures: list[np.ndarray] = []
        model.eval()
        for start in range(0, len(self.truths), BATCH):
            photos = self.truths[start : start + BATCH]
            L = np.stack([lightness(shrink_to(photo, size=config.data.size)) for photo in photos])
            cond = model.encoder(torch.from_numpy(L / 50 - 1)[:, None], size=(side, side))
            shape = (2, side, side)
            noise = [sample_initial_noise(start + i, shape) for i in range(len(photos))]

            def predict(x_t: torch.Tensor, t: float, cond: torch.Tensor = cond) -> torch.Tensor:
                return model.predict(x_t, torch.full((len(x_t),), t), cond)

            *_, x_0 = sample(
                predict,
                torch.from_numpy(np.stack(noise)),
                scheduler="ddim",
                config=config.diffusion,
                steps=min(steps, config.diffusion.num_train_timesteps),
                clip=limit / scale,
            )
            chroma = (x_0.clamp(-limit / scale, limit / scale) * scale).permute(0, 2, 3, 1).numpy()
            if space != "Lab":
                cell = L.shape[1] // side
                mean = L.reshape(len(L), side, cell, side, cell).mean((2, 4))
                chroma = SPACES[space].to_ab(chroma, mean)
            pictures += [
                join_chroma(photo, np.ascontiguousarray(ab, np.float32))
                for photo, ab in zip(photos, chroma, strict=True)
            ]
        return pictures
