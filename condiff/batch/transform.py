"""What is done to each photo of a batch; a grey result is a failure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from condiff.batch.worker import HintPicture, Transform
from condiff.color.edits import NO_EDITS, ColorEdits
from condiff.config import SamplingConfig
from condiff.errors import ImageError
from condiff.photos.photo import Photo, Pixels
from condiff.photos.provenance import add_provenance
from condiff.photos.reading import MAX_PIXELS, read_photo
from condiff.pipelines.pipeline import Pipeline

STRIP_ROWS = 64  # rows that are looked at together
# Edits that are noted by their digest, and those that a note leaves out.
NOTED_AS = {
    "mask": "mask_digest",
    "references": "reference_digests",
    "palette": "palette_note",
    "album": "album_note",
}
NOT_NOTED = {"hints", "strict_reference"}
DARK, BRIGHT = 16 / 255, 239 / 255  # only between them can sRGB show colour


@dataclass(frozen=True)
class ColorizeSettings:
    """All that a result depends on besides the photo, its seed and the weights."""

    model: str  # its name, for the note of how a result was made
    device: str
    engine: str  # of the network
    sampling: SamplingConfig
    edits: ColorEdits = NO_EDITS  # without hints, which are a photo's own
    provenance: bool = True
    touch: bool = False  # results are dated now, instead of like their photos
    quality: int | None = None
    page: int | None = None
    max_pixels: int = MAX_PIXELS
    strict: bool = False

    def read(self, source: Path) -> Photo:
        """The photo in a file, as these settings want it read."""
        return read_photo(source, max_pixels=self.max_pixels, page=self.page, strict=self.strict)


def build_transform(pipeline: Pipeline, settings: ColorizeSettings) -> Transform:
    """The function (photo, seed, hints) -> result; it raises ImageError for a grey result."""

    def transform(photo: Photo, seed: int, hints: HintPicture | None) -> Photo:
        edits = replace(settings.edits, hints=hints.image) if hints else settings.edits
        (result,) = pipeline.run(photo, config=settings.sampling, seed=seed, edits=edits)
        wanted = edits.saturation != 0 and edits.mask is None
        if wanted and is_grey(result.pixels) and not is_blank(photo.pixels):
            raise ImageError("the model gave it no colour; try another --size")
        strokes = {"strokes": hints.digest[:16]} if hints else None
        return note_making(result, pipeline, settings, hints=strokes)

    return transform


def note_making(
    result: Photo,
    pipeline: Pipeline,
    settings: ColorizeSettings,
    *,
    hints: Mapping[str, object] | None = None,
) -> Photo:
    """The result with a note of how it was made, if the settings want one.

    `hints` are what the note says of them: their points, or the digest of their picture.
    """
    if not settings.provenance:
        return result
    sampling = settings.sampling
    if sampling.size is None:
        sampling = sampling.override({"size": pipeline.loaded.condition_size})
    noted: dict[str, object] = {**sampling.model_dump(), **(hints or {})}
    for name in set(settings.edits.changed()) - NOT_NOTED:
        noted[name] = getattr(settings.edits, NOTED_AS.get(name, name))
    metadata = add_provenance(
        result.metadata, model=settings.model, seed=result.info["seed"], settings=noted
    )
    return replace(result, metadata=metadata)


def is_grey(pixels: Pixels) -> bool:
    """Whether R = G = B in every pixel of (H,W,3)."""
    return all(bool((strip == strip[..., :1]).all()) for strip in _strips(pixels))


def is_blank(pixels: Pixels) -> bool:
    """Whether every channel of (H,W,3) is near black or near white, where no colour shows."""
    white = np.iinfo(pixels.dtype).max
    dark, bright = DARK * white, BRIGHT * white
    return not any(bool(((s > dark) & (s < bright)).any()) for s in _strips(pixels))


def _strips(pixels: Pixels) -> Iterator[Pixels]:
    """The rows of an image, some at a time, to save memory."""
    return (pixels[top : top + STRIP_ROWS] for top in range(0, len(pixels), STRIP_ROWS))
