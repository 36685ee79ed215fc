"""The roles of files, rows and columns of a data set.

Files and folders named val, valid, validation or test (test-00.parquet, val/1.jpg), and
rows with such a `split`, are held out for validation and tests.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from condiff.errors import DataError
from condiff.inputs import PictureInput
from condiff.photos.formats import IMAGE_COLUMNS

PREPARED = "conditioning_image"  # the column of a single condition; of several: conditioning_…
TEXT_KEYS = ("text", "caption")  # the first that exists
FILE_NAME = "_file_name"  # metadata.jsonl: NAME_file_name is the path of a file of the column NAME


def is_held_out(name: str) -> bool:
    """Whether a file, a folder or a split of this name is for validation or tests."""
    return re.match(r"(val|valid|validation|test)(?![a-z])", name, re.IGNORECASE) is not None


def text_column(columns: Sequence[str]) -> str | None:
    """The column of captions."""
    return next((key for key in TEXT_KEYS if key in columns), None)


def as_caption(value: Any) -> str | None:
    """A value as a caption; None if it is not a text."""
    return value if isinstance(value, str) else None


def text_of(row: Mapping[str, Any]) -> str | None:
    """The caption in a row, if it has one."""
    return next((row[key] for key in TEXT_KEYS if isinstance(row.get(key), str)), None)


def image_column(columns: Sequence[str], asked: str | None, *, where: str) -> str:
    """The column of photos; DataError if there is none."""
    wanted = (asked,) if asked else IMAGE_COLUMNS
    image = next((column for column in wanted if column in columns), None)
    if image is None:
        raise DataError(
            f"{where} has no column {wanted[0]!r}, only {', '.join(columns)}: name the one with "
            "the photos in data.image_column."
        )
    return image


def columns_of(
    columns: Sequence[str], asked: str | None, condition: PictureInput | None, *, where: str
) -> dict[str, str]:
    """The columns to read, by content: "image", and condition images by their kind.

    The kind of a column "" follows from the file names. Raises DataError if the columns do not
    exist.
    """
    image = image_column(columns, asked, where=where)
    if condition is None:
        return {"image": image}
    stored = {kind: f"conditioning_{kind}" for kind in condition.draws}
    stored = {kind: column for kind, column in stored.items() if column in columns}
    if not stored and PREPARED in columns:
        stored = {"": PREPARED}
    if not stored:
        raise no_conditions(where, condition)
    return {"image": image, **stored}


def no_conditions(where: str, condition: PictureInput) -> DataError:
    """The error for a data set without the condition images of an input."""
    if not condition.draws:
        return DataError(
            f"{where} has no {PREPARED}: name it for each photo in metadata.jsonl, or give parquet "
            f"files with the columns image and {PREPARED}; docs/guide/data.md shows how."
        )
    return DataError(
        f"{where} has no column {PREPARED} (or conditioning_{condition.draws[0]}) for "
        "data.conditions: prepared; make it with condiff prep, or set data.conditions to online."
    )
