"""Options for the colours of many pictures, in a folder or in a film."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from condiff.checks import as_path, as_seed, check_kind, settle_fields
from condiff.color.edits import NO_EDITS, OF_DRAWINGS, ColorEdits
from condiff.config import SamplingConfig
from condiff.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ColorOptions:
    """The settings shared by folders and films; None means the default of model or program.

    Raises ConfigError for a value of a wrong type or out of range.
    """

    model: str | Path = "colorize"
    look: str | None = None  # of the model, for fields not in `overrides` or `edits`
    overrides: Mapping[str, Any] = field(default_factory=dict)  # of fields of SamplingConfig
    edits: ColorEdits = NO_EDITS
    seed: int | None = None
    provenance: bool = True  # note in the result that a model made the colours
    device: str = "auto"
    engine: str = "auto"
    force: bool = False  # start over, and replace results
    no_edits: ClassVar[tuple[str, ...]] = OF_DRAWINGS  # fields of `ColorEdits` that are refused

    def __post_init__(self) -> None:
        settle_fields(self)
        as_path("model", self.model)
        check_kind("edits", self.edits, ColorEdits)
        if refused := [name for name in self.edits.changed() if name in self.no_edits]:
            raise ConfigError(f"{type(self).__name__} takes no edits with {refused[0]}.")
        check_kind("overrides", self.overrides, Mapping)
        given = {name: value for name, value in self.overrides.items() if value is not None}
        checked = SamplingConfig().override(given)
        object.__setattr__(self, "overrides", {name: getattr(checked, name) for name in given})
        if self.seed is not None:
            object.__setattr__(self, "seed", as_seed(self.seed))
