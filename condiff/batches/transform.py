"""A pipeline as the callable of a batch: out of memory and a grey result are not passed over."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from condiff.batches.attempt import HintPicture, Transform
from condiff.colors.wishes import note_wishes
from condiff.errors import ImageError, ModelError
from condiff.images.photo import Photo, Pixels
from condiff.images.provenance import add_provenance
from condiff.networks.folder import INDEX
from condiff.pipeline import Pipeline

DARK, BRIGHT = 16 / 255, 239 / 255  # between them sRGB has room for colour


@dataclass(frozen=True)
class Recipe:
    """All that a transform depends on but its model; None: as `build_transform` has it."""

    model: str
    device: str
    engine: str  # of the network
    steps: int
    scheduler: str
    size: int | None
    saturation: float
    temperature: float
    provenance: bool
    quality: int | None
    max_pixels: int

    def build(self, pipeline: Pipeline) -> Transform:
        """The transform, of a pipeline on `device`."""
        return build_transform(
            pipeline,
            steps=self.steps,
            scheduler=self.scheduler,
            size=self.size,
            saturation=self.saturation,
            temperature=self.temperature,
            provenance=self.model if self.provenance else None,
        )


def build_transform(
    pipeline: Pipeline,
    *,
    steps: int,
    scheduler: str,
    size: int | None,
    provenance: str | None,
    saturation: float = 1.0,
    temperature: float = 0.0,
) -> Transform:
    """(photo, seed, hints) -> result; MemoryError where an engine has its own error for that.

    `provenance` is the model's name in the note that results carry; None: no note.
    """
    size = pipeline.loaded.condition_size if size is None else size
    settings: dict[str, object] = {"steps": steps, "scheduler": scheduler, "size": size}
    settings["guidance_scale"] = pipeline.find_guidance_scale(None)
    settings["variety"] = pipeline.find_variety(None)

    def transform(photo: Photo, seed: int, hints: HintPicture | None) -> Photo:
        (result,) = pipeline(
            photo,
            steps=steps,
            scheduler=scheduler,
            size=size,
            seed=seed,
            hints=hints.image if hints else (),
            saturation=saturation,
            temperature=temperature,
        )
        if saturation and is_grey(result.pixels) and not is_blank(photo.pixels):
            raise ImageError("the model gave it no colour; try another --size")
        if provenance is None:
            return result
        noted = note_wishes(
            strokes=hints.digest if hints else None,
            saturation=saturation,
            temperature=temperature,
        )
        told = add_provenance(
            result.metadata, model=provenance, seed=seed, settings=settings | noted
        )
        return replace(result, metadata=told)

    return transform


def is_grey(pixels: Pixels) -> bool:
    """Whether R = G = B in every pixel of (H,W,3)."""
    return bool((pixels == pixels[..., :1]).all())


def is_blank(pixels: Pixels) -> bool:
    """Whether no channel of (H,W,3) lies between near black and near white."""
    white = np.iinfo(pixels.dtype).max
    return not bool(((pixels > DARK * white) & (pixels < BRIGHT * white)).any())


def fingerprint(folder: Path, task: str) -> str:
    """What a model folder holds, in 16 digits, wherever it lies; refuses another task's model."""
    there = json.loads((folder / INDEX).read_text("utf-8")).get("task")
    if there != task:
        raise ModelError(f"The model {folder} is for the task {there}, not {task}: give another.")
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors"):
            with open(path, "rb") as file:
                total.update(path.relative_to(folder).as_posix().encode())
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]
