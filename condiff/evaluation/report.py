"""Formats figures and photos: an aligned Markdown table, and a self-contained HTML page.

A table is a list of lines of cells. The first line is the heading, the first column has labels.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from io import BytesIO
from typing import Any

from PIL import Image

from condiff.arrays import Pixels

LARGEST_SIDE = 512  # of a photo on the page, so that the file can be mailed
JPEG_QUALITY = 90
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
       color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0 2rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.photos { display: grid; grid-template-columns: repeat(3, 1fr); gap: .5rem; }
figure { margin: 0; } figcaption { color: #666; font-size: 13px; }
img { width: 100%; display: block; }
"""


@dataclass(frozen=True)
class Comparison:
    """One photo three times, uint8 RGB (H,W,3), under a label such as "worst, dE 14.2"."""

    label: str
    grey: Pixels
    result: Pixels
    truth: Pixels


Figure = tuple[str, str, str]  # field of a row, label, format


def figure_cells(rows: Sequence[Any], figures: Sequence[Figure]) -> list[list[str]]:
    """A table of rows (dataclasses with a `method`), figures as lines and methods as columns.

    Figures that no row has are left out.
    """
    table = [["", *(row.method for row in rows)]]
    for name, label, form in figures:
        values = [getattr(row, name) for row in rows]
        if any(value is not None for value in values):
            table.append([label, *format_cells(values, form)])
    return table


def format_cells(values: Sequence[float | None], form: str) -> list[str]:
    """Numbers in a format, None as a dash."""
    return ["–" if value is None else format(value, form) for value in values]


def to_json_lines(rows: Sequence[Any]) -> str:
    """Rows (dataclasses) as one JSON object a line; what was not measured is null."""
    return "".join(json.dumps(asdict(row), allow_nan=False) + "\n" for row in rows)


def markdown_table(table: Sequence[Sequence[str]]) -> str:
    """Markdown that is also aligned in a terminal: first column to the left, figures right."""
    table = [[cell.replace("|", "\\|") for cell in line] for line in table]
    widths = [max(3, *map(len, column)) for column in zip(*table, strict=True)]
    heading, *body = [_markdown_line(line, widths) for line in table]
    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:]), ""])
    return "\n".join([heading, rule, *body]) + "\n"


def html_page(
    title: str, tables: Sequence[Sequence[Sequence[str]]], comparisons: Sequence[Comparison]
) -> str:
    """A whole HTML page: the tables, then grey | result | truth of every comparison."""
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
    ]
    for heading, *body in tables:
        lines += [
            "<table>",
            f"<thead>{_html_line(heading, 'th')}</thead>",
            *(_html_line(line, "td") for line in body),
            "</table>",
        ]
    for comparison in comparisons:
        lines += [
            f"<h2>{escape(comparison.label)}</h2>",
            '<div class="photos">',
            _figure(comparison.grey, "grey"),
            _figure(comparison.result, "result"),
            _figure(comparison.truth, "truth"),
            "</div>",
        ]
    return "\n".join([*lines, "</body></html>"]) + "\n"


def _markdown_line(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = line
    cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
    return f"| {' | '.join(cells)} |"


def _html_line(line: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line) + "</tr>"


def _figure(pixels: Pixels, caption: str) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = BytesIO()
    # Full-resolution chroma: half-resolution colour is a fault the page would blame on the result.
    image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    data = b64encode(file.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
