"""The JSON files of a model folder, read without torch."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condiff.checks import as_path, check_kind
from condiff.color.edits import ColorEdits
from condiff.config import LOOKS, NATURAL, WORDS, DiffusionConfig, Look, SamplingConfig
from condiff.errors import ConfigError, ModelError, UnknownModelError, UsageError, first_line
from condiff.inputs import Opened, UserPicture
from condiff.tasks import BACKBONE_STRIDE, Task, find_task

EMBEDDED = Path(__file__).parents[1] / "weights"
INDEX = "model_index.json"
OWN_INDEX = "condiff.json"  # beside the index of a stock pipeline, in a model on a base
TEXT_ENCODER = "text_encoder"  # of a model that takes text
RUN_MODEL = "model"  # the folder of a run's model: not a useful name
DDPM_DEFAULTS = {  # of diffusers, for fields missing in a scheduler's file
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model's task, noise process and sizes."""

    path: Path
    task: Task
    diffusion: DiffusionConfig
    condition_size: int = 256  # side of the condition in training
    sample_size: int  # side of x_t in training
    unet_stride: int  # sides of x_t are multiples of it
    has_backbone: bool
    hint_channels: int = 0
    fold: int = 1  # side, in pixels of the condition, of one pixel of cond
    patch_size: int = 1  # side, in pixels of x_t, of one pixel of cond
    text_buckets: int | None = None  # of the text encoder's vocabulary; None: no tokens
    sampling: SamplingConfig = SamplingConfig()  # sampling defaults
    looks: Mapping[str, Look] = field(default_factory=dict)  # by name; only colorizers have any
    second_stage: str | None = None  # the embedded model or folder that enlarges its pictures
    base: Mapping[str, Any] = field(default_factory=dict)  # if on a base: its name and licence

    @property
    def name(self) -> str:
        """Its name in messages and notes: that of the folder, or RUN/model for a run's model."""
        path = Path(os.path.abspath(self.path))  # "." has no name; a link keeps its own
        return (
            path.name if path.name != RUN_MODEL else f"{path.parent.name}/{path.name}".lstrip("/")
        )

    @property
    def cell(self) -> int:
        """Width of one pixel of x_t (a cell) in pixels of the condition."""
        return max(1, self.condition_size // self.sample_size)

    @property
    def drawn_cell(self) -> int:
        """Width of one pixel of the decoded picture in pixels of the condition."""
        return 1 if self.task.space.is_latent else self.cell

    @property
    def native_side(self) -> int:
        """Short side of the decoded picture in training: that of x_t, or of a VAE's output."""
        return self.condition_size // self.drawn_cell

    @property
    def stride(self) -> int:
        """The condition's sides are padded to multiples of this number."""
        return max(self.cell * self.unet_stride, BACKBONE_STRIDE if self.has_backbone else 1)

    @property
    def feature_channels(self) -> slice:
        """The channels of cond with the backbone's semantic features.

        Without a backbone, the channels of the folded condition.
        """
        folded = self.task.condition_channels * self.fold**2 if self.has_backbone else 0
        return slice(folded, -self.hint_channels * self.patch_size**2 or None)

    def open(self, picture: UserPicture, *, as_is: bool = False) -> Opened:
        """Convert a user's picture to the model's input; ConfigError or ImageError if it cannot."""
        if self.task.picture is None:
            raise ConfigError(f"The model {self.name} is unconditional: it takes no picture.")
        return self.task.picture.open(picture, as_is=as_is)

    def check_colorizes(self) -> None:
        """Raise UsageError for a model that does not colour photos."""
        if not self.task.space.keeps_photo:
            raise UsageError(
                f"The model {self.name} {self.task.does}; it does not colour photos: give one of "
                "the task colorize, or see `condiff render`."
            )

    @property
    def unsupported(self) -> dict[str, str]:
        """The fields of `SamplingConfig` that the model does not support, and why, in words."""
        space, reasons = self.task.space, {}
        if space.is_latent or not space.keeps_photo:
            reasons["coherence"] = "does not sample a photo's chroma: leave {flag} out."
        if space.is_latent:
            reasons["vividness"] = "samples latents, which have no grey: leave {flag} out."
        if not self.task.takes_text:
            way = "leave {flag} out, or give a model that was trained with captions."
            reasons |= dict.fromkeys(WORDS, f"takes no words: {way}")
        return reasons

    def check_sampling(self, config: SamplingConfig) -> None:
        """Raise UsageError for a setting that the model does not support."""
        most = self.diffusion.num_train_timesteps
        if config.steps > most:  # they would visit timesteps twice
            raise UsageError(
                f"The model {self.name} has {most} timesteps: --steps is at most {most}, not "
                f"{config.steps}."
            )
        default = SamplingConfig()
        for name, reason in self.unsupported.items():
            if getattr(config, name) != getattr(default, name):
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"The model {self.name} {reason.format(flag=flag)}")

    def find_look(self, name: str = NATURAL) -> Look:
        """The look of that name; ConfigError if there is none.

        Every model has natural, its SamplingConfig.
        """
        if name == NATURAL:
            return Look.of(self.sampling)
        if name in self.looks:
            return self.looks[name]
        if not self.looks:
            raise ConfigError(f"The model {self.name} has no look {name}: it is not a colorizer.")
        known = ", ".join([NATURAL, *self.looks])
        raise ConfigError(f"The model {self.name} has no look {name}: choose from {known}.")

    def configure(
        self, edits: ColorEdits, *, look: str | None = None, overrides: Mapping[str, Any]
    ) -> tuple[SamplingConfig, ColorEdits]:
        """Sampling settings and edits of a look, natural if None.

        `overrides` replace fields of `SamplingConfig` where they are not None; the edits keep a
        saturation of their own. Raises ConfigError for an unknown look or values out of range,
        UsageError for text that the model does not take.
        """
        check_kind("edits", edits, ColorEdits)
        chosen = self.find_look(look or NATURAL)
        config = self.sampling.override(chosen.sampling()).override(overrides)
        self.check_sampling(config)
        keeps_photo = self.task.space.keeps_photo
        return config, edits.with_saturation(chosen.saturation) if keeps_photo else edits


def read_sizes(unet: Mapping[str, Any], encoder: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `ModelInfo` that its networks' configurations determine."""
    patch_size = int(encoder.get("patch_size", 1))
    return {
        "sample_size": int(unet["sample_size"]) * patch_size,
        "unet_stride": 2 ** (len(unet["block_out_channels"]) - 1) * patch_size,
        "has_backbone": bool(encoder.get("backbone_variant")),
        "hint_channels": int(encoder.get("hint_channels", 0)),
        "fold": int(encoder.get("fold", 1)),
        "patch_size": patch_size,
    }


def read_sampling(index: Mapping[str, Any]) -> SamplingConfig:
    """The sampling settings of a model folder's index.

    Folders of version 0.1.0 store some of them beside "task", and use 4 steps for photos.
    """
    if "sampling" in index:
        return SamplingConfig(**index["sampling"])
    older: dict[str, Any] = {"steps": 4} if index.get("task") == "colorize" else {}
    beside = {key: index[key] for key in SamplingConfig.model_fields if key in index}
    return SamplingConfig(**older | beside)


def read_looks(index: Mapping[str, Any], task: Task) -> dict[str, Look]:
    """The looks of a model folder's index, without natural; LOOKS if it has no table.

    Raises ValueError for a row named natural, which "sampling" defines.
    """
    if not task.space.keeps_photo:
        return {}
    if "looks" not in index:
        return LOOKS
    looks = {name: Look(**row) for name, row in index["looks"].items()}
    if NATURAL in looks:
        raise ValueError('the look natural is defined by "sampling" and must not be in "looks"')
    return looks


def available_models() -> list[str]:
    """The names of the models that come with condiff."""
    return sorted(path.parent.name for path in EMBEDDED.glob(f"*/{INDEX}"))


def find_model(name: str | Path) -> Path:
    """The model folder at that path, or of the embedded model of that name.

    Raises UnknownModelError if there is none.
    """
    path = as_path("model", name)
    with suppress(OSError):  # a name that is too long for a file
        for folder in (path, EMBEDDED / path):
            if (folder / INDEX).is_file():
                return folder
    if os.path.lexists(path):
        raise UnknownModelError(f"{name} is not a model folder: it has no {INDEX}.")
    known = ", ".join(available_models()) or "none"
    raise UnknownModelError(
        f"There is no model {name}: give a folder, or an embedded one ({known})."
    )


def read_model_info(name: str | Path) -> ModelInfo:
    """Read the description of a model folder, or of the embedded model of that name.

    Raises ModelError if there is none, or if it is damaged.
    """
    folder = find_model(name)
    try:
        index = read_index(folder)
        on_base = "base" in index
        task = find_task(index.get("task", ""))
        if on_base:
            task = task.on_base()
        elif TEXT_ENCODER in index:
            task = task.with_text()
        unet = read_json(folder / "unet" / "config.json")
        encoder = {} if on_base else read_json(folder / "encoder" / "config.json")
        scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
        known = set(DiffusionConfig.model_fields)
        process = {**DDPM_DEFAULTS, **scheduler, **index.get("diffusion", {})}
        return ModelInfo(
            path=folder,
            task=task,
            diffusion=DiffusionConfig(**{k: v for k, v in process.items() if k in known}),
            condition_size=int(index.get("condition_size", 256)),
            sampling=read_sampling(index),
            looks=read_looks(index, task),
            second_stage=index.get("second_stage"),
            base=index.get("base", {}),
            text_buckets=_read_buckets(folder) if TEXT_ENCODER in index and not on_base else None,
            **read_sizes(unet, encoder),
        )
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise ModelError(
            f"The model folder {folder} cannot be loaded: {first_line(error)}."
        ) from error


def read_index(folder: Path) -> dict[str, Any]:
    """A folder's index; for a model on a base also condiff's own index."""
    own = folder / OWN_INDEX
    return read_json(folder / INDEX) | (read_json(own) if own.is_file() else {})


def _read_buckets(folder: Path) -> int:
    return int(read_json(folder / TEXT_ENCODER / "config.json")["buckets"])


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError if it contains something else."""
    values = json.loads(path.read_text("utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return values
