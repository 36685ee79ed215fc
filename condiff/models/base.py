"""Reads a pretrained base without torch: a diffusers folder of Stable Diffusion 1 or 2.

model_index.json   which class each part is
unet/              UNet2DConditionModel: 4 latent channels, or 8 of an InstructPix2Pix
vae/               AutoencoderKL of 4 latent channels, or AutoencoderTiny, as TAESD is
text_encoder/      CLIPTextModel
tokenizer/         CLIPTokenizer
scheduler/         any of diffusers: the noise process that the base was trained with

Other pipelines are refused by name: see `refuse_others`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condiff.config import (
    DiffusionConfig,
    TrainConfig,
    origin_of,
    parse_config,
    read_values,
)
from condiff.errors import ConfigError, DependencyError, ModelError, UsageError, first_line
from condiff.files import JUNK, digest_files
from condiff.models.hub import fetching
from condiff.models.info import INDEX, read_json

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
FROZEN = ("vae", "text_encoder", "tokenizer")  # copied unchanged into a trained model
LATENT_CHANNELS = 4
VAES = ("AutoencoderKL", "AutoencoderTiny")
DROP_PROB = 0.05  # of InstructPix2Pix (Brooks et al. 2022, arXiv:2211.09800): words, picture, both
GUIDANCE = {"guidance_scale": 7.0, "image_guidance_scale": 1.5}  # its defaults in diffusers
# Schedulers of bases that were distilled to few steps, as condiff's samplers name them.
FEW_STEPS = {"LCMScheduler": "lcm", "TCDScheduler": "tcd"}
TRAILING = {"EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"}  # of Turbo, Lightning
NUM_FEW_STEPS = 4
SHAPES = "a folder or Hub id of a Stable Diffusion 1 or 2 pipeline"
LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENSE-MODEL")


@dataclass(frozen=True)
class Base:
    """The JSON files of a base."""

    name: str  # as the user gave it
    path: Path
    index: Mapping[str, Any]
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text: Mapping[str, Any]
    scheduler: Mapping[str, Any]

    @property
    def words(self) -> tuple[int, int]:
        """Shape (n,d) of a text embedding: tokens and channels."""
        return int(self.text["max_position_embeddings"]), int(self.text["hidden_size"])

    @property
    def factor(self) -> int:
        """Width in pixels of one latent pixel."""
        blocks = self.vae.get("block_out_channels") or self.vae["encoder_block_out_channels"]
        return int(2 ** (len(blocks) - 1))

    @property
    def autoencoder(self) -> str:
        """The class of its VAE, one of VAES."""
        return str(self.index["vae"][1])

    @property
    def sampler(self) -> str | None:
        """The sampler of a base that was distilled to few steps; None for other bases."""
        kind = str(self.scheduler.get("_class_name"))
        if kind in TRAILING and self.scheduler.get("timestep_spacing") == "trailing":
            return "euler"
        return FEW_STEPS.get(kind)

    def process(self) -> dict[str, Any]:
        """The base's noise process, as fields of a DiffusionConfig."""
        known = {"num_train_timesteps", "beta_schedule", "beta_start", "beta_end"}
        known |= {"prediction_type", "rescale_betas_zero_snr"}
        found = {key: value for key, value in self.scheduler.items() if key in known}
        return {"prediction_type": "epsilon", "rescale_betas_zero_snr": False} | found

    def fingerprint(self) -> str:
        """SHA-256 of the weights and settings that latents and embeddings depend on."""
        files = [file for part in FROZEN for file in sorted((self.path / part).iterdir())]
        kept = [file for file in files if file.is_file() and file.name not in JUNK]
        return digest_files(self.path, kept)

    def licence(self) -> str | None:
        """The licence that the base's card names, such as creativeml-openrail-m."""
        card = self.path / "README.md"
        if not card.is_file():
            return None
        for line in card.read_text("utf-8", "replace").splitlines()[:40]:
            key, _, value = line.partition(":")
            if key.strip() == "license" and value.strip():
                return value.strip()
        return None


def read_base(name: str) -> Base:
    """The base in a folder, or in a repository of the Hugging Face Hub.

    Raises ModelError if there is none, or if its architecture is not supported.
    """
    path = _find(name)
    if not (path / INDEX).is_file():
        raise ModelError(f"The base {name} has no {INDEX}: it must be {SHAPES}.")
    try:
        index = read_json(path / INDEX)
        refuse_others(name, index)
        missing = [part for part in PARTS if not (path / part).is_dir()]
        if missing:
            raise ModelError(f"The base {name} has no {missing[0]}/: it must be {SHAPES}.")
        unet, vae = (read_json(path / part / "config.json") for part in ("unet", "vae"))
        scheduler = read_json(path / "scheduler" / "scheduler_config.json")
        text = read_json(path / "text_encoder" / "config.json")
        base = Base(name, path, index, unet, vae, text, scheduler)
        _check_shapes(base)
        DiffusionConfig(**base.process())
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The base {name} cannot be read: {first_line(error)}.") from error
    return base


def refuse_others(name: str, index: Mapping[str, Any]) -> None:
    """Raise ModelError for a pipeline of another family, which its sentence names."""
    kind = str(index.get("_class_name", ""))
    parts = {key for key, value in index.items() if isinstance(value, list) and value[0]}
    if kind == "ConditionalDiffusionPipeline":
        raise ModelError(f"{name} is a condiff model, not a base: start from it with --init.")
    if "StableDiffusionXL" in kind or {"text_encoder_2", "unet"} <= parts:
        raise ModelError(
            f"{name} is Stable Diffusion XL ({kind}), whose U-Net takes two text encoders and the "
            f"picture's size: take {SHAPES}."
        )
    if "transformer" in parts:
        family = kind.removesuffix("Pipeline")
        raise ModelError(
            f"{name} is {family} ({kind}), whose network is a transformer, not a U-Net: take "
            f"{SHAPES}."
        )
    if "unet" not in parts:
        raise ModelError(f"{name} is a {kind}, which has no U-Net: take {SHAPES}.")
    if "vae" not in parts:
        raise ModelError(
            f"{name} is a {kind}, which has no VAE: start from a pixel-space U-Net with --init, "
            f"or take {SHAPES}."
        )
    classes: dict[str, tuple[str, ...]] = {"unet": ("UNet2DConditionModel",), "vae": VAES}
    classes |= {"text_encoder": ("CLIPTextModel",)}
    for part, wanted in classes.items():
        found = index.get(part) or [None, None]
        if found[1] not in wanted:
            raise ModelError(
                f"{name} is a {kind} whose {part} is {found[1]}, not {' or '.join(wanted)}: take "
                f"{SHAPES}."
            )


def _check_shapes(base: Base) -> None:
    """Raise ModelError for networks that do not fit together as in Stable Diffusion 1 and 2."""
    unet, name = base.unet, base.name
    stored = base.vae.get("_class_name", base.autoencoder)
    if stored != base.autoencoder:
        raise ModelError(
            f"The VAE of {name} is {base.autoencoder} in {INDEX}, but {stored} in its "
            f"config.json: write the class of the VAE in vae/ into {INDEX}."
        )
    sides = [
        base.vae.get(f"{part}_block_out_channels", ()) for part in ("encoder", "decoder")
    ]  # of an AutoencoderTiny
    if len(sides[0]) != len(sides[1]):
        raise ModelError(
            f"The VAE of {name} downsamples {len(sides[0])} times and upsamples "
            f"{len(sides[1])} times: take {SHAPES}."
        )
    latents = int(base.vae.get("latent_channels", LATENT_CHANNELS))
    if latents != LATENT_CHANNELS:
        raise ModelError(
            f"The VAE of {name} has {latents} latent channels, not {LATENT_CHANNELS}: take "
            f"{SHAPES}."
        )
    channels = unet["in_channels"]
    if channels not in (latents, 2 * latents):
        inpaints = " It is an inpainting model: take the plain one." if channels == 9 else ""
        raise ModelError(
            f"The U-Net of {name} has {channels} input channels, not {latents} as in Stable "
            f"Diffusion or {2 * latents} as in InstructPix2Pix.{inpaints}"
        )
    extra = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim")
    if asked := next((key for key in extra if unet.get(key) is not None), None):
        raise ModelError(
            f"The U-Net of {name} needs inputs besides text ({asked} {unet[asked]}): take {SHAPES}."
        )
    wide = base.words[1]
    if unet["cross_attention_dim"] != wide:
        raise ModelError(
            f"The U-Net of {name} attends to {unet['cross_attention_dim']} channels of text, but "
            f"its text encoder gives {wide}: take {SHAPES}."
        )


def read_run_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    base: str | None = None,
    lora: int | None = None,
) -> TrainConfig:
    """The settings of a run, like `read_config`, with the defaults of the base that they name.

    `base` and `lora` override base.name and base.lora_rank. Raises UsageError for a rank without a
    base, ModelError if the base cannot be used, ConfigError for invalid settings.
    """
    values, origin = read_values(path, overrides), origin_of(path)
    section = dict(values.get("base") or {})
    section |= {"name": str(Path(base)) if Path(base).exists() else base} if base else {}
    section |= {"lora_rank": lora} if lora else {}
    if section.get("lora_rank") and not section.get("name"):
        raise UsageError("--lora trains updates of a pretrained base: name it with --base.")
    if section:
        values["base"] = section
    return parse_config(with_base(values, origin=origin), origin=origin)


def check_process(config: TrainConfig, base: Base) -> None:
    """Raise ConfigError if a run's noise process or sizes differ from those of its base.

    The prediction type and the terminal SNR may differ: training adapts the U-Net to them.
    """
    own = {"diffusion." + key: value for key, value in base.process().items()}
    own |= {"model.fold": base.factor}
    for key, value in own.items():
        section, name = key.split(".")
        found = getattr(getattr(config, section), name)
        if found != value and name not in ("prediction_type", "rescale_betas_zero_snr"):
            raise ConfigError(
                f"{key} is {found}, but the base {base.name} was trained with {value}: leave it "
                "out, or read the settings with read_run_config."
            )


def with_base(values: dict[str, Any], *, origin: str) -> dict[str, Any]:
    """Settings of a run, with defaults of the base that they name for all that is not set.

    Sizes, noise process and prediction type are the base's. Text and picture are dropped with the
    probabilities of InstructPix2Pix. A base distilled to few steps is sampled with few. Raises
    ModelError if the base cannot be used, ConfigError for invalid settings.
    """
    name = (values.get("base") or {}).get("name")
    if name is None:
        return values
    require_packages()
    base = read_base(str(name))
    data = values.get("data") or {}
    size = data.get("size", int(base.unet["sample_size"]) * base.factor)
    _check_size(size, base)
    others = data.get("streaming") or data.get("cache", "none") != "none"
    few = base.sampler
    sampling: dict[str, Any] = {"steps": NUM_FEW_STEPS, "scheduler": few} if few else {**GUIDANCE}
    defaults = {
        "train_batch_size": 4,
        "model": {
            "sample_size": max(1, int(size) // base.factor),
            "fold": base.factor,
            "backbone_variant": None,
            "block_out_channels": list(base.unet["block_out_channels"]),
            "norm_num_groups": base.unet["norm_num_groups"],
        },
        "diffusion": {**base.process(), "cond_drop_prob": DROP_PROB},
        "data": {"size": size, "cache_features": not others},
        "sampling": sampling,
        "optimizer": {"learning_rate": 1e-4 if _rank_of(values) else 1e-5},
        "looks": _looks(sampling),
    }
    merged = _merge(defaults, values)
    parse_config(merged, origin=origin)
    return merged


def _check_size(size: Any, base: Base) -> None:
    """Raise ConfigError for a size whose latents the U-Net cannot halve often enough."""
    stride = base.factor * 2 ** (len(base.unet["block_out_channels"]) - 1)
    if isinstance(size, int) and (size % stride or size < stride):
        raise ConfigError(
            f"data.size {size} is not a multiple of {stride}, the total downsampling of the base's "
            f"VAE and U-Net; take {max(stride, round(size / stride) * stride)}."
        )


def require_packages() -> None:
    """Raise DependencyError where a package that runs a base is missing."""
    from importlib.util import find_spec

    for package in ("transformers", "peft"):
        if not find_spec(package):
            raise DependencyError.of(f"A Stable Diffusion base needs {package}", extra="latent")


def _rank_of(values: Mapping[str, Any]) -> Any:
    return (values.get("base") or {}).get("lora_rank")


def _looks(sampling: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Looks of a colorizer on a base: chroma is scaled; guidance, which affects text, is not."""
    guidance = float(sampling.get("guidance_scale", 1.0))
    chroma = {"quiet": 0.85, "vivid": 1.15}
    return {
        name: {"guidance_scale": guidance, "variety": 1.0, "saturation": saturation}
        for name, saturation in chroma.items()
    }


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; values of `above` override those of `below`."""
    merged = {**below}
    for key, value in above.items():
        under = merged.get(key)
        whole = not (isinstance(value, Mapping) and isinstance(under, Mapping)) or key == "looks"
        merged[key] = value if whole else _merge(under, value)  # type: ignore[arg-type]
    return merged


def _find(name: str) -> Path:
    """The folder of that name; a Hub repository is downloaded, or found in the cache."""
    path = Path(name)
    if path.is_file():
        raise ModelError(
            f"The base {name} is a single file: convert it to a folder with diffusers, "
            "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)."
        )
    if path.is_dir():
        return path
    wanted = ["*.json", "*.txt", "LICENSE*", "README.md"]
    wanted += [f"{part}/*.safetensors" for part in ("unet", "vae", "text_encoder")]
    skipped = ["*.fp16.*", "*non_ema*", "safety_checker/*"]
    with fetching(name, f"There is no base {name}"):
        from huggingface_hub import snapshot_download

        index = Path(snapshot_download(name, allow_patterns=[INDEX])) / INDEX
        if index.is_file():
            refuse_others(name, read_json(index))  # before gigabytes are fetched in vain
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=skipped))
