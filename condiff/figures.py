"""Pictures of pictures."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 2
CAPTION = 18


def make_contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    *,
    side: int,
    captions: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """Rows of images on white, each scaled to fit a cell of `side` pixels, perhaps named below."""
    columns = max(len(row) for row in rows)
    across, down = side + GAP, side + GAP + (CAPTION if captions else 0)
    sheet = Image.new("RGB", (columns * across + GAP, len(rows) * down + GAP), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            scale = side / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            cell = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            corner = (side - size[0]) // 2, (side - size[1]) // 2
            sheet.paste(cell, (GAP + x * across + corner[0], GAP + y * down + corner[1]))
    for y, names in enumerate(captions or ()):
        for x, name in enumerate(names):
            below = GAP + x * across + side // 2, GAP + y * down + side + CAPTION // 2
            font = ImageFont.load_default(CAPTION - 5)
            ImageDraw.Draw(sheet).text(below, name, "black", font, anchor="mm")
    return sheet
