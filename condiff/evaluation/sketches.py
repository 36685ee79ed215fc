"""Measures pictures made from drawings: do they follow the lines, look real, and differ?

The model is given the lines of a true photo. Lines of the same kind, drawn from its picture, should
be the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from condiff.arrays import Pixels
from condiff.color.lab import rgb_to_lab
from condiff.conditions.drawing_cleanup import Drawing
from condiff.conditions.table import apply, find_condition, to_ink
from condiff.errors import ConditionError, DataError
from condiff.evaluation.baselines import check_methods, check_picture
from condiff.evaluation.feature_extractors import Extractor, in_batches
from condiff.evaluation.metrics import (
    NO_DISTANCE,
    Floats,
    diversity,
    edge_f1,
    flat_regions,
    frechet_distance,
    ratio,
    region_deviations,
)
from condiff.evaluation.report import figure_cells, markdown_table
from condiff.pipelines.cascade import Cascade
from condiff.resize import middle_square, resize, shrink_to

TRUTH, OTHER, NOISE, BLURRED_MEAN = "truth", "another photo", "noise", "blurred mean"
MEAN_SIDE = 64  # side of the mean picture, in pixels
MEAN_BLUR = 4.0  # sigma of its blur, in those pixels
PAPER = 95.0  # L* from which a pixel is paper
RIM = 0.02  # width of a picture's border, as a share of its short side


@dataclass(frozen=True)
class DrawingRow:
    """The figures of one method: means over the drawings."""

    method: str
    pictures: int
    edge_f1: float | None  # within 2 pixels, all samples count. None: no lines were given
    frechet: float | None  # on the extractor's features: not FID. None: fewer than two pictures
    frechet_ratio: float | None  # frechet / that of the blurred mean
    deviation: float | None  # of (a,b) within the truth's regions, the median; None: it has none
    paper: float | None  # share of the border that is paper where the truth's is; None: nowhere
    samples: int = 1
    diversity: float | None = None  # mean Lab distance between the samples of a drawing


FIGURES = (  # field, label, format
    ("pictures", "pictures", "d"),
    ("edge_f1", "edge F1, 2 px ↑", ".3f"),
    ("frechet", "Fréchet (EfficientNet-Lite0) ↓", ".3f"),
    ("frechet_ratio", "Fréchet / blurred mean's ↓", ".3f"),
    ("deviation", "deviation within regions, ab ↓", ".2f"),
    ("paper", "border left paper ↑", ".1%"),
    ("samples", "samples, k", "d"),
    ("diversity", "diversity, Lab", ".1f"),
)


def draw_lines(pixels: Pixels, kind: str) -> np.ndarray:
    """(H,W,3) uint8 RGB -> ink (H,W) uint8: lines of a kind, drawn with its defaults.

    Raises ConditionError for a kind that draws no lines.
    """
    ink = find_condition(kind).ink
    if ink is None:
        raise ConditionError(f"{kind} draws no lines: choose canny, sketch, softedge, …")
    return to_ink(apply(kind, pixels), ink=ink)[..., 0]


def prepare_truth(
    cascade: Cascade, photo: Pixels, *, kind: str | None
) -> tuple[Pixels, Drawing | None]:
    """A photo resized to the cascade's pictures, and its lines at the size the cascade sees.

    For a model that takes no lines, `kind` None, it is the photo's middle square.
    """
    if kind is None:
        side = cascade.size or cascade.native_side
        return resize(middle_square(photo), side, side), None
    seen = shrink_to(photo, size=cascade.lines_side, cell=cascade.pipeline.cell)
    columns, rows = cascade.fit((seen.shape[1], seen.shape[0]))
    return resize(seen, rows, columns), Drawing(draw_lines(seen, kind))


def evaluate_drawings(
    methods: Mapping[str, Sequence[Sequence[Pixels]]],
    truths: Sequence[Pixels],
    *,
    kind: str | None,
    extractor: Extractor,
) -> list[DrawingRow]:
    """One row per method, in the given order, then the baselines and the truth.

    A method has samples for every truth, in their order and size, and the same number for each.
    Lines of `kind` are compared; None is for a method that was given no lines. The baselines are
    the set's blurred mean, which a model that has learned nothing paints; noise, which is full of
    edges, so that its F1 has to be beaten; and another photo of the set, whose F1 is that of a real
    picture without the lines (its Fréchet distance is nearly 0: the set is the same). Raises
    DataError where samples and truths do not match.
    """
    check_methods(methods, truths, (TRUTH, OTHER, NOISE, BLURRED_MEAN))
    mean = mean_picture(truths)
    everything: dict[str, Sequence[Sequence[Pixels]]] = {
        **methods,
        BLURRED_MEAN: [[resize(mean, *truth.shape[:2])] for truth in truths],
        NOISE: [[make_noise(truth.shape, seed)] for seed, truth in enumerate(truths)],
        OTHER: [[resize(truths[i - 1], *t.shape[:2])] for i, t in enumerate(truths)],
        TRUTH: [[truth] for truth in truths],
    }
    lines = [draw_lines(truth, kind) for truth in truths] if kind else None
    features = _extract(truths, extractor)
    rows = [
        _row(name, painted, truths, lines, kind, features, extractor)
        for name, painted in everything.items()
    ]
    base = next(row.frechet for row in rows if row.method == BLURRED_MEAN)
    return [replace(row, frechet_ratio=ratio(row.frechet, base, NO_DISTANCE)) for row in rows]


def mean_picture(truths: Sequence[Pixels]) -> Pixels:
    """The blurred mean of all photos, each resized to a square: (64,64,3) uint8."""
    small = [resize(truth, MEAN_SIDE, MEAN_SIDE).astype(np.float32) for truth in truths]
    mean = np.mean(small, axis=0)
    return cv2.GaussianBlur(mean, (0, 0), MEAN_BLUR).round().clip(0, 255).astype(np.uint8)


def make_noise(shape: tuple[int, ...], seed: int) -> Pixels:
    """A picture (H,W,3) uint8 of random pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def format_table(rows: Sequence[DrawingRow]) -> str:
    """A Markdown table with one line per figure and one column per method."""
    return markdown_table(figure_cells(rows, FIGURES))


def _row(
    method: str,
    painted: Sequence[Sequence[Pixels]],
    truths: Sequence[Pixels],
    lines: Sequence[np.ndarray] | None,
    kind: str | None,
    true_features: Floats,
    extractor: Extractor,
) -> DrawingRow:
    if len(painted) != len(truths):
        raise DataError(f"'{method}' has {len(painted)} results for {len(truths)} drawings.")
    counts = {len(samples) for samples in painted}
    if len(counts) > 1:
        raise DataError(f"'{method}' has different numbers of samples for the drawings.")
    for index, (samples, truth) in enumerate(zip(painted, truths, strict=True), start=1):
        for sample in samples:
            check_picture(method, index, sample, truth)
    first = [samples[0] for samples in painted]
    count = counts.pop()
    scores = _f1_scores(painted, lines, kind) if lines and kind else None
    found = _extract(first, extractor) if len(first) > 1 else None
    labs = ([rgb_to_lab(sample) for sample in samples] for samples in painted)
    differences = [diversity(each) for each in labs] if count > 1 else None
    return DrawingRow(
        method=method,
        pictures=len(first),
        edge_f1=float(np.mean(scores)) if scores else None,
        frechet=None if found is None else frechet_distance(found, true_features),
        frechet_ratio=None,
        deviation=_median_deviation(first, truths),
        paper=_paper_share(first, truths),
        samples=count,
        diversity=float(np.mean(differences)) if differences else None,
    )


def _f1_scores(
    painted: Sequence[Sequence[Pixels]], lines: Sequence[np.ndarray], kind: str
) -> list[float]:
    return [
        edge_f1(draw_lines(sample, kind), given)
        for samples, given in zip(painted, lines, strict=True)
        for sample in samples
    ]


def _median_deviation(pictures: Sequence[Pixels], truths: Sequence[Pixels]) -> float | None:
    """The median, over the flat regions of all truths, of the pictures' deviation in them."""
    found = []
    for picture, truth in zip(pictures, truths, strict=True):
        regions = flat_regions(rgb_to_lab(truth))
        if regions.any():
            found.append(region_deviations(rgb_to_lab(picture), regions))
    return float(np.median(np.concatenate(found))) if found else None


def _paper_share(pictures: Sequence[Pixels], truths: Sequence[Pixels]) -> float | None:
    """The share of paper among the border pixels that are paper in the truths."""
    kept = wanted = 0
    for picture, truth in zip(pictures, truths, strict=True):
        rim = np.ones(truth.shape[:2], bool)
        width = max(1, round(RIM * min(rim.shape)))
        rim[width:-width, width:-width] = False
        rim &= rgb_to_lab(truth)[..., 0] >= PAPER
        wanted += int(rim.sum())
        kept += int((rgb_to_lab(picture)[rim, 0] >= PAPER).sum()) if rim.any() else 0
    return kept / wanted if wanted else None


def _extract(pictures: Sequence[Pixels], extractor: Extractor) -> Floats:
    return np.concatenate([extractor(batch)[0] for batch in in_batches(pictures)])
