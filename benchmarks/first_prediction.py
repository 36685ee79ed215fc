"""How much of the colours a model predicts from its condition: the R² of its first prediction.

    python benchmarks/first_prediction.py sketch --data val.parquet --photos 150 --fit train.parquet

At the noisiest timestep x_t contains no information about the picture, so the predicted x_0 is the
mean of the model's distribution for the condition. R² is the share of the variance of L*, a and b
over the cells of all pictures, 8 x 8 of each, that this mean explains: it is 0 for a model that
gives every picture the same colours. White paper cells are left out. For photos, whose L* is given,
it is measured for a and b. --fit compares it with a ridge regression on a pretrained
EfficientNet-Lite2's maps of the same conditions, fitted to --fit-photos pictures of other data: the
result without training a network.
"""

import argparse
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from condiff.color.lab import rgb_to_lab
from condiff.conditions.drawing_cleanup import shrink_ink
from condiff.diffusion.parameterization import to_x_0
from condiff.diffusion.schedule import compute_alphas_bar
from condiff.evaluation.pairs import read_truths
from condiff.evaluation.sketches import draw_lines
from condiff.models.backbone import load_pretrained
from condiff.models.condition_encoder import lightness_to_gray
from condiff.models.loading import LoadedModel, load_model
from condiff.resize import resize, resize_square

CELLS = 8
NOISES = 4  # over which a prediction is averaged
LIGHT, PALE = 95.0, 10.0  # cells whose chroma and darkness add up to less than PALE are paper
STRENGTHS = (0.1, 0.3, 1.0, 3.0)  # of the ridge, of which the best is shown: it flatters the ridge
BATCH = 16

Floats = NDArray[np.floating]
Pixels = NDArray[np.uint8]


def main() -> None:
    """Parse the arguments and print one line for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_pictures(parser, photos=150)
    parser.add_argument("--fit", type=Path, help="other pictures, for the ridge regression")
    parser.add_argument("--fit-photos", type=int, default=1500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    truths = read_truths(arguments.data, arguments.photos)
    for name in arguments.models:
        loaded = load_model(name)
        conditions = make_conditions(loaded, truths, kind=arguments.kind)
        score = Score(loaded, truths)
        print(f"{name}: {score.of(predict(loaded, conditions))}", flush=True)
    if arguments.fit is not None:
        examples = read_truths(arguments.fit, arguments.fit_photos)
        shown = show_backbone(loaded, conditions)
        given = show_backbone(loaded, make_conditions(loaded, examples, kind=arguments.kind))
        for strength in STRENGTHS:
            found = ridge(given, Score(loaded, examples), shown, strength=strength)
            print(f"ridge regression, {strength}: {score.of(found)}", flush=True)


def add_pictures(parser: argparse.ArgumentParser, *, photos: int) -> None:
    """Add the arguments for models and the pictures that they are measured on."""
    parser.add_argument("models", nargs="+", help="model folders, or embedded ones by name")
    parser.add_argument("--data", type=Path, required=True, help="true pictures")
    parser.add_argument("--photos", type=int, default=photos, help="the first so many of them")
    parser.add_argument("--kind", default="outline", help="of the lines that drawings are of")


class Score:
    """The true L*, a, b (N,8,8,3) of pictures, and which cells count."""

    def __init__(self, loaded: LoadedModel, truths: list[Pixels]):
        self.channels = slice(1, 3) if loaded.task.space.keeps_photo else slice(0, 3)
        self.lab = np.stack([to_cells(rgb_to_lab(resize_square(t, 128))) for t in truths])
        self.counts = np.ones(self.lab.shape[:3], bool)
        if not loaded.task.space.keeps_photo:
            chroma = np.hypot(self.lab[..., 1], self.lab[..., 2])
            self.counts = chroma + LIGHT - self.lab[..., 0] > PALE

    def part(self, chosen: NDArray[np.bool_]) -> Self:
        """The score of some of the pictures."""
        part = copy.copy(self)
        part.lab, part.counts = self.lab[chosen], self.counts[chosen]
        return part

    def r2(self, found: Floats) -> Floats:
        """R² of each channel of L*, a, b (N,8,8,3)."""
        true, error = self.lab[self.counts], (found - self.lab)[self.counts]
        return (1 - (error**2).mean(0) / true.var(0))[self.channels]

    def of(self, found: Floats) -> str:
        """R² of each channel, in words."""
        names = ("L*", "a", "b")[self.channels]
        return ", ".join(
            f"{name} {value:.3f}" for name, value in zip(names, self.r2(found), strict=True)
        )


def to_cells(plane: Floats) -> Floats:
    """A plane (H,W,C) averaged to 8 by 8 cells."""
    return resize(plane, CELLS, CELLS)


def make_conditions(loaded: LoadedModel, truths: list[Pixels], *, kind: str) -> Sequence[Floats]:
    """Conditions (1,s,s) in [-1,1] of the middle of pictures: their L*, or lines."""
    size, conditions = loaded.condition_size, []
    for truth in truths:
        if loaded.task.space.keeps_photo:
            condition = rgb_to_lab(resize_square(truth, size))[..., 0] / 50 - 1
        else:
            side = min(truth.shape[:2])
            ink = draw_lines(resize_square(truth, side), kind)
            condition = shrink_ink(ink, size, size) / np.float32(127.5) - 1
        conditions.append(condition[None])
    return conditions


def in_batches(conditions: Sequence[Floats]) -> Iterator[Tensor]:
    """Conditions (B,1,s,s), a few at a time."""
    for start in range(0, len(conditions), BATCH):
        yield torch.from_numpy(np.stack(conditions[start : start + BATCH])).float()


@torch.no_grad()
def predict(loaded: LoadedModel, conditions: Sequence[Floats]) -> Floats:
    """The mean predicted x_0 at the noisiest timestep, as L*, a, b (N,8,8,3)."""
    generator = torch.Generator().manual_seed(0)
    model, side, channels = loaded.model, loaded.sample_size, loaded.task.space.channels
    last = loaded.diffusion.num_train_timesteps - 1
    alpha_bar = float(compute_alphas_bar(loaded.diffusion)[last])
    cells = []
    for condition in in_batches(conditions):
        words = {}
        if loaded.task.takes_text:
            words["tokens"] = model.tokenize([""] * len(condition))
        features, t = model.encoder.features(condition), torch.full((len(condition),), last)
        x_0 = torch.zeros(len(condition), channels, side, side)
        for _ in range(NOISES):
            x_t = torch.randn(x_0.shape, generator=generator)
            output = model(x_t, t, condition, features=features, **words)
            x_0 += to_x_0(loaded.diffusion.prediction_type, output, x_t, alpha_bar) / NOISES
        cells += [read_cells(loaded, each) for each in x_0]
    return np.stack(cells)


def read_cells(loaded: LoadedModel, x_0: Tensor) -> Floats:
    """x_0 (C,h,w) as L*, a, b (8,8,3); L* is 0 for chroma."""
    plane = np.ascontiguousarray(x_0.permute(1, 2, 0).numpy())
    if loaded.task.space.keeps_photo:
        chroma = to_cells(plane * loaded.task.space.scale)
        return np.concatenate([np.zeros_like(chroma[..., :1]), chroma], axis=2)
    pixels = ((plane.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return to_cells(rgb_to_lab(pixels))


@torch.no_grad()
def show_backbone(loaded: LoadedModel, conditions: Sequence[Floats]) -> Floats:
    """EfficientNet-Lite2's features of conditions, (N,8,8,K): its maps, their mean, the input."""
    backbone, rows = load_pretrained("lite2").eval(), []
    picture = loaded.task.picture
    is_ink = picture is not None and picture.is_ink
    for condition in in_batches(conditions):
        gray = lightness_to_gray(((-condition if is_ink else condition) + 1) * 50)
        maps = backbone(gray.expand(-1, 3, -1, -1))
        parts = [bring_to_cells(maps[stride]) for stride in (8, 16, 32)]
        parts.append(maps[32].mean((2, 3), keepdim=True).expand(-1, -1, CELLS, CELLS))
        parts.append(bring_to_cells(gray))
        rows.append(torch.cat(parts, 1).permute(0, 2, 3, 1).numpy())
    return np.concatenate(rows)


def bring_to_cells(maps: Tensor) -> Tensor:
    """Maps (B,C,h,w) resized to 8 by 8."""
    if maps.shape[-1] < CELLS:
        return F.interpolate(maps, (CELLS, CELLS), mode="bilinear", align_corners=False)
    return F.interpolate(maps, (CELLS, CELLS), mode="area")


def ridge(given: Floats, score: Score, shown: Floats, *, strength: float) -> Floats:
    """L*, a, b (N,8,8,3) predicted by a ridge regression."""
    x, y = given[score.counts].astype(np.float64), score.lab[score.counts].astype(np.float64)
    mean, deviation, middle = x.mean(0), x.std(0) + 1e-6, y.mean(0)
    x = (x - mean) / deviation
    gram = x.T @ x + strength * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (y - middle))
    return ((shown - mean) / deviation) @ weights + middle


if __name__ == "__main__":
    main()
