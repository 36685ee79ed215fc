"""A pipeline as the callable of a batch: out of memory and a grey result are not passed over."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageChops

from condiff.checkpoint import INDEX
from condiff.errors import ImageError, ModelError
from condiff.pipeline import Pipeline

MID_TONES = slice(16, 240)  # of 8-bit grey: where sRGB has room for colour


def build_transform(
    pipeline: Pipeline, *, steps: int, scheduler: str, size: int
) -> Callable[[Image.Image, int], Image.Image]:
    """(photo, seed) -> result, on one processor thread: another number of them rounds otherwise.

    Raises MemoryError where torch has its own error for that, on any device.
    """

    def transform(image: Image.Image, seed: int) -> Image.Image:
        torch.set_num_threads(1)  # of the calling thread, for each has its own number
        try:
            (result,) = pipeline(image, steps=steps, scheduler=scheduler, seed=seed, size=size)
        except RuntimeError as error:
            on_gpu = isinstance(error, torch.OutOfMemoryError)
            if not on_gpu and "not enough memory" not in str(error):
                raise
            if on_gpu:
                torch.cuda.empty_cache()
            raise MemoryError from error
        if is_grey(result) and not is_blank(image):
            raise ImageError("the model gave it no colour; try another --size")
        return result

    return transform


def is_grey(image: Image.Image) -> bool:
    """Whether R = G = B in every pixel."""
    red, green, blue = image.convert("RGB").split()
    return all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))


def is_blank(image: Image.Image) -> bool:
    """Whether nothing lies between near black and near white."""
    return not any(image.convert("L").histogram()[MID_TONES])


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
