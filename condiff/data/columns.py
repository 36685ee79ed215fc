"""Which files, rows and columns of a data set are trained on.

Files and folders that are named val, valid, validation or test (test-00.parquet, val/1.jpg), and
rows with such a `split`, are held out for validation and tests.
"""

import re
from collections.abc import Sequence

from condiff.errors import DataError
from condiff.inputs import PictureInput
from condiff.photos.formats import IMAGE_COLUMNS

PREPARED = "conditioning_image"  # a prepared data set's only condition; of several: conditioning_…


def is_held_out(name: str) -> bool:
    """Whether a file, a folder or a split of this name is for validation or tests."""
    return re.match(r"(val|valid|validation|test)(?![a-z])", name, re.IGNORECASE) is not None


def columns_of(
    there: Sequence[str], image_column: str | None, condition: PictureInput | None, *, where: str
) -> dict[str, str]:
    """The columns to read, by what they contain: "image", and condition images by
    their kind.

    The kind of a column "" follows from the file names. Raises DataError where there are no such
    columns.
    """
    wanted = (image_column,) if image_column else IMAGE_COLUMNS
    image = next((column for column in wanted if column in there), None)
    if image is None:
        raise DataError(
            f"{where} has no column {wanted[0]!r}, only {', '.join(there)}: name the one with the "
            "photos in data.image_column."
        )
    if condition is None:
        return {"image": image}
    drawings = {kind: f"conditioning_{kind}" for kind in condition.draws}
    drawings = {kind: column for kind, column in drawings.items() if column in there}
    if not drawings and PREPARED in there:
        drawings = {"": PREPARED}
    if not drawings:
        raise no_drawings(where)
    return {"image": image, **drawings}


def no_drawings(where: str) -> DataError:
    """The error that a data set has no prepared drawings."""
    return DataError(
        f"{where} has no column {PREPARED} (or conditioning_canny, …) for data.conditions: "
        "prepared; make it with condiff prep, or set data.conditions to online."
    )
