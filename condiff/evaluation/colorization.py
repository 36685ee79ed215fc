"""Measures coloured photos against true ones: one row of figures per method and baseline.

PSNR and CIEDE2000 reward doing nothing, so grey passthrough and mean colour are always measured.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from condiff.arrays import Pixels
from condiff.color.lab import rgb_to_lab
from condiff.errors import DataError
from condiff.evaluation.baselines import (
    GREY,
    MEAN_COLOUR,
    TRUTH,
    check_methods,
    check_picture,
    grey_passthrough,
    mean_chroma,
    with_chroma,
)
from condiff.evaluation.color_groups import GROUPS, GroupFigures, cast, mean_groups, measure_groups
from condiff.evaluation.feature_extractors import (
    Distance,
    Extractor,
    FeatureExtractors,
    Features,
    PhotoFeatures,
)
from condiff.evaluation.metrics import (
    NO_DISTANCE,
    NO_VARIATION,
    Floats,
    bleed,
    ciede2000,
    colorfulness,
    colorfulness_ddcolor,
    diversity,
    edge_alignment,
    flat_regions,
    frechet_distance,
    gaudy,
    kernel_distance,
    lightness_error,
    psnr,
    ratio,
    region_deviations,
    ssim,
)
from condiff.evaluation.report import (
    Comparison,
    figure_cells,
    format_cells,
    html_page,
    markdown_table,
)

# The result for one photo: a picture, or several samples, of which the first is scored.
Result = Pixels | Sequence[Pixels]

# A grey photo would make the mean of grey passthrough infinite; 60 dB is an error below rounding.
HIGHEST_PSNR = 60.0


@dataclass(frozen=True)
class Row:
    """The figures of one method; means over the photos, unless noted otherwise."""

    method: str
    photos: int
    psnr: float  # dB, a photo counts 60 at most
    ssim: float
    ciede2000: float
    colorfulness: float  # Hasler and Suesstrunk
    colorfulness_ddcolor: float
    delta_cf: float  # difference of the means of colorfulness, negative = duller than the truth
    delta_cf_mean: float  # mean of the photos' absolute differences
    cast_a: float  # mean of the photos' mean da, result less truth: redder, or greener below zero
    cast_b: float  # the same of db: yellower, or bluer
    cast: float  # mean of the photos' |(mean da, mean db)|
    lightness_error: float  # the worst pixel of all photos, |dL*|
    bleed: float
    edge_alignment: float
    frechet: float | None  # on the extractor's features: not FID. None: fewer than two photos
    frechet_ratio: float | None  # frechet / that of grey passthrough. None: that is zero
    top1: float  # share of photos whose first class is that of the true photo
    gaudy: float  # share of all pixels with far too much colour
    worse_than_grey: float  # share of photos: see `is_worse_than_grey`
    patches: float | None  # median over the flat regions of the deviation of (a,b) in one
    patches_ratio: float | None  # patches / the truth's. None: no flat region, or that is zero
    samples: int = 1
    diversity: float | None = None  # mean ab distance between the samples of a photo
    best_of_k: float | None = None  # CIEDE2000 of each photo's best sample
    fid: float | None = None  # these three: None where the network's weights are not at hand
    kid: float | None = None
    lpips: float | None = None
    groups: dict[str, GroupFigures] = field(default_factory=dict)  # of skin, sky, foliage


FIGURES = (  # field, label, format
    ("photos", "photos", "d"),
    ("psnr", "PSNR, dB ↑", ".2f"),
    ("ssim", "SSIM ↑", ".4f"),
    ("ciede2000", "CIEDE2000 ↓", ".2f"),
    ("colorfulness", "colourfulness", ".1f"),
    ("colorfulness_ddcolor", "colourfulness (DDColor)", ".1f"),
    ("delta_cf", "ΔCF, of means", "+.1f"),
    ("delta_cf_mean", "ΔCF, mean of absolute ↓", ".1f"),
    ("cast_a", "cast, Δa", "+.1f"),
    ("cast_b", "cast, Δb", "+.1f"),
    ("cast", "cast, mean of absolute ↓", ".1f"),
    ("gaudy", "gaudy pixels ↓", ".2%"),
    ("lightness_error", "ΔL*, worst pixel ↓", ".2f"),
    ("bleed", "bleed", ".3f"),
    ("edge_alignment", "edge alignment", ".3f"),
    ("patches", "patches, ab", ".2f"),
    ("patches_ratio", "patches / truth's", ".2f"),
    ("frechet", "Fréchet (EfficientNet-Lite0) ↓", ".3f"),
    ("frechet_ratio", "Fréchet / grey's ↓", ".3f"),
    ("top1", "top-1 as the truth ↑", ".1%"),
    ("worse_than_grey", "photos worse than grey ↓", ".1%"),
    ("fid", "FID ↓", ".2f"),
    ("kid", "KID ↓", ".5f"),
    ("lpips", "LPIPS (AlexNet) ↓", ".4f"),
    ("samples", "samples, k", "d"),
    ("diversity", "diversity, ab", ".1f"),
    ("best_of_k", "CIEDE2000, best of k ↓", ".2f"),
)


def evaluate(
    methods: Mapping[str, Iterable[Result]],
    truths: Iterable[Pixels],
    *,
    extractor: Extractor,
    inception: Features | None = None,
    lpips: Distance | None = None,
) -> list[Row]:
    """One row per method, in the given order, then grey passthrough, mean colour and truth.

    A method yields one result for every truth, in their order and size. In a list of samples the
    first is scored; all of them count for `diversity` and `best_of_k`. `inception` adds FID and
    KID, `lpips` LPIPS. Raises DataError where results and truths do not match.
    """
    truths = list(truths)
    check_methods(methods, truths, (GREY, MEAN_COLOUR, TRUTH))
    ab = mean_chroma(truths)
    greys = [grey_passthrough(truth) for truth in truths]
    everything: dict[str, Iterable[Result]] = {
        **methods,
        GREY: greys,
        MEAN_COLOUR: (with_chroma(truth, ab) for truth in truths),
        TRUTH: truths,
    }
    extractors = FeatureExtractors(extractor, inception, lpips)
    baselines = Baselines(truths, extractors.extract(truths), extractors.extract(greys))
    extracted = {GREY: baselines.grey_features, TRUTH: baselines.true_features}
    rows = [
        _row(name, each, baselines, extractors, features=extracted.get(name))
        for name, each in everything.items()
    ]
    grey, truth = (next(row for row in rows if row.method == name) for name in (GREY, TRUTH))
    return [
        replace(
            row,
            frechet_ratio=ratio(row.frechet, grey.frechet, NO_DISTANCE),
            patches_ratio=ratio(row.patches, truth.patches, NO_VARIATION),
        )
        for row in rows
    ]


@dataclass(frozen=True)
class Baselines:
    """The true photos, their features, and the features of the grey photos."""

    truths: list[Pixels]
    true_features: PhotoFeatures
    grey_features: PhotoFeatures


def is_worse_than_grey(features: PhotoFeatures, baselines: Baselines) -> npt.NDArray[np.bool_]:
    """(N,): whether a coloured photo is worse for the extractor than the grey photo.

    Its features lie farther from those of the true photo (Euclidean), or its first class is wrong
    where the grey photo's is right.
    """
    true, grey = baselines.true_features, baselines.grey_features
    distance, grey_distance = (
        np.linalg.norm(each.features.astype(np.float64) - true.features, axis=1)
        for each in (features, grey)
    )
    lost = (grey.classes == true.classes) & (features.classes != true.classes)
    return np.asarray((distance > grey_distance) | lost)


def format_table(rows: Sequence[Row]) -> str:
    """A Markdown table with one line per figure and one column per method."""
    return markdown_table(figure_cells(rows, FIGURES))


def format_groups(rows: Sequence[Row]) -> str:
    """A Markdown table of skin, sky and foliage with one column per method."""
    return markdown_table(group_cells(rows))


def _row(
    method: str,
    results: Iterable[Result],
    baselines: Baselines,
    extractors: FeatureExtractors,
    *,
    features: PhotoFeatures | None = None,
) -> Row:
    """The figures of one method, whose features are extracted unless they are given.

    The two ratios are added later, from two rows.
    """
    pictures: list[Pixels] = []
    figures: list[dict[str, float]] = []
    groups: list[dict[str, GroupFigures]] = []
    deviations: list[Floats] = []
    counts: set[int] = set()
    for samples, truth in _paired(method, results, baselines.truths):
        labs, truth_lab = [rgb_to_lab(sample) for sample in samples], rgb_to_lab(truth)
        pictures.append(samples[0])
        figures.append(_photo_figures(samples[0], labs, truth, truth_lab, extractors.lpips))
        groups.append(measure_groups(labs[0], truth_lab))
        deviations.append(region_deviations(labs[0], flat_regions(truth_lab)))
        counts.add(len(samples))
    if len(counts) > 1:
        raise DataError(f"'{method}' has different numbers of samples for the photos: give k each.")
    features, true_features = features or extractors.extract(pictures), baselines.true_features
    columns = {name: np.array([photo[name] for photo in figures]) for name in figures[0]}
    shares = columns.pop("gaudy")
    means = {name: float(column.mean()) for name, column in columns.items()}
    several = len(pictures) > 1
    fid = kid = None
    if several and features.inception is not None and true_features.inception is not None:
        fid = frechet_distance(features.inception, true_features.inception)
        kid = kernel_distance(features.inception, true_features.inception)
    regions = np.concatenate(deviations)
    return Row(
        method=method,
        photos=len(pictures),
        **{**means, "lightness_error": float(columns["lightness_error"].max())},
        delta_cf_mean=float(np.abs(columns["delta_cf"]).mean()),
        cast=float(np.hypot(columns["cast_a"], columns["cast_b"]).mean()),
        gaudy=float(np.average(shares, weights=[truth.size for truth in baselines.truths])),
        patches=float(np.median(regions)) if len(regions) else None,
        patches_ratio=None,
        frechet=frechet_distance(features.features, true_features.features) if several else None,
        frechet_ratio=None,
        top1=float(np.mean(features.classes == true_features.classes)),
        worse_than_grey=float(np.mean(is_worse_than_grey(features, baselines))),
        samples=counts.pop(),
        fid=fid,
        kid=kid,
        groups=mean_groups(groups),
    )


def _photo_figures(
    pixels: Pixels,
    labs: Sequence[Floats],
    truth: Pixels,
    truth_lab: Floats,
    lpips: Distance | None,
) -> dict[str, float]:
    """The figures of a photo's first sample, by their names in `Row`; `labs` are all samples."""
    differences = [float(ciede2000(lab, truth_lab).mean()) for lab in labs]
    cast_a, cast_b = cast(labs[0], truth_lab)
    figures = {
        "psnr": min(psnr(pixels, truth), HIGHEST_PSNR),
        "ssim": ssim(pixels, truth),
        "ciede2000": differences[0],
        "colorfulness": colorfulness(pixels),
        "colorfulness_ddcolor": colorfulness_ddcolor(pixels),
        "delta_cf": colorfulness(pixels) - colorfulness(truth),
        "cast_a": cast_a,
        "cast_b": cast_b,
        "lightness_error": lightness_error(labs[0], truth_lab),
        "bleed": bleed(labs[0]),
        "edge_alignment": edge_alignment(labs[0]),
        "gaudy": gaudy(labs[0], truth_lab),
    }
    if lpips:
        figures["lpips"] = lpips(pixels, truth)
    if len(labs) > 1:
        spread = diversity([lab[..., 1:] for lab in labs])
        figures |= {"diversity": spread, "best_of_k": min(differences)}
    return figures


def _paired(
    method: str, results: Iterable[Result], truths: list[Pixels]
) -> Iterator[tuple[Sequence[Pixels], Pixels]]:
    """Yield the samples of every result with their truth; DataError if they do not match."""
    for index, (result, truth) in enumerate(zip_longest(results, truths), start=1):
        if result is None or truth is None:
            kind = "fewer" if result is None else "more"
            raise DataError(f"'{method}' has {kind} pictures than there are truths, {len(truths)}.")
        samples = [result] if isinstance(result, np.ndarray) else result
        for sample in samples:
            check_picture(method, index, sample, truth)
        yield samples, truth


def group_cells(rows: Sequence[Row]) -> list[list[str]]:
    """Cells with three lines for each group of pixels that is found, and methods as columns."""
    table = [["", *(row.method for row in rows)]]
    for name in GROUPS:
        having = [row.groups[name] for row in rows if name in row.groups]
        if having:
            table += [
                [f"{name}, photos", *format_cells([g.photos for g in having], "d")],
                [
                    f"{name}, chroma / truth's",
                    *format_cells([g.chroma_ratio for g in having], ".2f"),
                ],
                [f"{name}, hue error, ° ↓", *format_cells([g.hue_error for g in having], ".1f")],
                [
                    f"{name}, hue deviation, °",
                    *format_cells([g.hue_deviation for g in having], ".1f"),
                ],
            ]
    return table


def html_report(
    rows: Sequence[Row],
    results: Sequence[Pixels],
    truths: Sequence[Pixels],
    *,
    title: str = "Colours, evaluated",
    each: int = 2,
) -> str:
    """An HTML page: the tables, then the `each` worst, median and best of one method's results."""
    tables = [figure_cells(rows, FIGURES), group_cells(rows)]
    comparisons = pick_comparisons(results, truths, each=each)
    return html_page(title, [table for table in tables if len(table) > 1], comparisons)


def pick_comparisons(
    results: Sequence[Pixels], truths: Sequence[Pixels], *, each: int
) -> list[Comparison]:
    """The worst, median and best photos by mean CIEDE2000; a photo shows up once."""
    pairs = list(zip(results, truths, strict=True))
    errors = [float(ciede2000(rgb_to_lab(r), rgb_to_lab(t)).mean()) for r, t in pairs]
    order = [int(i) for i in np.argsort(errors, kind="stable")[::-1]]
    middle = max(0, (len(order) - each) // 2)
    picked = dict.fromkeys(order[middle : middle + each], "median")
    picked |= dict.fromkeys(order[::-1][:each], "best") | dict.fromkeys(order[:each], "worst")
    return [
        Comparison(
            f"{picked[i]}: photo {i + 1}, CIEDE2000 {errors[i]:.2f}",
            grey_passthrough(truths[i]),
            results[i],
            truths[i],
        )
        for i in order
        if i in picked
    ]
