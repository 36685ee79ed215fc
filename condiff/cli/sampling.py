"""Groups of flags, each defined once: a command takes a whole group as one argument.

`expand_groups` replaces every parameter of a command whose type is a group by the group's flags,
and passes the command an instance. The flags of `SamplingConfig` are made from its fields.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_type_hints

import typer
from pydantic.fields import FieldInfo

from condiff.config import SamplingConfig, limits_of

FILM_STEPS = 30  # of `figure reverse`: more than a picture needs, so that the film is smooth


class Group:
    """Base of groups: a frozen dataclass whose fields are flags; `panel` heads them in the help."""

    panel: ClassVar[str] = "Options"


def expand_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the flags of its groups in place of the groups."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, tuple[type[Group], list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if not (isinstance(kind, type) and issubclass(kind, Group)):
            parameters.append(parameter.replace(annotation=kind, kind=parameter.KEYWORD_ONLY))
            continue
        flags = _flags_of(kind)
        groups[parameter.name] = kind, [flag.name for flag in flags]
        parameters += flags

    def expanded(**arguments: Any) -> None:
        for name, (kind, flags) in groups.items():
            arguments[name] = kind(**{flag: arguments.pop(flag) for flag in flags})
        command(**arguments)

    functools.update_wrapper(expanded, command)
    del expanded.__wrapped__  # type: ignore[attr-defined]  # typer would read its flags
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return expanded


def _flags_of(group: type[Group]) -> list[inspect.Parameter]:
    """One keyword parameter a field of the group, under the group's panel."""
    hints = get_type_hints(group, include_extras=True)
    flags = []
    for field in dataclasses.fields(group):  # type: ignore[arg-type]
        kind, option = get_args(hints[field.name])
        option.rich_help_panel = group.panel
        default = () if field.default_factory is not dataclasses.MISSING else field.default
        default = inspect.Parameter.empty if default is dataclasses.MISSING else default
        flags.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind, option],
            )
        )
    return flags


class _SamplingFlags(Group):
    panel = "How it is sampled"

    def override(self, config: SamplingConfig) -> SamplingConfig:
        """The model's settings with those that the user set."""
        return config.override(self.given())

    def given(self) -> dict[str, Any]:
        """The settings that the user set, by name."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {name: value for name, value in values.items() if value is not None}


def _sampling_group(
    name: str, fields: dict[str, FieldInfo], defaults: dict[str, int] | None = None
) -> type[_SamplingFlags]:
    """A group of flags; `defaults` are a command's own, for the help."""
    own = "the model's own"
    made = [
        (key, _sampling_flag(field, default=str((defaults or {}).get(key, own))), None)
        for key, field in fields.items()
    ]
    return dataclasses.make_dataclass(name, made, bases=(_SamplingFlags,), frozen=True)  # type: ignore[return-value]


def _sampling_flag(field: FieldInfo, *, default: str) -> Any:
    """A flag of a field of SamplingConfig, None where the user does not set it."""
    kind: Any = field.annotation
    if isinstance(kind, UnionType):  # int | None
        kind = next(part for part in get_args(kind) if part is not NoneType)
    least, most = limits_of(field)
    text = f"{(field.description or '').removesuffix('.')} (default: {default})."
    return Annotated[kind | None, typer.Option(help=text, min=least, max=most)]  # type: ignore[arg-type]


def _fields_without(*names: str) -> dict[str, FieldInfo]:
    fields = SamplingConfig.model_fields
    return {name: field for name, field in fields.items() if name not in names}


if TYPE_CHECKING:  # the classes are made from the fields, which a type checker cannot follow

    class SamplingFlags(_SamplingFlags):
        """All fields."""

    class SamplingFlagsOfFilms(_SamplingFlags):
        """All fields but size."""

    class SamplingFlagsOfDrawings(_SamplingFlags):
        """All fields but size and those of photos."""
else:
    SamplingFlags = _sampling_group("SamplingFlags", _fields_without())
    # The --size of the other commands is that of the result, not that at which a model sees a
    # picture.
    SamplingFlagsOfFilms = _sampling_group(
        "SamplingFlagsOfFilms", _fields_without("size"), {"steps": FILM_STEPS}
    )
    SamplingFlagsOfDrawings = _sampling_group(
        "SamplingFlagsOfDrawings", _fields_without("size", "coherence")
    )
