"""Checks of the arguments of public functions: a ConfigError of one sentence, before any work."""

import os
from collections.abc import Callable
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from condiff.errors import ConfigError


def as_int(name: str, value: Any) -> int:
    """The value as an int; NumPy's are accepted. ConfigError if it is not a whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"{name} is a whole number, not {value!r}.")
    return int(value)


def as_int_within(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The value as an int; ConfigError if it is not a whole number, or not in the range."""
    number = as_int(name, value)
    if number < least or (most is not None and number > most):
        limit = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name} is {limit}, not {value}.")
    return number


def as_number(name: str, value: Any) -> float:
    """The value as a float; NumPy's are accepted. ConfigError if it is not a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{name} is a number, not {value!r}.")
    return float(value)


def as_tuple(name: str, values: Any) -> tuple[Any, ...]:
    """The values of a list or a tuple; ConfigError for anything else, such as a single text."""
    if not isinstance(values, (list, tuple)):
        raise ConfigError(f"{name} is a list or a tuple, not {values!r}.")
    return tuple(values)


def settle_fields(settings: Any) -> None:
    """Check the fields of a frozen dataclass that are a bool, a float or a str, or None.

    NumPy's values become Python's, which JSON can store. Raises ConfigError for another type.
    """
    for field in fields(settings):
        name, value = field.name, getattr(settings, field.name)
        kind = next((kind for kind in PLAIN if field.type in (kind, kind | None)), None)
        if kind is not None and not (value is None and field.type != kind):
            object.__setattr__(settings, name, PLAIN[kind](name, value))


def as_flag(name: str, value: Any) -> bool:
    """The value as a bool; NumPy's are accepted. ConfigError for anything else."""
    if not isinstance(value, (bool, np.bool_)):
        raise ConfigError(f"{name} is True or False, not {value!r}.")
    return bool(value)


def as_text(name: str, value: Any) -> str:
    """The value as a str; ConfigError for anything else."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} is a text, not {value!r}.")
    return str(value)


PLAIN: dict[type, Callable[[str, Any], Any]] = {bool: as_flag, float: as_number, str: as_text}


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
