"""Colours for black-and-white photos, pictures from sketches, by conditional diffusion."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["CondiffError", "Hint", "Pipeline", "__version__"]

if TYPE_CHECKING:
    from condiff.color.hints import Hint
    from condiff.errors import CondiffError
    from condiff.pipelines.pipeline import Pipeline

_HOME = {
    "CondiffError": "condiff.errors",
    "Hint": "condiff.color.hints",
    "Pipeline": "condiff.pipelines.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `import condiff` alone costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'condiff' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
