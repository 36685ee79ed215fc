"""Settings of colouring a photo, their note in the result, and remarks for users."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from condiff.arrays import Pixels
from condiff.color.edits import NO_EDITS, ColorEdits
from condiff.color.hints import draw_strokes, find_shortfall
from condiff.color.lab import lightness
from condiff.color.references import MIN_SHARE
from condiff.color.scans import NEGATIVE, is_colour_negative
from condiff.config import SamplingConfig
from condiff.models.info import ModelInfo
from condiff.photos.formats import MAX_PIXELS
from condiff.photos.photo import Photo, strips
from condiff.photos.provenance import add_provenance, is_own_result
from condiff.photos.reading import read_photo
from condiff.pipelines.pipeline import Pipeline
from condiff.resize import shrink_to

STRIP_PIXELS = 1 << 18  # processed at once
# Edits that a note contains as a digest, and edits that it omits.
NOTED_AS = {
    "mask": "mask_digest",
    "references": "reference_digests",
    "palette": "palette_note",
    "album": "album_note",
}
NOT_NOTED = {"hints", "strict_reference"}
SHORTFALL = 0.01  # share of the hints' area; less is not worth a remark
DARK, BRIGHT = 16 / 255, 239 / 255  # only between them can sRGB show colour


@dataclass(frozen=True)
class ColorizeSettings:
    """All settings that a result depends on, besides the photo, its seed and the weights."""

    model: str  # its name, for the note in a result
    device: str
    engine: str  # of the network
    sampling: SamplingConfig
    edits: ColorEdits = NO_EDITS  # without hints, which belong to one photo
    provenance: bool = True
    touch: bool = False  # results get the present date, not that of their photos
    quality: int | None = None
    page: int | None = None
    max_pixels: int = MAX_PIXELS
    strict: bool = False

    def read(self, source: Path) -> Photo:
        """Read a photo with these settings, with warnings."""
        photo = read_photo(source, max_pixels=self.max_pixels, page=self.page, strict=self.strict)
        if self.edits.invert or not is_colour_negative(photo.pixels):
            return photo
        warnings = (*photo.info.get("warnings", ()), NEGATIVE)
        return replace(photo, info={**photo.info, "warnings": warnings})


def build_settings(
    info: ModelInfo,
    *,
    look: str | None,
    overrides: Mapping[str, Any],
    edits: ColorEdits,
    **others: Any,
) -> ColorizeSettings:
    """Settings of single photos: the model's sampling settings, then the look's, then `overrides`.

    `others` are the remaining fields of `ColorizeSettings`. Raises ConfigError for an unknown look
    and for values out of range.
    """
    sampling, edits = info.configure(edits, look=look, overrides=overrides)
    return ColorizeSettings(sampling=sampling, edits=edits, **others)


def note_making(
    result: Photo,
    pipeline: Pipeline,
    settings: ColorizeSettings,
    *,
    hints: Mapping[str, object] | None = None,
) -> Photo:
    """The result with a note of how it was made, if the settings ask for one.

    `hints` is their entry in the note: points, or the digest of their picture.
    """
    if not settings.provenance:
        return result
    sampling = settings.sampling
    if sampling.size is None:
        sampling = sampling.override({"size": pipeline.loaded.condition_size})
    noted: dict[str, object] = {**sampling.note(), **(hints or {})}
    for name in set(settings.edits.changed()) - NOT_NOTED:
        noted[name] = getattr(settings.edits, NOTED_AS.get(name, name))
    metadata = add_provenance(
        result.metadata, model=settings.model, seed=result.info["seed"], settings=noted
    )
    return replace(result, metadata=metadata)


def list_remarks(photo: Photo, edits: ColorEdits) -> list[str]:
    """Remarks for the user on a photo before it is coloured."""
    remarks = [str(warning) for warning in photo.info.get("warnings", ())]
    if is_own_result(photo.metadata):
        remarks.append("its colours were made by condiff")
    if NEGATIVE not in remarks and not edits.invert and is_colour_negative(photo.pixels):
        remarks.append(NEGATIVE)
    return remarks


def describe_shortfall(photo: Photo, edits: ColorEdits) -> str:
    """A remark if sRGB cannot show hints at the photo's lightness; otherwise empty."""
    hints = edits.hints
    if not isinstance(hints, Image.Image) and not hints:
        return ""
    shown = edits.begin(photo)
    L = lightness(shrink_to(shown.pixels))
    strokes = draw_strokes(hints, photo=shown.size, size=L.shape)
    share = find_shortfall(strokes, L) if strokes else 0.0
    if share <= SHORTFALL:
        return ""
    return (
        f"{share:.0%} of the hints' area is too dark or too light for their colour in sRGB: its"
        " hue is kept, its chroma reduced"
    )


def describe_match(share: float | None) -> str:
    """A remark on the share of a photo, 0 to 1, coloured by references; empty without any."""
    if share is None:
        return ""
    rest = "; nearly all of it was coloured without one" if share < MIN_SHARE else ""
    return f"{share:.0%} of the photo matches a reference{rest}"


def describe_grey(photo: Photo, result: Photo, edits: ColorEdits) -> str:
    """Why a result has no colour although colour was wanted; empty if it has some."""
    if edits.saturation == 0 or edits.mask is not None:
        return ""
    if is_blank(photo.pixels):
        return "no colour: the photo is pure black and white; sRGB has no colour at those levels"
    if is_grey(result.pixels):
        return "no colour: the model gave it none; try another --size"
    return ""


def is_grey(pixels: Pixels) -> bool:
    """Whether R = G = B in every pixel of (H,W,3)."""
    parts = (pixels[strip] for strip in strips(*pixels.shape[:2], pixels=STRIP_PIXELS))
    return all(bool((part == part[..., :1]).all()) for part in parts)


def is_blank(pixels: Pixels) -> bool:
    """Whether every channel of (H,W,3) is near black or near white, where no colour shows."""
    white = np.iinfo(pixels.dtype).max
    dark, bright = DARK * white, BRIGHT * white
    parts = (pixels[strip] for strip in strips(*pixels.shape[:2], pixels=STRIP_PIXELS))
    return not any(bool(((part > dark) & (part < bright)).any()) for part in parts)
