"""Pictures of pictures."""

from collections.abc import Sequence

from PIL import Image

GAP = 2


def make_contact_sheet(rows: Sequence[Sequence[Image.Image]], *, side: int) -> Image.Image:
    """Rows of images on white, each scaled to fit a cell of `side` pixels."""
    columns = max(len(row) for row in rows)
    pitch = side + GAP
    sheet = Image.new("RGB", (columns * pitch + GAP, len(rows) * pitch + GAP), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            scale = side / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            cell = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            corner = (side - size[0]) // 2, (side - size[1]) // 2
            sheet.paste(cell, (GAP + x * pitch + corner[0], GAP + y * pitch + corner[1]))
    return sheet
