"""The table of tasks: what the model samples (a Space), and from which condition (Inputs)."""

import math
from dataclasses import dataclass, replace

from condiff.config import OLD_PHOTOS, TrainConfig
from condiff.errors import ConfigError
from condiff.inputs import (
    Aligned,
    Hints,
    Input,
    Lightness,
    Lines,
    PictureInput,
    SmallPicture,
    Text,
)
from condiff.spaces import SPACES, Latents, Space

BACKBONE_STRIDE = 32  # the condition's sides are multiples of it where a backbone reads it
CAPTION_SETTINGS = ("caption_dropout", "tag_dropout", "color_words", "recolor")


@dataclass(frozen=True)
class Task:
    """One row of the table."""

    name: str
    space: Space
    inputs: tuple[Input, ...] = ()
    does: str = ""  # "It … ." in a model card
    attends: bool = True  # whether the U-Net has attention, which tiles do not allow
    enlarges: bool = False  # whether x_0 is a window of a picture that is made larger
    prepares: tuple[str, ...] = ()  # conditions that data preparation draws for the task
    min_chroma: float = 0.0  # data preparation leaves out photos of a lower mean chroma

    @property
    def picture(self) -> PictureInput | None:
        """The input that a user gives as a file; None for an unconditional model."""
        return next((each for each in self.inputs if isinstance(each, PictureInput)), None)

    @property
    def takes_text(self) -> bool:
        """Whether a user may give words."""
        return any(isinstance(each, Text) for each in self.inputs)

    @property
    def _follows_picture(self) -> bool:
        """Whether the task makes a whole picture that follows another one."""
        return self.picture is not None and not self.enlarges

    def with_text(self) -> "Task":
        """The task of a model that also takes words, by a text encoder of its own.

        Raises ConfigError for a task that takes none.
        """
        if not self._follows_picture:
            raise ConfigError(
                f"The task {self.name} takes no words: model.text_channels is for "
                f"{_list_following()}."
            )
        return replace(self, inputs=(*self.inputs, Text()))

    def on_base(self) -> "Task":
        """The task on a Stable Diffusion base: latents are sampled from a picture and words.

        Raises ConfigError for a task that is not trained on a base.
        """
        if not self._follows_picture:
            raise ConfigError(
                f"The task {self.name} is not trained on a base: --base is for {_list_following()}."
            )
        assert self.picture is not None
        return replace(self, space=Latents(self.space), inputs=(self.picture, Text()))

    @property
    def condition_channels(self) -> int:
        """Channels of the condition image."""
        return sum(each.channels for each in self.inputs if each.enters == "picture")

    @property
    def hint_channels(self) -> int:
        """Channels that enter at the size of x_t."""
        return sum(each.channels for each in self.inputs if each.enters == "cells")

    def condition_size(self, config: TrainConfig) -> int:
        """Side of the condition in training."""
        return config.model.sample_size if self.enlarges else config.data.size

    def sample_size(self, config: TrainConfig) -> int:
        """Side of x_0 in the training data; a photo's chroma is kept as fine as the condition.

        For latents it is the side of the picture that the VAE encodes.
        """
        if self.space.is_latent:
            return config.data.size
        if self.space.keeps_photo:
            return config.data.size // config.model.fold * config.model.patch_size
        return config.model.sample_size

    def check(self, config: TrainConfig) -> None:
        """Raise ConfigError for settings that do not go with the task."""
        model, given = config.model, self.picture
        if self.space.is_latent:
            self._check_latents(config)
        elif self.enlarges:
            self._check_windows(config)
        else:
            self._check_sizes(config)
        dropped = config.diffusion.cond_drop_prob
        whole = self.space.is_latent  # guidance leaves the whole picture out
        backbone = whole or model.backbone_variant is not None
        if given is not None and given.is_photo and dropped and not backbone:
            raise ConfigError(
                f"diffusion.cond_drop_prob does not go with the task {self.name} without a "
                "backbone: it leaves out the backbone's features; set it to 0."
            )
        if self.takes_text and 3 * dropped > 1:
            raise ConfigError(
                "diffusion.cond_drop_prob is the probability of each: no words, no picture, and "
                f"neither. For a model that takes words it is at most 1/3, not {dropped:g}."
            )
        if config.diffusion.perceptual_weight and not (
            self.space.keeps_photo and model.backbone_variant and not whole
        ):
            raise ConfigError(
                "diffusion.perceptual_weight compares photos through the backbone: it is for the "
                "task colorize with a model.backbone_variant; set it to 0."
            )
        if config.optimizer.backbone_rate:
            self._check_tuned_backbone(config)
        if config.data.reference_prob and not (self.space.keeps_photo and self.hint_channels):
            raise ConfigError(
                "data.reference_prob simulates references for the task colorize; the task "
                f"{self.name} takes none: set it to 0."
            )
        worn = [key for key in OLD_PHOTOS if getattr(config.data, key)]
        if worn and not self.space.keeps_photo:
            raise ConfigError(
                f"data.{worn[0]} is for tasks whose condition is a photo's lightness; the task "
                f"{self.name} has none: set it to 0."
            )
        captions = [key for key in CAPTION_SETTINGS if getattr(config.data, key)]
        if captions and not self.takes_text:
            raise ConfigError(
                f"data.{captions[0]} is for models that take words: set model.text_channels, such "
                "as 64, or leave it at 0."
            )
        if captions and config.data.cache_features:
            raise ConfigError(
                f"data.{captions[0]} does not go with data.cache_features, which keeps the "
                "embedding of each whole caption: leave one of them out."
            )
        if config.data.conditions == "prepared" and (given is None or given.is_photo):
            raise ConfigError(
                "data.conditions: prepared is for tasks with a condition image; the task "
                f"{self.name} takes none: leave it out."
            )
        if config.data.conditions == "online" and isinstance(given, Aligned) and not given.draws:
            raise ConfigError(
                f"The task {self.name} learns from pairs: give data with a conditioning_image for "
                "each photo, and set data.conditions to prepared; docs/guide/data.md shows how."
            )
        if config.data.cache == "device" and self.takes_text and not whole:
            raise ConfigError(
                "data.cache: device keeps no captions, which model.text_channels needs: set "
                "data.cache to ram."
            )
        if config.data.cache == "device" and given is not None and not given.is_photo:
            raise ConfigError(
                f"data.cache: device does not go with the task {self.name}: its condition is drawn "
                "by the CPU; set data.cache to ram."
            )

    def _check_tuned_backbone(self, config: TrainConfig) -> None:
        """Raise ConfigError for settings that do not go with a backbone that is trained."""
        if self.space.is_latent or not self.condition_channels or not config.model.backbone_variant:
            raise ConfigError(
                "optimizer.backbone_rate trains the pretrained backbone, which this model does not "
                "have: set it to 0."
            )
        stride, used = config.optimizer.backbone_stride, max(config.model.feature_strides)
        if stride > used:
            raise ConfigError(
                f"optimizer.backbone_stride {stride} would train nothing: the model uses maps of "
                f"strides up to {used} (model.feature_strides). Take {used} or less."
            )
        if config.data.cache_features:
            raise ConfigError(
                "optimizer.backbone_rate does not go with data.cache_features, which keeps what "
                "the frozen backbone computes: leave one of them out."
            )

    def _check_sizes(self, config: TrainConfig) -> None:
        """Raise ConfigError for sides at which a model would be sampled otherwise than trained."""
        model, size = config.model, config.data.size
        sides = {f"model.sample_size {model.sample_size}": model.sample_size}
        if self.condition_channels and model.backbone_variant:
            sides[f"{BACKBONE_STRIDE}, the backbone's largest stride"] = BACKBONE_STRIDE
        for name, side in sides.items():
            if size % side:
                common = math.lcm(*sides.values())
                near = max(1, round(size / common)) * common
                raise ConfigError(f"data.size {size} is not a multiple of {name}: take {near}.")
        if self.space.keeps_photo and self.sample_size(config) < model.sample_size:
            most = size * model.patch_size // model.sample_size
            raise ConfigError(
                f"model.sample_size {model.sample_size} is finer than the chroma of the data, "
                f"which has a side of {self.sample_size(config)}, data.size / model.fold: set "
                f"model.fold to {most} or less."
            )

    def _check_windows(self, config: TrainConfig) -> None:
        """Raise ConfigError for settings that do not go with windows that are enlarged."""
        model = config.model
        if (model.fold, model.patch_size, model.backbone_variant) != (1, 1, None):
            raise ConfigError(
                f"the task {self.name} sees its condition pixel for pixel: set model.fold and "
                "model.patch_size to 1 and model.backbone_variant to null, as "
                "configs/upscale.yaml does."
            )
        if config.data.size < model.sample_size:
            raise ConfigError(
                f"the task {self.name} cuts windows of model.sample_size {model.sample_size} "
                f"out of views of data.size {config.data.size}: make the views no smaller."
            )

    def _check_latents(self, config: TrainConfig) -> None:
        """Raise ConfigError for settings that do not go with a base."""
        model = config.model
        if config.data.size != model.sample_size * model.fold:
            raise ConfigError(
                f"data.size {config.data.size} is not model.sample_size {model.sample_size} times "
                f"{model.fold}, the factor by which the base's VAE shrinks pictures: set only "
                "data.size, to a multiple of that."
            )
        if model.text_channels is not None:
            raise ConfigError(
                "model.text_channels does not go with a base, which has a text encoder: leave it "
                "out."
            )
        if config.data.cache == "device":
            raise ConfigError(
                "data.cache: device does not go with a base: set it to none; data.cache_features "
                "keeps the latents."
            )


_ROWS = (
    Task(
        "colorize",
        SPACES["chroma"],
        (Lightness(), Hints(SPACES["chroma"].channels)),
        does="gives black-and-white photos colours: it samples the Lab chroma that goes with L*",
        prepares=("gray",),
        min_chroma=4.0,  # JPEGs of grey photos have less than 3
    ),
    Task(
        "sketch",
        SPACES["rgb"],
        (Lines(), Hints(SPACES["rgb"].channels)),
        does="turns line drawings into pictures",
        prepares=("sketch",),
    ),
    Task(
        "edge",
        SPACES["rgb"],
        (Lines(draws=("canny",), augments=False),),
        does="turns edge maps into pictures",
        prepares=("canny",),
    ),
    Task(
        "depth",
        SPACES["rgb"],
        (Aligned(channels=1, draws=("depth",), what="a depth map"),),
        does="turns depth maps into pictures",
        prepares=("depth",),
    ),
    Task("restyle", SPACES["rgb"], (Aligned(),), does="turns pictures into pictures of its data"),
    Task("none", SPACES["rgb"], does="makes pictures from noise alone"),
    # The second stage of a cascade (Ho et al. 2021, arXiv:2106.15282): SR3 (Saharia et al. 2021,
    # arXiv:2104.07636) that sees the lines beside the small picture.
    Task(
        "upscale",
        SPACES["rgb"],
        (SmallPicture(), Lines()),
        does="makes small pictures large, along the lines of their drawing",
        attends=False,
        enlarges=True,
    ),
)
TASKS: dict[str, Task] = {row.name: row for row in _ROWS}
PREPARED_TASKS: dict[str, Task] = {row.name: row for row in _ROWS if row.prepares}


def _list_following() -> str:
    return ", ".join(row.name for row in _ROWS if row._follows_picture)


def task_of(config: TrainConfig) -> Task:
    """The task of a run: a row of the table, on a base where the run has one."""
    task = find_task(config.task)
    if config.base.name is not None:
        return task.on_base()
    return task.with_text() if config.model.text_channels else task


def find_task(name: str) -> Task:
    """The row of that name."""
    if name not in TASKS:
        raise ConfigError(f"There is no task {name!r}: choose from {', '.join(TASKS)}.")
    return TASKS[name]
