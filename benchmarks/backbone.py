"""How much a colorizer's backbone makes of grey photos.

    python benchmarks/backbone.py colorize MODEL --data val.parquet

For the published EfficientNet and for the backbone of each model: the share of grey photos that its
maps, with the published classifier, put into the class of the published backbone's colour photo,
first and among five; and the share of the variance of a and b over 8 x 8 cells that a ridge
regression on the maps explains, fitted to three quarters of the same photos and measured on the
rest, in turns. The first is for a backbone whose maps are still those of the classifier; training
on colours alone moves them away.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from first_prediction import CELLS, STRENGTHS, Floats, bring_to_cells, fit_ridge, to_cells
from torch import Tensor

from condiff.color.lab import rgb_to_lab
from condiff.errors import ModelError
from condiff.evaluation.pairs import read_truths
from condiff.models.backbone import EfficientNetLite, load_pretrained
from condiff.models.condition_encoder import lightness_to_gray
from condiff.models.loading import load_model
from condiff.resize import resize_square

SIDE = 256
STRIDES = (8, 16, 32)
FOLDS = 4
BATCH = 16


def main() -> None:
    """Parse the arguments and print one line for each backbone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="folders of colorizers, or embedded ones by name")
    parser.add_argument("--data", type=Path, required=True, help="true pictures")
    parser.add_argument("--photos", type=int, default=600, help="the first so many of them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    photos = [resize_square(t, SIDE) for t in read_truths(arguments.data, arguments.photos)]
    lab = np.stack([rgb_to_lab(photo) for photo in photos])
    chroma = np.stack([to_cells(each[..., 1:]) for each in lab])
    published = load_pretrained("lite2", with_head=True).eval()
    colour = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2)
    classes = torch.cat([published.classify(x / 255)[1] for x in colour.split(BATCH)]).argmax(1)
    for name in ("published", *arguments.models):
        backbone = published if name == "published" else backbone_of(name)
        logits, features = look(published, backbone, lab[..., 0])
        first, five = (
            (logits.topk(k).indices == classes[:, None]).any(1).double().mean() for k in (1, 5)
        )
        a, b = explained(features, chroma)
        line = f"{name}: class {100 * first:.1f} %, among five {100 * five:.1f} %"
        print(f"{line}; of a {a:.3f}, of b {b:.3f}", flush=True)


def backbone_of(name: str) -> EfficientNetLite:
    """The backbone of a colorizer, in single precision."""
    backbone = load_model(name).model.encoder.backbone
    if backbone is None:
        raise ModelError(f"{name} has no backbone")
    return backbone.float().eval()


def look(
    published: EfficientNetLite, backbone: EfficientNetLite, lightness: Floats
) -> tuple[Tensor, Floats]:
    """ImageNet logits (N,1000) and features (N,8,8,K), the maps and their mean, of L* (N,H,W)."""
    logits, rows = [], []
    for light in torch.from_numpy(lightness).float().split(BATCH):
        maps = backbone(lightness_to_gray(light[:, None]).expand(-1, 3, -1, -1))
        logits.append(published.classify_map(maps[32])[1])
        parts = [bring_to_cells(maps[stride]) for stride in STRIDES]
        parts.append(maps[32].mean((2, 3), keepdim=True).expand(-1, -1, CELLS, CELLS))
        rows.append(torch.cat(parts, 1).permute(0, 2, 3, 1).numpy())
    return torch.cat(logits), np.concatenate(rows)


def explained(features: Floats, chroma: Floats) -> Sequence[float]:
    """R² of a and b (N,8,8,2) by ridge regressions on `features`, of the best strength."""
    fold = np.arange(len(chroma)) % FOLDS
    best: Sequence[float] = (-np.inf, -np.inf)
    for strength in STRENGTHS:
        found = np.empty_like(chroma)
        for number in range(FOLDS):
            rest = fold != number
            predict = fit_ridge(features[rest], chroma[rest], strength=strength)
            found[~rest] = predict(features[~rest])
        r2 = 1 - ((found - chroma) ** 2).mean((0, 1, 2)) / chroma.var((0, 1, 2))
        best = max(best, r2.tolist(), key=sum)
    return best


if __name__ == "__main__":
    with torch.no_grad():
        main()
