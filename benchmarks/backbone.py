"""How much models' backbones see in grey photos, or in drawings.

    python benchmarks/backbone.py colorize MODEL --data val.parquet
    python benchmarks/backbone.py sketch MODEL --data illustrations-val.parquet

For the published EfficientNet and for the backbone of each model, which get the model's condition:
the share of pictures that the maps, with the published classifier, put into the class of the
published backbone's colour picture, first and among five; and the R² of a ridge regression of the
colours on the maps, over 8 x 8 cells, fitted to three quarters of the same pictures and measured on
the rest, in turns. The first is for maps that are still those of the classifier: training on
colours alone moves them away.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from first_prediction import (
    BATCH,
    CELLS,
    STRENGTHS,
    Floats,
    Pixels,
    Score,
    add_pictures,
    bring_to_cells,
    in_batches,
    make_conditions,
    ridge,
)
from torch import Tensor

from condiff.evaluation.pairs import read_truths
from condiff.models.backbone import EfficientNetLite, load_pretrained
from condiff.models.condition_encoder import ConditionEncoder
from condiff.models.loading import LoadedModel, load_model
from condiff.resize import resize_square

FOLDS = 4


def main() -> None:
    """Parse the arguments and print one line for each backbone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_pictures(parser, photos=600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    truths = read_truths(arguments.data, arguments.photos)
    for number, name in enumerate(arguments.models):
        loaded = load_model(name)
        encoder = loaded.model.float().encoder
        if encoder.backbone is None:
            parser.error(f"{name} has no backbone")
        variant = encoder.config["backbone_variant"]
        published = load_pretrained(variant, with_head=True).eval()
        conditions = make_conditions(loaded, truths, kind=arguments.kind)
        classes = classes_of(published, truths, loaded.condition_size)
        if number == 0:
            own, encoder.backbone = encoder.backbone, published
            print(f"published: {describe(loaded, truths, conditions, published, classes)}")
            encoder.backbone = own
        print(f"{name}: {describe(loaded, truths, conditions, published, classes)}", flush=True)


def classes_of(published: EfficientNetLite, truths: Sequence[Pixels], size: int) -> Tensor:
    """The classes (N,) of the colour pictures."""
    classes = []
    for start in range(0, len(truths), BATCH):
        pictures = np.stack([resize_square(t, size) for t in truths[start : start + BATCH]])
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
        classes.append(published.classify(x)[1].argmax(1))
    return torch.cat(classes)


def describe(
    loaded: LoadedModel,
    truths: list[Pixels],
    conditions: Sequence[Floats],
    published: EfficientNetLite,
    classes: Tensor,
) -> str:
    """How often the classes are found, and R² of the colours."""
    logits, features = look(loaded.model.encoder, conditions, published)
    first, five = (
        (logits.topk(k).indices == classes[:, None]).any(1).double().mean() for k in (1, 5)
    )
    score, fold = Score(loaded, truths), np.arange(len(truths)) % FOLDS
    found = {strength: np.empty_like(score.lab) for strength in STRENGTHS}
    for strength, plane in found.items():
        for number in range(FOLDS):
            rest = fold != number
            part = score.part(rest)
            plane[~rest] = ridge(features[rest], part, features[~rest], strength=strength)
    best = max(found.values(), key=lambda plane: score.r2(plane).sum())
    return f"class {100 * first:.1f} %, among five {100 * five:.1f} %; {score.of(best)}"


def look(
    encoder: ConditionEncoder, conditions: Sequence[Floats], published: EfficientNetLite
) -> tuple[Tensor, Floats]:
    """ImageNet logits (N,1000) and features (N,8,8,K), the maps and their mean."""
    logits, rows = [], []
    for condition in in_batches(conditions):
        maps = encoder.features(condition)
        logits.append(published.classify_map(maps[32])[1])
        parts = [bring_to_cells(each) for each in maps.values()]
        parts.append(maps[32].mean((2, 3), keepdim=True).expand(-1, -1, CELLS, CELLS))
        rows.append(torch.cat(parts, 1).permute(0, 2, 3, 1).numpy())
    return torch.cat(logits), np.concatenate(rows)


if __name__ == "__main__":
    with torch.no_grad():
        main()
