"""Start from a pretrained U-Net: condiff's own model folders, or any diffusers `UNet2DModel`."""

import logging
from pathlib import Path

import torch
from diffusers import UNet2DModel

from condiff.config import ModelConfig, TrainConfig, parse_config
from condiff.errors import ConfigError, ModelError, first_line
from condiff.models.denoiser import (
    Model,
    add_backbone,
    add_decoder,
    add_patches,
    add_text_encoder,
    build_encoder,
    change_null,
    freeze,
    widen,
)
from condiff.models.hub import fetching
from condiff.models.info import EMBEDDED, INDEX, read_index
from condiff.models.loading import load_model
from condiff.tasks import Task

logger = logging.getLogger(__name__)

SHAPE = (  # fields of the section `model` of the configuration
    "fold", "patch_size", "feature_strides", "neck_channels", "decoder_channels", "null_lacks",
    "block_out_channels", "layers_per_block", "norm_num_groups", "attention_head_dim",
)  # fmt: skip


def load_init(name: str, config: ModelConfig, task: Task) -> Model:
    """A model for the task that starts from the weights of a folder or a Hugging Face Hub id.

    A condiff folder of the same task is loaded whole. A backbone or feature decoder that `config`
    sets explicitly, or a text encoder that the task needs, is added if the folder lacks it; at
    first it changes nothing. An explicit `null_lacks` replaces the folder's. A patch size is added
    if the folder's model has none (see `add_patches`). From anything else only the U-Net is used,
    with its own architecture: `conv_in` is widened with zeros for the condition's channels, so that
    at first its output is the pretrained one's for any condition. Raises ModelError if no weights
    fit.
    """
    folder = next((f for f in (Path(name), EMBEDDED / name) if (f / INDEX).is_file()), None)
    if folder is not None and "vae" in read_index(folder):
        raise ConfigError(f"{name} has a VAE: start from it with --base, not --init.")
    if folder is not None and _task_of(folder) == task.name:
        model = load_model(folder).model
        asked = "backbone_variant" in config.model_fields_set and config.backbone_variant
        if asked and task.condition_channels and model.backbone is None:
            add_backbone(model, config, task)
        if config.decoder_channels and model.backbone and model.encoder.decoder is None:
            add_decoder(model, channels=config.decoder_channels)
        if "null_lacks" in config.model_fields_set and model.encoder.decoder is not None:
            change_null(model, config)
        if config.patch_size > 1 and model.patch_size == 1:
            add_patches(model, patch_size=config.patch_size)
        if task.takes_text and model.text_encoder is None:
            assert config.text_channels is not None
            add_text_encoder(model, channels=config.text_channels)
        return model.train()
    unet = _load_unet(folder if folder is not None else name)
    x_0_channels = task.space.channels * config.patch_size**2
    for side in ("in_channels", "out_channels"):
        if unet.config[side] != x_0_channels:
            patches = f" in patches of {config.patch_size}²" if config.patch_size > 1 else ""
            raise ModelError(
                f"The U-Net of {name} has {side} {unet.config[side]}, but x_0 of the task "
                f"{task.name} has {x_0_channels} channels{patches}: start from another one."
            )
    encoder = build_encoder(config, task)
    widen(unet, in_channels=x_0_channels + encoder.out_channels)
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = Model(encoder, unet)
    if config.text_channels is not None:
        add_text_encoder(model, channels=config.text_channels)
    return freeze(model).train()


def adopt_shape(config: TrainConfig, model: Model) -> TrainConfig:
    """The configuration with the shape of the weights that the model starts from.

    Raises ConfigError if other settings, such as sample_size, do not fit that shape.
    """
    own = {**model.encoder.config, **model.unet.config}
    shape = {key: own[key] for key in SHAPE if own.get(key) is not None}
    if model.encoder.config["in_channels"]:
        shape["backbone_variant"] = model.encoder.config["backbone_variant"]
    if model.text_encoder is not None:
        shape["text_channels"] = model.text_encoder.config["channels"]
    values = config.model_dump()
    values["model"] |= shape
    return parse_config(values, origin="the settings, with the shape of the weights to start from")


def _task_of(folder: Path) -> str | None:
    name = read_index(folder).get("task")
    return name if isinstance(name, str) else None


def _load_unet(name: str | Path) -> UNet2DModel:
    """Load a U-Net, from the `unet/` of a pipeline or from its own folder; safetensors only."""
    if Path(name).exists():
        subfolder = "unet" if (Path(name) / "unet").is_dir() else None
    else:
        subfolder = "unet" if _has_index(str(name)) else None
    try:
        unet = UNet2DModel.from_pretrained(
            name, subfolder=subfolder, use_safetensors=True, torch_dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"Cannot start from {name}: {first_line(error)}. It must be a folder or a Hub id of a "
            "diffusers UNet2DModel or DDPM pipeline with safetensors weights."
        ) from error
    return unet


def _has_index(hub_id: str) -> bool:
    """Whether a Hub repository is a whole pipeline; offline, the cache decides."""
    with fetching(hub_id, f"Cannot start from {hub_id}"):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            hf_hub_download(hub_id, INDEX)
        except LocalEntryNotFoundError:  # not in the cache, and the Hub cannot be reached
            raise
        except EntryNotFoundError:
            return False
    return True
