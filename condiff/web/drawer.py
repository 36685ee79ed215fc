"""Makes pictures of the page's drawings, with a film of the sampling steps."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from condiff.conditions.drawing_cleanup import Drawing, clean_drawing, shrink_ink
from condiff.conditions.table import apply, find_condition, to_ink
from condiff.config import SamplingConfig
from condiff.inputs import Opened
from condiff.photos.formats import MAX_PIXELS
from condiff.photos.photo import Photo
from condiff.photos.writing import write_photo
from condiff.pipelines.cascade import Cascade
from condiff.pipelines.pipeline import Encoded
from condiff.resize import shrink_long_side
from condiff.web.colorizer import FIRST_PAGE, Order, read_upload, save_preview, shrink
from condiff.web.sessions import Upload
from condiff.web.worker import Event

FILM_SIDE = 256  # longest side of a film's frames
PHOTO_SIDE, PHOTO_LINES = 1024, "pencil"  # a photo's lines: their longest side, and the condition
LINES_DRAWN = "It looks like a photo: its lines were drawn. The tab Colorize gives it colours."


@dataclass(frozen=True)
class Made:
    """A finished picture with its file."""

    seed: int


class Drawer:
    """A cascade and its current drawings; for one thread."""

    def __init__(self, cascade: Cascade, *, max_pixels: int = MAX_PIXELS):
        self.cascade, self.max_pixels = cascade, max_pixels
        self._opened: tuple[str, Opened] | None = None

    def open(self, upload: Upload) -> Iterator[Event]:
        """Read an uploaded drawing, and show it cleaned, as model input.

        Yields one event with its size and remarks. Raises ImageError if it cannot be read.
        """
        opened = self._open(upload)
        upload.size = opened.size
        width, height = opened.size
        scale = min(1.0, 1024 / max(width, height))
        ink = opened.show(max(1, round(width * scale)), max(1, round(height * scale)))
        path = upload.publish(upload.folder / "before.jpg")
        save_preview(np.asarray(ink.convert("RGB")), path)
        yield {
            "before": path.name,
            "width": width,
            "height": height,
            "remarks": [*([FIRST_PAGE] if upload.page else []), *opened.done],
        }

    def render(self, upload: Upload, order: Order) -> Iterator[Event]:
        """Yield every step with its frame of the film, and each picture with its file."""
        upload.clear()
        opened = self._open(upload)
        cascade, pipeline = self.cascade, self.cascade.pipeline
        config = cascade.sampling.override(order.sampling)
        pipeline.loaded.check_sampling(config)
        encoded = cascade.encode(opened, config=config, edits=order.edits)
        small = self._shrink(encoded)
        for number in range(order.samples):
            seed = order.seed + number
            x_0 = None
            for step, x_0 in enumerate(pipeline.sample(encoded, config=config, seed=seed)):
                frame = upload.publish(upload.folder / f"film.{seed}.{step}.jpg")
                save_preview(pipeline.decode(x_0, small), frame)
                done = number * config.steps + step
                yield {
                    "step": done,
                    "steps": order.samples * config.steps,
                    "sample": number,
                    "frame": frame.name,
                }
            picture = cascade.finish(x_0, encoded, opened, seed=seed)
            yield self._save(upload, picture, order, config)

    def forget(self, upload: Upload) -> None:
        """Free the memory of a drawing."""
        if self._opened is not None and self._opened[0] == upload.id:
            self._opened = None

    def release(self) -> None:
        """Free the memory of the last drawing; it is read again when needed."""
        self._opened = None

    def write(self, upload: Upload, name: str) -> Iterator[Event]:
        """Yield the event of a picture's file, which exists already."""
        made: Made = upload.find(name)
        path = upload.folder / f"{name}.png"
        wanted = f"{Path(upload.name).stem}.{made.seed}.render.png"
        yield {"file": path.name, "name": wanted, "bytes": path.stat().st_size}

    def _save(
        self, upload: Upload, picture: Image.Image, order: Order, config: SamplingConfig
    ) -> Event:
        """Write a picture as `condiff render` does; returns its event."""
        seed = picture.info["seed"]
        name = f"picture{seed}"
        path = upload.folder / f"{name}.png"
        noted = self.cascade.note(picture, config=config, edits=order.edits, hints=order.note)
        write_photo(noted, path, force=True)
        upload.publish(path)
        preview = upload.publish(upload.folder / f"{name}.jpg")
        save_preview(shrink(np.asarray(picture)), preview)
        upload.keep(name, Made(seed))
        return {"result": name, "seed": seed, "preview": preview.name, "remarks": []}

    def _shrink(self, encoded: Encoded) -> Encoded:
        """An encoding that decodes frames of at most FILM_SIDE, without flat colours."""
        encoded = replace(encoded, edits=replace(encoded.edits, flat=0.0))
        ink = encoded.source
        if ink is None or max(ink.shape[:2]) <= FILM_SIDE:
            return encoded
        scale = FILM_SIDE / max(ink.shape[:2])
        height, width = (max(1, round(side * scale)) for side in ink.shape[:2])
        return replace(encoded, source=shrink_ink(ink, width, height))

    def _open(self, upload: Upload) -> Opened:
        """The drawing as model input, or a photo's lines; errors contain the user's file name."""
        if self._opened is None or self._opened[0] != upload.id:
            photo = read_upload(upload, self.max_pixels)
            drawing = clean_drawing(photo.pixels, photo.alpha)
            opened = self.cascade.open(draw_lines(photo) if drawing.doubt else drawing)
            assert opened is not None and isinstance(opened.picture, Drawing)
            self._opened = upload.id, opened
        return self._opened[1]


def draw_lines(photo: Photo) -> Drawing:
    """The lines of a photo, as a drawing of at most PHOTO_SIDE pixels a side."""
    pixels = np.asarray(photo.to_image().convert("RGB"))
    lines = apply(PHOTO_LINES, shrink_long_side(pixels, PHOTO_SIDE))
    return Drawing(to_ink(lines, ink=find_condition(PHOTO_LINES).ink)[..., 0], (LINES_DRAWN,))
