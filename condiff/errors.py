"""Errors a user can act on: one sentence each, saying what, where, and the way out.

CondiffError
├── UsageError     arguments that do not go together
├── DependencyError  an optional package is not installed
├── ImageError     a photo cannot be read or written
├── FilmError      a film cannot be read or written
├── ModelError     a model folder is missing, broken or of another kind
├── ConfigError    a configuration or a flag's value does not hold together
├── ConditionError a condition is unknown, or lacks a package, weights or an aligned image
├── DataError      a training or evaluation set cannot be used
└── TrainingError  a run cannot go on
    └── CheckpointError  its state cannot be written
"""

from pathlib import Path
from typing import Self

NO_MEMORY = "There is not enough memory: close other programs, or scale the picture down."


class CondiffError(Exception):
    """Any failure that is not a bug of condiff; the command line prints it and exits 1."""


class UsageError(CondiffError):
    """Arguments of a command or a call do not go together."""


class DependencyError(CondiffError):
    """An optional package is not installed; the sentence gives the command that installs it."""

    @classmethod
    def of(cls, need: str, *, extra: str) -> Self:
        """The error that `need` ("Training needs accelerate") asks for an extra of condiff."""
        return cls(f"{need}, which is not installed: {install_command(extra)}")


class ImageError(CondiffError):
    """A photo cannot be read or written."""


class FilmError(CondiffError):
    """A film cannot be read or written."""


class ModelError(CondiffError):
    """A model folder is missing, broken, or made for another task."""


class ConfigError(CondiffError):
    """A configuration file, an override or a combination of settings is wrong."""


class ConditionError(CondiffError):
    """A condition is unknown, or its package, weights or aligned image are missing."""


class DataError(CondiffError):
    """A training or evaluation set is missing, empty, or not readable."""


class TrainingError(CondiffError):
    """A run cannot go on: its loss is no number, or its parts do not fit."""


class CheckpointError(TrainingError):
    """The state of a run cannot be written."""


def install_command(extra: str) -> str:
    """The shell command that adds an extra ("heif") to this very installation.

    From a clone or a wheel file it names that; elsewhere, as condiff is on no package index, the
    packages themselves.
    """
    import json  # rarely needed, and the start of a command is not to pay for it
    import re
    from importlib import metadata
    from urllib.parse import unquote, urlsplit

    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").is_file():
        return f"pip install -e '{root}[{extra}]'"
    try:
        origin = metadata.distribution("condiff").read_text("direct_url.json")
        needs = metadata.requires("condiff") or []
    except metadata.PackageNotFoundError:
        origin, needs = None, []
    path = Path(unquote(urlsplit(json.loads(origin)["url"]).path)) if origin else None
    if path and path.exists():
        return f"pip install '{path}[{extra}]'"
    ending = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""")
    own = [need.split(";")[0].strip() for need in needs if ending.search(need)]
    return "pip install " + " ".join(f"'{need}'" for need in own or [f"condiff[{extra}]"])
