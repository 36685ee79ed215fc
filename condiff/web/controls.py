"""The page's controls, built from the fields of `SamplingConfig` and `ColorEdits`."""

import dataclasses
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from condiff.color.edits import (
    MAX_SATURATION,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    OF_DRAWINGS,
    ColorEdits,
)
from condiff.config import NATURAL, SamplingConfig, limits_of
from condiff.errors import ConfigError
from condiff.models.info import ModelInfo

Control = dict[str, Any]
LIMITS = {
    "saturation": (0.0, MAX_SATURATION),
    "temperature": (MIN_TEMPERATURE, MAX_TEMPERATURE),
    "flat": (0.0, 1.0),
}
KINDS = {int: "number", float: "number", bool: "switch", str: "text"}


def list_sampling(info: ModelInfo) -> list[Control]:
    """A control for each field of `SamplingConfig` that the model supports, with its default.

    As on the command line, drawings have no `size`, since their pictures have a fixed one.
    """
    left_out = set(info.unsupported)
    if not info.task.space.keeps_photo:
        left_out.add("size")
    defaults = info.sampling.model_dump()
    return [
        _control(
            name,
            field.annotation,
            default=defaults[name],
            limits=limits_of(field),
            text=field.description or "",
        )
        for name, field in SamplingConfig.model_fields.items()
        if name not in left_out
    ]


def list_edits(info: ModelInfo) -> list[Control]:
    """A control for each field of `ColorEdits` that is a number, a switch or a text.

    Pictures, such as strokes, have their own elements on the page.
    """
    keeps_photo = info.task.space.keeps_photo
    types = get_type_hints(ColorEdits)
    controls = []
    for field in dataclasses.fields(ColorEdits):
        kind = _plain(types[field.name])
        applies = (field.name in OF_DRAWINGS) != keeps_photo and field.name != "strict_reference"
        if kind in KINDS and applies:
            limits = LIMITS.get(field.name, (None, None))
            controls.append(
                _control(field.name, types[field.name], default=field.default, limits=limits)
            )
    return controls


def describe(info: ModelInfo) -> dict[str, Any]:
    """A model's description for the page: name, looks, controls, and whether it takes hints."""
    looks: dict[str, Any] = {}
    if info.task.space.keeps_photo:
        found = {name: info.find_look(name) for name in (NATURAL, *info.looks)}
        paler_first = sorted(found.items(), key=lambda row: row[1].strength)
        looks = {name: look.model_dump() for name, look in paler_first}
    return {
        "model": info.name,
        "looks": looks,
        "hints": info.hint_channels > 0,
        "sampling": list_sampling(info),
        "edits": list_edits(info),
        "reading": [_control("page", int | None, default=None, limits=(1, None))],
    }


def read_edits(values: dict[str, Any], **pictures: Any) -> ColorEdits:
    """The edits from the page's values; ConfigError for an unknown name or a wrong value."""
    types = {name: _plain(kind) for name, kind in get_type_hints(ColorEdits).items()}
    edits = {}
    for name, value in values.items():
        kind = types.get(name)
        if kind not in KINDS:
            raise ConfigError(f"There is no edit {name}.")
        wanted = (int, float) if kind is float else (kind,)
        if not isinstance(value, wanted) or (kind is float and isinstance(value, bool)):
            raise ConfigError(f"{name} is not a {kind.__name__}: {value!r}.")
        edits[name] = kind(value)  # JSON's 12 is noted as 12.0, as from the flag
    return ColorEdits(**edits, **pictures)


def _plain(kind: Any) -> Any:
    """float of float | None; any other type unchanged."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    return parts[0] if len(parts) == 1 and NoneType in get_args(kind) else kind


def _control(
    name: str,
    annotation: Any,
    *,
    default: Any,
    limits: tuple[Any, Any],
    text: str = "",
) -> Control:
    kind = _plain(annotation)
    control: Control = {"name": name, "default": default, "text": text}
    if get_origin(kind) is Literal:
        return control | {"kind": "choice", "choices": list(get_args(kind))}
    control["kind"] = KINDS[kind]
    if control["kind"] == "number":
        least, most = limits
        control |= {"min": least, "max": most, "step": 1 if kind is int else "any"}
    return control
