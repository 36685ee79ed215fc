"""Checks of the arguments of public functions: a ConfigError of one sentence, before any work."""

import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from condiff.errors import ConfigError


def as_int(name: str, value: Any) -> int:
    """The value as an int; NumPy's are accepted. ConfigError if it is not a whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"{name} is a whole number, not {value!r}.")
    return int(value)


def check_range(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise ConfigError for a value that is not a whole number, or not in the range."""
    number = as_int(name, value)
    if number < least or (most is not None and number > most):
        limit = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name} is {limit}, not {value}.")


def as_number(name: str, value: Any) -> float:
    """The value unchanged if it is a real number; ConfigError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{name} is a number, not {value!r}.")
    return value  # type: ignore[return-value]


def check_kind(name: str, value: Any, wanted: type) -> None:
    """Raise ConfigError for a value that is not an instance of the wanted class."""
    if not isinstance(value, wanted):
        raise ConfigError(f"{name} must be a {wanted.__name__}, not {type(value).__name__}.")


def as_path(name: str, value: Any) -> Path:
    """The path in a str or a PathLike; ConfigError for anything else."""
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError(f"{name} is a path, not {value!r}.")
    return Path(value)


def as_count(samples: Any) -> int:
    """A number of samples as an int; ConfigError if it is not a whole number or below 1."""
    count = as_int("samples", samples)
    if count < 1:
        raise ConfigError(f"samples are at least 1, not {count}.")
    return count


def as_seed(value: Any) -> int:
    """A seed as an int; ConfigError if it is not a whole number or below 0."""
    seed = as_int("seed", value)
    if seed < 0:
        raise ConfigError(f"A seed is 0 or more, not {seed}.")
    return seed
