"""The configuration of a training run: frozen pydantic models, mirrored field for field by YAML."""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from annotated_types import Ge, Le
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from condiff.errors import ConfigError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

PredictionType = Literal["epsilon", "v_prediction", "sample"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
LossWeighting = Literal["none", "min_snr", "p2"]
SchedulerName = Literal["ddim", "dpmsolver++", "unipc", "euler", "heun", "ddpm", "lcm", "tcd"]
BackboneVariant = Literal["lite0", "lite2"]
TEXT_HEADS = 4  # of the attention in the text encoder
NullLacks = Literal["features", "decoder"]
WORDS = ("prompt", "negative_prompt", "image_guidance_scale")  # settings of models with text
OLD_PHOTOS = ("emulsion", "levels", "dust", "frame")  # settings of data for a photo's lightness
Probability = Annotated[float, Field(ge=0, le=1)]


class _SectionType(ModelMetaclass):
    """Calling a section in Python raises ConfigError for a wrong value, as `override` does.

    pydantic builds the sections of a file without this call, so that faults keep their location.
    """

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        try:
            return super().__call__(*args, **fields)
        except ValidationError as error:
            raise _fault_of(cls.__name__, error) from error


class Section(BaseModel, metaclass=_SectionType):
    """Base of all sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `steps: yes`, which YAML reads as true and pydantic as 1."""
        if isinstance(value, bool) and info.field_name is not None:
            types = set(_types_in(cls.model_fields[info.field_name].annotation))
            if types & {int, float} and bool not in types:
                raise ValueError(f"must be a number, not {str(value).lower()}")
        return value


def _types_in(annotation: Any) -> Iterator[Any]:
    """The types of which an annotation is made."""
    yield annotation
    for part in get_args(annotation):
        yield from _types_in(part)


class SamplingConfig(Section):
    """How a model is sampled. A model folder contains one; callers override single fields.

    condiff/cli/sampling.py makes flags from the fields; the descriptions are their help.
    """

    steps: Annotated[int, Field(ge=1, le=1000, description="Denoising steps.")] = 25
    scheduler: Annotated[
        SchedulerName, Field(description="The sampler, which decides how each step is taken.")
    ] = "ddim"
    guidance_scale: Annotated[
        float,
        Field(
            ge=0,
            le=50,
            description="Strength of classifier-free guidance. Above 1, pictures follow a "
            "drawing more closely and photos get stronger colours; 1 turns it off, in half the "
            "time. For a model that takes a prompt: how closely pictures follow the prompt.",
        ),
    ] = 1.0
    guidance_eta: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="How much of guidance makes colours stronger, from 0 to 1. 1: all of it; "
            "0: guidance changes hues only.",
        ),
    ] = 1.0
    image_guidance_scale: Annotated[
        float,
        Field(
            ge=0,
            le=50,
            description="For a model that takes a prompt: how closely results follow the given "
            "picture; 1 turns it off.",
        ),
    ] = 1.0
    prompt: Annotated[
        str, Field(description="What the picture shows, for a model that takes a prompt.")
    ] = ""
    negative_prompt: Annotated[
        str, Field(description="What it must not show: guidance leads away from these words.")
    ] = ""
    variety: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Colour diversity over large areas, 0 to 1. 0: the most likely colours; "
            "1: samples differ as much as the model allows.",
        ),
    ] = 1.0
    vividness: Annotated[
        float,
        Field(
            ge=0,
            le=2,
            description="How vivid colours are: every step moves the colours of its predicted "
            "picture away from grey by this factor. 1: unchanged. With a prompt, guidance takes "
            "its place.",
        ),
    ] = 1.0
    coherence: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="How much places of a photo that look alike to the model share their "
            "colours, 0 to 1. 0: not at all.",
        ),
    ] = 0.0
    size: Annotated[
        int | None,
        Field(
            ge=8,
            le=2048,
            description="Short side, in pixels, at which the model sees the picture; if left out, "
            "the size that it was trained at.",
        ),
    ] = None

    def override(self, fields: Mapping[str, Any]) -> Self:
        """A copy with the fields that are not None; ConfigError for the first wrong value."""
        given = {name: value for name, value in fields.items() if value is not None}
        try:
            return type(self).model_validate({**self.model_dump(), **given})
        except ValidationError as error:
            raise _fault_of(type(self).__name__, error) from error

    def describe(self) -> str:
        """Steps, scheduler and, if it is on, guidance, in words."""
        scales = [self.guidance_scale, self.image_guidance_scale]
        if self.image_guidance_scale != 1 and self.prompt == self.negative_prompt:
            scales = scales[1:]  # without words there is no guidance along them
        guided = " and ".join(f"{scale:g}" for scale in scales if scale != 1)
        text = f"{self.steps} step{'s' if self.steps > 1 else ''} of {self.scheduler}"
        if not guided:
            return text
        eta = "" if self.guidance_eta == 1 else f" (eta {self.guidance_eta:g})"
        return f"{text}, guidance {guided}{eta}"

    def note(self) -> dict[str, Any]:
        """The settings for a note in a result: those of words only for a model that takes them."""
        default = SamplingConfig()
        idle = {name for name in WORDS if getattr(self, name) == getattr(default, name)}
        return self.model_dump(exclude=idle)


class Look(Section):
    """A colorizer's settings under one plain name, such as quiet or vivid."""

    guidance_scale: Annotated[float, Field(ge=0, le=50)]
    guidance_eta: Probability = 1.0
    variety: Probability
    saturation: Annotated[float, Field(ge=0, le=5)] = 1.0

    @classmethod
    def of(cls, sampling: SamplingConfig) -> Self:
        """The look of a model's own settings."""
        return cls(
            guidance_scale=sampling.guidance_scale,
            guidance_eta=sampling.guidance_eta,
            variety=sampling.variety,
        )

    @property
    def strength(self) -> tuple[float, float]:
        """What sorts looks from pale to strong colours."""
        return self.saturation, self.guidance_scale

    def sampling(self) -> dict[str, float]:
        """The fields of `SamplingConfig` that the look decides."""
        return self.model_dump(exclude={"saturation"})


NATURAL = "natural"  # the look of a model's SamplingConfig, and the default
LOOKS = {  # besides natural, for models without a table of their own
    "quiet": Look(guidance_scale=1.25, variety=0.0, saturation=0.85),
    "vivid": Look(guidance_scale=1.75, variety=0.0, saturation=1.15),
}


def _fault_of(section: str, error: ValidationError) -> ConfigError:
    """The first fault of a section's values as a sentence."""
    fault = error.errors()[0]
    name = ".".join(str(part) for part in fault["loc"] if part != "function-after")
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        setting = "sampling setting" if section == "SamplingConfig" else f"setting of {section}"
        return ConfigError(f"There is no {setting} {name}.")
    if fault["type"] == "missing":
        return ConfigError(f"{section} lacks {name}: give it.")
    if fault["type"] == "value_error":
        return ConfigError(f"{name or section}: {message}.")
    return ConfigError(f"{name}: {_sentence(message)}, not {fault['input']!r}.")


def limits_of(field: FieldInfo) -> tuple[Any, Any]:
    """The least and the largest value of a section's field; None where there is no limit."""
    least = next((limit.ge for limit in field.metadata if isinstance(limit, Ge)), None)
    most = next((limit.le for limit in field.metadata if isinstance(limit, Le)), None)
    return least, most


def _sentence(message: str) -> str:
    """pydantic's "Input should be …" as the predicate of a sentence."""
    return message.replace("Input should be", "must be").replace("'", "")


class ModelConfig(Section):
    """The condition encoder and the U-Net."""

    sample_size: PositiveInt = 64  # side of x_t in training; less than data.size / fold is faster
    fold: PositiveInt = 4  # side of a U-Net pixel, in pixels of the condition
    patch_size: PositiveInt = 1  # side of a U-Net pixel, in pixels of x_t
    backbone_variant: BackboneVariant | None = "lite2"
    feature_strides: Annotated[tuple[Literal[2, 4, 8, 16, 32], ...], Field(min_length=1)] = (
        8, 16, 32,
    )  # fmt: skip
    neck_channels: PositiveInt = 48
    decoder_channels: PositiveInt | None = None  # of a feature decoder beside the neck
    null_lacks: NullLacks = "features"  # what guidance leads away from lacks
    block_out_channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (48, 96, 192, 288)
    layers_per_block: PositiveInt = 1
    norm_num_groups: PositiveInt = 16
    attention_head_dim: PositiveInt = 32
    text_channels: PositiveInt | None = None  # of a text encoder, trained from captions

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        stride = self.patch_size * 2 ** (len(self.block_out_channels) - 1)
        if self.sample_size % stride:
            near = max(stride, self.sample_size // stride * stride)
            patches = f" and patches of {self.patch_size}²" if self.patch_size > 1 else ""
            raise ValueError(
                f"sample_size {self.sample_size} is not a multiple of {stride}, which "
                f"{len(self.block_out_channels)} levels of block_out_channels{patches} need; "
                f"take {near}"
            )
        if self.decoder_channels and self.backbone_variant is None:
            raise ValueError(
                "decoder_channels needs a backbone, whose features it decodes; set "
                "backbone_variant, or leave decoder_channels out"
            )
        if self.decoder_channels and len(set(self.feature_strides)) < 2:
            raise ValueError(
                f"decoder_channels needs two or more feature_strides, not only "
                f"{self.feature_strides[0]}; add another, or leave decoder_channels out"
            )
        if self.null_lacks == "decoder" and self.decoder_channels is None:
            raise ValueError(
                "null_lacks: decoder needs a feature decoder: set decoder_channels, such as 128, "
                "or leave null_lacks out"
            )
        if self.text_channels and self.text_channels % TEXT_HEADS:
            near = max(1, round(self.text_channels / TEXT_HEADS)) * TEXT_HEADS
            raise ValueError(
                f"text_channels {self.text_channels} is not a multiple of {TEXT_HEADS}, the heads "
                f"of the text encoder's attention; take {near}"
            )
        if odd := [n for n in self.block_out_channels if n % self.norm_num_groups]:
            raise ValueError(
                f"norm_num_groups {self.norm_num_groups} does not divide block_out_channels "
                f"{odd[0]}; take {math.gcd(*self.block_out_channels)}, or a divisor of it"
            )
        return self


class DiffusionConfig(Section):
    """The noise process, what the network predicts, and how its error is weighted."""

    num_train_timesteps: Annotated[int, Field(ge=2)] = 1000
    beta_schedule: BetaSchedule = "squaredcos_cap_v2"
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4  # of linear, scaled_linear, sigmoid
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    schedule_shift: PositiveFloat = 1.0  # base size / size: 0.5 at 128² if 1 is right at 64²
    rescale_betas_zero_snr: bool = True
    prediction_type: PredictionType = "v_prediction"
    loss_weighting: LossWeighting = "none"
    min_snr_gamma: PositiveFloat = 5.0
    loss_weight_floor: Probability = 0.0  # least weight of the predicted quantity's squared error
    p2_gamma: NonNegativeFloat = 1.0
    p2_k: PositiveFloat = 1.0
    perceptual_weight: NonNegativeFloat = 0.0  # of the distance of a colorizer's pictures to truth
    perceptual_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # last share of the run that has it
    timestep_shift: PositiveFloat = 1.0  # 1: t uniform in training; above 1: more noisy t
    timestep_power: PositiveFloat = 1.0  # t = T (1 - u^power) in training; above 1: more noisy t
    offset_noise: NonNegativeFloat = 0.0  # noise common to all pixels of a channel; 0.1 is usual
    cond_drop_prob: Probability = (
        0.0  # how often the condition is dropped, for guidance; 0.1 is usual
    )

    @model_validator(mode="after")
    def _check_timesteps(self) -> Self:
        if self.timestep_power != 1 and self.timestep_shift != 1:
            raise ValueError(
                "timestep_power and timestep_shift both move the timesteps of training: leave one "
                "of them at 1"
            )
        return self

    @model_validator(mode="after")
    def _check_betas(self) -> Self:
        if self.beta_start > self.beta_end:
            raise ValueError(
                f"beta_start {self.beta_start:g} is more than beta_end {self.beta_end:g}: noise "
                "grows with t; exchange them"
            )
        return self

    @model_validator(mode="after")
    def _check_prediction(self) -> Self:
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "rescale_betas_zero_snr does not go with prediction_type epsilon: at the last "
                "timestep x_t is the noise itself, so predicting it teaches nothing; use "
                "v_prediction or set rescale_betas_zero_snr to false"
            )
        return self


class DataConfig(Section):
    """The photos and how they are varied."""

    files: dict[str, PositiveInt] | None = None  # glob -> how many photos to take of its files
    max_photos: PositiveInt | None = None
    split: str = "train"  # of a hub data set
    image_column: str | None = None  # of parquet files and hub data sets; None: image
    streaming: bool = False  # read parquet files or a hub data set on the fly, never all at once
    shuffle_buffer: PositiveInt = 1000  # encoded photos in memory, among which a stream is shuffled
    size: PositiveInt = 256  # side of the square view that the backbone sees
    min_crop: Annotated[float, Field(gt=0, le=1)] = (
        0.7  # smallest crop, as a share of the short side
    )
    flip: Probability = 0.5
    rotate: Annotated[float, Field(ge=0, le=45)] = 0.0  # turn by up to this many degrees
    degrade: Probability = 0.5  # blur, noise, contrast: users' photos are old scans
    emulsion: Probability = 0.0  # grey as plates and films that do not see all colours
    levels: Probability = 0.0  # faded, dark or overexposed: L* within a narrower range
    dust: Probability = 0.0  # specks and scratches
    frame: Probability = 0.0  # a grey border, as of film or an album
    conditions: Literal["online", "prepared"] = (
        "online"  # draw them again for each view, or read stored columns
    )
    caption_dropout: Probability = 0.0  # how often a photo has no caption, of tasks with words
    tag_dropout: Probability = 0.0  # how often a part of a caption, between commas, is left out
    color_words: Probability = 0.0  # how often the caption begins with the picture's main colours
    recolor: Probability = 0.0  # how often all hues are turned, under a caption that names them
    hint_prob: Probability = 0.5
    max_hints: NonNegativeInt = 32
    reference_prob: Probability = 0.0  # hints as of a reference photo; of the task colorize
    cache: Literal["none", "ram", "device"] = "none"  # where decoded photos are kept
    # Run the frozen backbone, or a base's VAE and text encoder, once per photo; keep the output.
    cache_features: bool = False
    num_workers: NonNegativeInt = 0

    @model_validator(mode="after")
    def _check_caches(self) -> Self:
        if self.streaming:
            chosen = {
                "files": self.files is not None,
                "max_photos": self.max_photos is not None,
                "cache": self.cache != "none",
                "cache_features": self.cache_features,
            }
            if key := next((key for key, is_set in chosen.items() if is_set), None):
                raise ValueError(
                    f"{key} does not go with streaming: a stream is neither counted nor kept; "
                    "leave one of them out"
                )
        worn = next((key for key in OLD_PHOTOS if getattr(self, key)), None)
        if self.cache == "device" and worn:
            raise ValueError(
                f"{worn} does not go with cache device, whose views are made on the GPU without "
                f"it: set cache to ram, or {worn} to 0"
            )
        if self.cache_features and self.cache != "none":
            raise ValueError(
                f"cache_features does not go with cache {self.cache}: the cached features belong "
                "to one view of each photo; leave one of them out"
            )
        return self


class BaseConfig(Section):
    """A pretrained base with the architecture of Stable Diffusion 1 or 2, and how it is trained."""

    name: str | None = None  # a diffusers folder or a Hub id; None: condiff's own networks
    lora_rank: PositiveInt | None = None  # low-rank updates of this rank; None: the whole U-Net


class OptimizerConfig(Section):
    """AdamW. The rate warms up, stays constant, and falls to 0 by a cosine, over steps or time."""

    learning_rate: PositiveFloat = 2e-4
    weight_decay: NonNegativeFloat = 1e-2
    warmup_steps: NonNegativeInt = 500
    decay_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # last share of the run: its cosine
    eight_bit: bool = False  # AdamW's moments in 8 bits, by bitsandbytes
    max_grad_norm: PositiveFloat = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999  # at most: in step n 1 - n^-0.75
    backbone_rate: NonNegativeFloat = 0.0  # of the backbone, as a share; 0: it stays frozen
    backbone_stride: Literal[2, 4, 8, 16, 32] = 16  # blocks of at least this stride are trained


class TrainConfig(Section):
    """All settings of a run; `condiff train` reads them from YAML, `--set a.b=c` overrides one."""

    task: str = "colorize"  # a row of condiff/tasks.py
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    train_batch_size: PositiveInt = 32
    gradient_accumulation_steps: PositiveInt = 1
    mixed_precision: Annotated[
        Literal["no", "fp16", "bf16", "auto"],  # auto: what is fastest on the machine
        BeforeValidator(lambda value: "no" if value is False else value),  # YAML's plain no
    ] = "no"
    max_train_steps: PositiveInt | None = None
    max_minutes: PositiveFloat | None = None
    sample_steps: PositiveInt = 500  # steps between checkpoints, model folders, sample grids
    sampling: SamplingConfig = SamplingConfig()  # the default of the model folder
    looks: dict[str, Look] = LOOKS  # of a colorizer, besides natural, which is `sampling`
    second_stage: str | None = None  # model or folder that enlarges the model's pictures
    keep_checkpoints: PositiveInt = 2  # this many of the newest, and the best one
    log_steps: PositiveInt = 10
    tracker: Literal["tensorboard", "wandb"] | None = None
    compile: bool = False  # torch.compile the U-Net
    gradient_checkpointing: bool = False  # less memory, a third more time
    base: BaseConfig = BaseConfig()
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    @model_validator(mode="after")
    def _check_end(self) -> Self:
        if self.max_train_steps is None and self.max_minutes is None:
            raise ValueError(
                "a run needs an end: give --max-steps or --max-minutes, or set max_train_steps or "
                "max_minutes"
            )
        return self

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        steps, most = self.sampling.steps, self.diffusion.num_train_timesteps
        if steps > most:
            raise ValueError(
                f"sampling.steps {steps} is more than diffusion.num_train_timesteps {most}: set it "
                f"to {most} or less"
            )
        return self

    @model_validator(mode="after")
    def _check_looks(self) -> Self:
        if NATURAL in self.looks:
            raise ValueError("the look natural is the section sampling: set it there")
        return self

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.data.size < self.model.fold:
            raise ValueError(
                f"data.size {self.data.size} is less than model.fold {self.model.fold}, the "
                "width of the U-Net's pixels: make the views larger, or fold them less"
            )
        return self


# Settings that have an effect only together with another one: the key, whether it has, and the
# setting that it needs.
_DEPENDENT: tuple[tuple[str, Callable[[TrainConfig], bool], str], ...] = (
    *(
        (
            f"diffusion.{end}",
            lambda config: config.diffusion.beta_schedule != "squaredcos_cap_v2",
            "another diffusion.beta_schedule than squaredcos_cap_v2",
        )
        for end in ("beta_start", "beta_end")
    ),
    (
        "diffusion.min_snr_gamma",
        lambda config: config.diffusion.loss_weighting == "min_snr",
        "diffusion.loss_weighting: min_snr",
    ),
    *(
        (
            f"diffusion.{key}",
            lambda config: config.diffusion.loss_weighting == "p2",
            "diffusion.loss_weighting: p2",
        )
        for key in ("p2_gamma", "p2_k")
    ),
    (
        "diffusion.perceptual_share",
        lambda config: config.diffusion.perceptual_weight > 0,
        "a diffusion.perceptual_weight",
    ),
    (
        "optimizer.backbone_stride",
        lambda config: config.optimizer.backbone_rate > 0,
        "an optimizer.backbone_rate",
    ),
    ("data.shuffle_buffer", lambda config: config.data.streaming, "data.streaming: true"),
    ("data.recolor", lambda config: config.data.color_words > 0, "data.color_words"),
)


def list_idle(config: TrainConfig) -> list[str]:
    """A sentence for each setting that is not the default and has no effect."""
    default = TrainConfig(max_train_steps=1)
    idle = []
    for key, has_effect, needed in _DEPENDENT:
        section, name = key.split(".")
        value, usual = (getattr(getattr(each, section), name) for each in (config, default))
        if value != usual and not has_effect(config):
            idle.append(f"{key} has no effect without {needed}")
    return idle


def read_config(path: str | Path | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration in a YAML file, or the defaults, changed by `key.sub=value` strings.

    Raises ConfigError where the file cannot be read, or a key or value is wrong.
    """
    path = None if path is None else Path(path)
    values = read_values(path, overrides)
    return parse_config(values, origin=origin_of(path), overrides=overrides)


def read_values(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that `read_config` checks, without the defaults."""
    values = {} if path is None else read_yaml(path)
    for override in overrides:
        _set(values, override)
    return values


def origin_of(path: Path | None) -> str:
    """Where settings come from, for an error message."""
    return str(path) if path is not None else "the settings"


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError for a key that is in it twice."""
    import yaml

    try:
        loader = yaml.SafeLoader(path.read_text("utf-8"))
        tree = loader.get_single_node()
        repeated = None if tree is None else _find_repeated_key(tree, set())
        values = ({} if tree is None else loader.construct_document(tree)) or {}
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The configuration {path} is not valid YAML: {reason}.") from error
    if repeated is not None:
        raise ConfigError(
            f"The configuration {path} has {repeated.value} a second time in line "
            f"{repeated.start_mark.line + 1}: join the two, because only the last one would count."
        )
    if not isinstance(values, dict):
        raise ConfigError(f"The configuration {path} is not a mapping of keys to values.")
    return values


def _find_repeated_key(node: Any, seen: set[int]) -> Any:
    """The first key's node that repeats a key of its mapping in a YAML tree; None if none does."""
    if id(node) in seen or not isinstance(node.value, list):
        return None
    seen.add(id(node))  # an alias may point to a node that contains it
    keys = set[Any]()
    for child in node.value:
        key, value = child if isinstance(child, tuple) else (None, child)
        if key is not None and isinstance(key.value, str):
            if key.value in keys:
                return key
            keys.add(key.value)
        if found := _find_repeated_key(value, seen):
            return found
    return None


def parse_config(
    values: dict[str, Any], *, origin: str, overrides: Sequence[str] = ()
) -> TrainConfig:
    """The configuration with these values, checked.

    Raises ConfigError for the first fault; for an unknown key it names the nearest known one.
    `origin` is where the values come from, except those of the `key.sub=value` strings.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"] if part != "function-after")
        if key in (override.partition("=")[0].strip() for override in overrides):
            origin = "the command line"
        if fault["type"] == "extra_forbidden":
            keys = list(known_keys())
            known = keys + sorted({key.rpartition(".")[0] for key in keys} - {""})
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise ConfigError(f"{origin}: there is no setting {key}{hint}") from error
        message = fault["msg"].removeprefix("Value error, ")
        where = f"{origin}: {key}" if key else origin
        got = "" if fault["type"] == "value_error" else f" (got {fault['input']!r})"
        raise ConfigError(f"{where}: {message}{got}.") from error


def to_yaml(config: TrainConfig) -> str:
    """The whole configuration as YAML that `read_config` reads back equal."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def known_keys(section: type[BaseModel] = TrainConfig, prefix: str = "") -> Iterator[str]:
    """Every settable key, dotted."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from known_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"--set takes KEY=VALUE, for example optimizer.learning_rate=1e-4, not {override!r}."
        )
    *sections, name = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {key}: {section} is a value, not a section.")
    import yaml

    try:
        values[name] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--set {key}: {text!r} is not valid YAML: {reason}.") from error
