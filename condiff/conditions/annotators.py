"""Line, depth and normal annotators of controlnet-aux, one module at a time, with local weights.

Its `__init__` imports all of them at once, and needs mediapipe and torchvision, which most of
them do not need; so the package's own `__init__` is not run.
"""

import functools
import importlib
import importlib.util
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from condiff.errors import ConditionError, first_line

PACKAGE = "controlnet_aux"
INSTALL = "pip install controlnet-aux (where no torchvision fits torch: with --no-deps, and einops)"
HUB = "lllyasviel/Annotators"  # has all files but TEED's under these names
GRID = 64  # sides of the pictures that annotators take are multiples of this
_loading = threading.Lock()  # a load changes torch.load and sys.stdout for the whole process


@dataclass(frozen=True)
class Annotator:
    """A detector class in a module of controlnet-aux, and the weights files it opens."""

    module: str
    detector: str
    files: tuple[str, ...]
    hub: str = HUB
    options: dict[str, Any] = field(default_factory=dict)  # for from_pretrained
    resizes: bool = True  # takes image_resolution


ANNOTATORS: dict[str, Annotator] = {
    "lineart_realistic": Annotator("lineart", "LineartDetector", ("sk_model.pth", "sk_model2.pth")),
    "lineart_anime": Annotator("lineart_anime", "LineartAnimeDetector", ("netG.pth",)),
    "pidinet": Annotator("pidi", "PidiNetDetector", ("table5_pidinet.pth",)),
    "teed": Annotator(
        "teed",
        "TEEDdetector",
        ("5_model.pth",),
        hub="fal-ai/teed",
        options={"filename": "5_model.pth"},
        resizes=False,
    ),
    "mlsd": Annotator("mlsd", "MLSDdetector", ("mlsd_large_512_fp32.pth",)),
    "depth": Annotator("midas", "MidasDetector", ("dpt_hybrid-midas-501f0c75.pt",)),
    "normal": Annotator("normalbae", "NormalBaeDetector", ("scannet.pt",)),
}


def weights_folder() -> Path:
    """Where annotators' weights are: $CONDIFF_ANNOTATORS, or condiff/annotators in the cache."""
    if folder := os.environ.get("CONDIFF_ANNOTATORS"):
        return Path(folder)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "condiff" / "annotators"


def annotate(name: str, pixels: np.ndarray, folder: Path, settings: dict[str, float]) -> np.ndarray:
    """(H,W,3) uint8 RGB with sides a multiple of 64 -> (H,W,3) uint8, as the detector draws it."""
    side = min(pixels.shape[:2])
    sizes = {"detect_resolution": side}
    if ANNOTATORS[name].resizes:
        sizes["image_resolution"] = side
    return load_annotator(name, folder)(pixels, output_type="np", **sizes, **settings)


@functools.cache
def load_annotator(name: str, folder: Path) -> Any:
    """A detector with its weights from the folder; read once a process."""
    row = ANNOTATORS[name]
    detector = getattr(import_alone(row.module, name), row.detector)
    for file in row.files:
        if not (folder / file).is_file():
            raise ConditionError(
                f"{name} needs the weights {file}: put it in {folder}, for example by "
                f"hf download {row.hub} {' '.join(row.files)} --local-dir {folder}"
            )
    try:
        # NormalBae prints its progress to stdout, where the picture may go.
        with _loading, _loading_to_cpu(), redirect_stdout(sys.stderr):
            return detector.from_pretrained(str(folder), **row.options)
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        files = " and ".join(row.files)
        raise ConditionError(
            f"{name} cannot use {files} in {folder} ({first_line(error)}): get it again from "
            f"{row.hub}."
        ) from error


@contextmanager
def _loading_to_cpu() -> Iterator[None]:
    """Some detectors load weights to where they were saved, which may be a GPU that is not here."""
    import torch

    load = torch.load
    torch.load = functools.partial(load, map_location="cpu")
    try:
        yield
    finally:
        torch.load = load


def import_alone(module: str, name: str) -> Any:
    """A module of controlnet-aux, imported without the package's `__init__`, which needs more."""
    spec = importlib.util.find_spec(PACKAGE) if PACKAGE not in sys.modules else None
    if spec is None and PACKAGE not in sys.modules:
        raise ConditionError(f"{name} needs controlnet-aux: {INSTALL}.")
    if spec is not None:
        sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)  # its path, not its code
    try:
        return importlib.import_module(f"{PACKAGE}.{module}")
    # A torchvision made for another build of torch fails with RuntimeError, not ImportError.
    except (ImportError, RuntimeError, OSError) as error:
        missing = getattr(error, "name", None) or "torchvision"
        way_out = f"pip install {missing}"
        if missing == "torchvision":
            way_out = f"install the one that fits torch {version('torch')}, from where that came"
        raise ConditionError(
            f"{name} of controlnet-aux needs {missing} ({error}): {way_out}."
        ) from error
    finally:
        if spec is not None:
            del sys.modules[PACKAGE]  # a later import of the package gets the whole of it
