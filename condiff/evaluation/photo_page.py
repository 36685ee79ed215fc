"""The page of an evaluation: its tables, and the worst, median and best photos side by side."""

from collections.abc import Sequence

import numpy as np

from condiff.color.lab import rgb_to_lab
from condiff.evaluation.baselines import grey_passthrough
from condiff.evaluation.colorization_ import FIGURES, Row, group_cells
from condiff.evaluation.metrics import Pixels, ciede2000
from condiff.evaluation.report import Comparison, figure_cells, html_page


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
