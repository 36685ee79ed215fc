"""Errors a user can act on: one sentence each, saying what, where, and the way out.

CondiffError
├── UsageError     arguments that do not go together
│   └── ConfigError    a configuration or a flag's value is wrong
├── DependencyError  an optional package is not installed
├── ImageError     a photo cannot be read or written
├── FilmError      a film cannot be read or written
├── ModelError     a model folder is missing, broken or of another kind
├── ConditionError a condition lacks a package, weights or an aligned image
├── StorageError   the folder of a batch or a run cannot be written, locked or listed
├── ClusterError   a Ray cluster cannot be reached, or gives up
├── DataError      a training or evaluation set cannot be used
└── TrainingError  a run cannot go on
    └── CheckpointError  its state cannot be written

Names that a user gave and that do not exist are UsageErrors as well: UnknownModelError,
UnknownConditionError, UnknownFormatError. The command line exits 2 for every UsageError, which is
raised before work begins, and 1 for the others.
"""

from pathlib import Path
from typing import Self

from condiff.platforms import WINDOWS

NO_MEMORY = "There is not enough memory: close other programs, or scale the picture down."


class CondiffError(Exception):
    """Any failure that is not a bug of condiff; the command line prints it and exits 1 or 2."""


class UsageError(CondiffError):
    """Arguments of a command or a call do not go together."""


class DependencyError(CondiffError):
    """An optional package is not installed; the sentence gives the command that installs it."""

    @classmethod
    def of(cls, need: str, *, extra: str) -> Self:
        """The error for a `need` ("Training needs accelerate") that an extra of condiff meets."""
        return cls(f"{need}, which is not installed: {install_command(extra)}")


class ImageError(CondiffError):
    """A photo cannot be read or written."""


class PagesError(ImageError):
    """A photo's file has several pages or frames, and none was chosen."""


class FilmError(CondiffError):
    """A film cannot be read or written."""


class UnknownFormatError(ImageError, UsageError):
    """The name of a result has no suffix of a format that can be written."""


class ModelError(CondiffError):
    """A model folder is missing, broken, or made for another task."""


class UnknownModelError(ModelError, UsageError):
    """There is no model of that name, and the folder, if there is one, contains none."""


class ConfigError(UsageError):
    """A configuration file, an override or a combination of settings is wrong."""


class ConditionError(CondiffError):
    """A condition cannot be drawn: its package, weights or aligned image are missing."""


class UnknownConditionError(ConditionError, UsageError):
    """There is no condition of that name, or it has no such parameter or value."""


class StorageError(CondiffError):
    """The folder of a batch or a run cannot be written, locked or listed."""


class ClusterError(CondiffError):
    """A Ray cluster cannot be reached, does not fit, or gives up."""


class DataError(CondiffError):
    """A training or evaluation set is missing, empty, or not readable."""


class TrainingError(CondiffError):
    """A run cannot go on: its loss is not a number, or its parts do not fit."""


class CheckpointError(TrainingError):
    """The state of a run cannot be written."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without its full stop; its type where it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def install_command(extra: str) -> str:
    """The shell command that adds an extra ("heif") to this installation.

    Installed from a clone or a wheel file, the command names that. Otherwise it names the packages
    themselves, because condiff is not on a package index.
    """
    import json  # rarely needed: it would slow the start of every command
    import re
    from importlib import metadata
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    quote = '"' if WINDOWS else "'"
    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").is_file():
        return f"pip install -e {quote}{root}[{extra}]{quote}"
    try:
        origin = metadata.distribution("condiff").read_text("direct_url.json")
        needs = metadata.requires("condiff") or []
    except metadata.PackageNotFoundError:
        origin, needs = None, []
    path = Path(url2pathname(urlsplit(json.loads(origin)["url"]).path)) if origin else None
    if path and path.exists():
        return f"pip install {quote}{path}[{extra}]{quote}"
    ending = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""")
    own = [need.split(";")[0].strip() for need in needs if ending.search(need)]
    return "pip install " + " ".join(
        f"{quote}{need}{quote}" for need in own or [f"condiff[{extra}]"]
    )
