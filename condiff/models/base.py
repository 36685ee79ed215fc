"""Reads a pretrained base without torch: a diffusers folder of Stable Diffusion 1 or 2.

model_index.json   which class each part is
unet/              UNet2DConditionModel: 4 latent channels, or 8 of an InstructPix2Pix
vae/               AutoencoderKL of 4 latent channels, or AutoencoderTiny, as TAESD is
text_encoder/      CLIPTextModel
tokenizer/         CLIPTokenizer
scheduler/         any of diffusers: the noise process that the base was trained with

Other pipelines are refused by name: see `refuse_others`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condiff.config import DiffusionConfig
from condiff.errors import DependencyError, ModelError, first_line
from condiff.files import JUNK, digest_files
from condiff.models.hub import fetching
from condiff.models.info import INDEX, read_json

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
FROZEN = ("vae", "text_encoder", "tokenizer")  # copied unchanged into a trained model
LATENT_CHANNELS = 4
VAES = ("AutoencoderKL", "AutoencoderTiny")
# Schedulers of bases that were distilled to few steps, as condiff's samplers name them.
FEW_STEPS = {"LCMScheduler": "lcm", "TCDScheduler": "tcd"}
TRAILING = {"EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"}  # of Turbo, Lightning
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


def require_packages() -> None:
    """Raise DependencyError where a package that runs a base is missing."""
    from importlib.util import find_spec

    for package in ("transformers", "peft"):
        if not find_spec(package):
            raise DependencyError.of(f"A Stable Diffusion base needs {package}", extra="latent")


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
