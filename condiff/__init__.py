"""Colours for black-and-white photos, pictures from sketches, by conditional diffusion."""

from typing import TYPE_CHECKING, Any

from condiff._version import __version__

__all__ = [
    "Cascade",
    "ColorEdits",
    "CondiffError",
    "Hint",
    "Pipeline",
    "SamplingConfig",
    "__version__",
    "available_models",
    "colorize_film",
    "colorize_folder",
    "read_photo",
    "train",
    "write_photo",
]

if TYPE_CHECKING:
    from condiff.batch.colorize import colorize_folder
    from condiff.color.edits import ColorEdits
    from condiff.color.hints import Hint
    from condiff.config import SamplingConfig
    from condiff.errors import CondiffError
    from condiff.models.info import available_models
    from condiff.photos.reading import read_photo
    from condiff.photos.writing import write_photo
    from condiff.pipelines.cascade import Cascade
    from condiff.pipelines.pipeline import Pipeline
    from condiff.training.loop import train
    from condiff.video.jobs import colorize_film

_HOME = {
    "Cascade": "condiff.pipelines.cascade",
    "ColorEdits": "condiff.color.edits",
    "CondiffError": "condiff.errors",
    "Hint": "condiff.color.hints",
    "Pipeline": "condiff.pipelines.pipeline",
    "SamplingConfig": "condiff.config",
    "available_models": "condiff.models.info",
    "colorize_film": "condiff.video.jobs",
    "colorize_folder": "condiff.batch.colorize",
    "read_photo": "condiff.photos.reading",
    "train": "condiff.training.loop",
    "write_photo": "condiff.photos.writing",
}


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet: for completion and help()."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `import condiff` alone costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'condiff' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
