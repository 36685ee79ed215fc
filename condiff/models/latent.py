"""A model on a Stable Diffusion base: a widened U-Net, and the frozen VAE and text encoder."""

import gc
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers import __version__ as diffusers_version
from torch import Tensor

from condiff.config import BaseConfig, DiffusionConfig, Look, SamplingConfig
from condiff.errors import ModelError, first_line
from condiff.models.base import FROZEN, LICENCES, Base, read_base
from condiff.models.denoiser import Denoiser, widen
from condiff.models.info import INDEX, OWN_INDEX, ModelInfo, read_json
from condiff.models.loading import CAME_FROM, dump_looks, whole_folder
from condiff.tasks import Task
from condiff.words import WithWords

AUTOENCODERS = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}
WEIGHTS = "diffusion_pytorch_model.safetensors"
# LoRA on attention and on conv_in: conv_in's new channels begin at zero, so a LoRA file without
# conv_in would ignore the picture.
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv_in")


class LatentModel(Denoiser):
    """The U-Net of a base, with `conv_in` widened for the latents of a picture.

    The VAE and the text encoder are not part of it: see `FrozenParts`. `null_words` (1,n,d) is the
    embedding of the empty text "".
    """

    null_words: Tensor

    def __init__(self, unet: UNet2DConditionModel, null_words: Tensor):
        super().__init__()
        self.unet = unet
        self.register_buffer("null_words", null_words, persistent=False)

    def halve_frozen(self, dtype: torch.dtype) -> None:
        """Convert the weights that are not trained to half precision, for use with autocast."""
        for weight in self.unet.parameters():
            if not weight.requires_grad:
                weight.data = weight.data.to(dtype)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Tensor,
        *,
        words: Tensor,
        kept: Tensor | None = None,
        words_kept: Tensor | None = None,
    ) -> Tensor:
        """Model output (B,4,h,w) for x_t (B,4,h,w), t (B,), latents of the picture and text.

        Where `kept` (B,1,1,1) is 0 instead of 1 the picture's latents are set to zero; where
        `words_kept` (B,1,1) is 0 the text embedding is that of "".
        """
        if kept is not None:
            condition = condition * kept
        if words_kept is not None:
            words = torch.where(words_kept > 0, words, self.null_words.to(words.dtype))
        return self.predict(x_t, t, WithWords(condition, words))

    def predict(self, x_t: Tensor, t: Tensor, cond: WithWords) -> Tensor:
        """Model output (B,4,h,w) for an encoded condition."""
        joined = torch.cat([x_t, cond.picture], dim=1)
        joined = joined.contiguous(memory_format=self._memory_format(joined))
        return self.unet(joined, t, encoder_hidden_states=cond.words).sample


class FrozenParts:
    """The VAE, text encoder and tokenizer of a folder; in memory only while in use.

    They compute in single precision, without gradients.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        self.folder, self.device = folder, device
        self._vae: Any = None
        self._texts: tuple[Any, Any] | None = None

    @property
    def vae(self) -> Any:
        """The VAE, loaded if necessary."""
        if self._vae is None:
            self._vae = _load_vae(self.folder).to(self.device)
        return self._vae

    def load(self) -> None:
        """Load the parts that are not in memory."""
        self._vae = self.vae
        self._texts = self._texts or _load_texts(self.folder, self.device)

    def count(self, text: str) -> tuple[int, int]:
        """The number of tokens of a text, and the encoder's maximum."""
        self.load()
        assert self._texts is not None
        tokenizer = self._texts[0]
        return len(tokenizer(text).input_ids), int(tokenizer.model_max_length)

    def release(self) -> None:
        """Free their memory; they are loaded again when needed."""
        self._vae = self._texts = None
        gc.collect()

    @torch.no_grad()
    def moments(self, pictures: Tensor) -> Tensor:
        """Pictures (B,3,H,W) in [-1,1] -> mean and standard deviation of x_0, (B,8,h,w).

        A tiny autoencoder has no distribution: its deviation is 0.
        """
        return torch.cat(self._encode(pictures), dim=1) * self.vae.config.scaling_factor

    @torch.no_grad()
    def condition(self, pictures: Tensor) -> Tensor:
        """Pictures (B,3,H,W) in [-1,1] -> latents (B,4,h,w) of a condition: modes, not scaled."""
        return self._encode(pictures)[0]

    def _encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, which is the mode, and standard deviation of the latents, not scaled."""
        encoded = self.vae.encode(pictures.to(self.device))
        if isinstance(self.vae, AutoencoderTiny):
            return encoded.latents, torch.zeros_like(encoded.latents)
        return encoded.latent_dist.mean, encoded.latent_dist.std

    @torch.no_grad()
    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 (B,4,h,w) -> pictures (B,3,H,W), about in [-1,1]."""
        return self.vae.decode(x_0.to(self.device) / self.vae.config.scaling_factor).sample

    def unscale(self, latents: Tensor) -> Tensor:
        """Latents of a condition as x_0, for `decode`."""
        return latents * self.vae.config.scaling_factor

    @torch.no_grad()
    def words(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (B,n,d) of texts, truncated to the encoder's maximum length."""
        if self._texts is None:
            self._texts = _load_texts(self.folder, self.device)
        tokenizer, encoder = self._texts
        tokens = tokenizer(
            list(texts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        masked = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self.device) if masked else None
        return encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0]


def build_on_base(config: BaseConfig, task: Task) -> LatentModel:
    """The model of a run at its first step: its output equals that of the base.

    With `lora_rank` only low-rank updates are trained, otherwise the whole U-Net. Raises ModelError
    if the base's weights cannot be loaded.
    """
    assert config.name is not None
    base = read_base(config.name)
    unet = _load(UNet2DConditionModel, base.path, "unet")
    widen(unet, in_channels=2 * task.space.channels)
    if config.lora_rank is not None:
        add_lora(unet, config.lora_rank)
    frozen = FrozenParts(base.path)
    model = LatentModel(unet, frozen.words([""]))
    return model.train()


def add_lora(unet: UNet2DConditionModel, rank: int) -> None:
    """Freeze the U-Net and add zero-initialised LoRA updates to attention and conv_in."""
    from peft import LoraConfig

    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_TARGETS)))


def _load(kind: Any, folder: Path, part: str) -> Any:
    try:
        module = kind.from_pretrained(
            folder, subfolder=part, use_safetensors=True, torch_dtype=torch.float32
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder / part} cannot be loaded: {first_line(error)}.") from error
    if part != "unet":
        module.requires_grad_(False)
    return module.eval()


def _load_vae(folder: Path) -> Any:
    """The VAE, with the class named in its configuration."""
    try:
        settings = read_json(folder / "vae" / "config.json")
        kind = AUTOENCODERS[settings.get("_class_name", AutoencoderKL.__name__)]
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder / 'vae'} cannot be loaded: {error}") from error
    return _load(kind, folder, "vae")


def _load_texts(folder: Path, device: torch.device | str) -> tuple[Any, Any]:
    """The tokenizer and the text encoder."""
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        encoder = CLIPTextModel.from_pretrained(
            folder, subfolder="text_encoder", use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"The text encoder of {folder} cannot be loaded: {first_line(error)}."
        ) from error
    return tokenizer, encoder.requires_grad_(False).eval().to(device)


def save_latent_model(
    folder: Path,
    model: LatentModel,
    *,
    config: BaseConfig,
    task: Task,
    diffusion: DiffusionConfig,
    dtype: torch.dtype,
    condition_size: int,
    sampling: SamplingConfig,
    looks: Mapping[str, Look],
    texts: Mapping[str, str],
) -> None:
    """Write a folder that a stock StableDiffusionInstructPix2PixPipeline opens, U-Net in `dtype`.

    The other parts are copies of the base's. Low-rank updates are merged into the U-Net's weights,
    and also written to lora/pytorch_lora_weights.safetensors in single precision. `texts` are
    written, too, by file name.
    """
    assert config.name is not None
    base = read_base(config.name)
    kind, scheduler = scheduler_of(base, diffusion)
    own = {
        "task": task.name,
        "condition_size": condition_size,
        "sampling": sampling.model_dump(mode="json"),
        **({"looks": dump_looks(looks)} if task.space.keeps_photo else {}),
        "diffusion": diffusion.model_dump(mode="json"),
        "base": {
            "name": Path(config.name).name if Path(config.name).exists() else config.name,
            "licence": base.licence(),
            "lora_rank": config.lora_rank,
        },
    }
    with whole_folder(folder, texts) as part:
        (part / "unet").mkdir()
        _save_unet(part / "unet", model.unet, base.path, dtype, lora=config.lora_rank is not None)
        if config.lora_rank is not None:
            _save_lora(part / "lora", model.unet)
        for name in FROZEN:
            shutil.copytree(base.path / name, part / name, ignore=_ignore_other_formats)
        (part / "scheduler").mkdir()
        _write_json(part / "scheduler" / "scheduler_config.json", scheduler)
        for name in LICENCES:
            if (base.path / name).is_file():
                shutil.copy(base.path / name, part / name)
        _write_json(part / OWN_INDEX, own)
        _write_json(part / INDEX, _stock_index(kind, base.autoencoder))


def scheduler_of(base: Base, diffusion: DiffusionConfig) -> tuple[str, dict[str, Any]]:
    """The scheduler's class and configuration for a model on a base.

    It is the base's own, with the noise process of the run. With zero terminal SNR sampling begins
    at the last timestep; if the base's class has no such setting, DDIM replaces it.
    """
    settings = dict(base.scheduler)
    kind = str(settings["_class_name"])
    process = {"prediction_type": diffusion.prediction_type}
    if diffusion.rescale_betas_zero_snr:
        if "rescale_betas_zero_snr" not in settings:
            kind = "DDIMScheduler"
            kept = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
            settings = {key: settings[key] for key in kept if key in settings}
            settings |= {"clip_sample": False, "_diffusers_version": diffusers_version}
        process |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}  # type: ignore[dict-item]
    return kind, {**settings, "_class_name": kind, **process}


def load_latent_model(
    info: ModelInfo, *, device: str | torch.device = "cpu"
) -> tuple[LatentModel, FrozenParts]:
    """Load a model on a base, in single precision and ready to sample, and its frozen parts.

    Raises ModelError if it cannot be loaded.
    """
    frozen = FrozenParts(info.path, device)
    unet = _load(UNet2DConditionModel, info.path, "unet").requires_grad_(False)
    model = LatentModel(unet, frozen.words([""]).cpu())
    return model.eval().to(device), frozen


def _stock_index(scheduler: str, autoencoder: str) -> dict[str, Any]:
    """model_index.json of the stock pipeline with these classes."""
    nothing: list[str | None] = [None, None]
    return {
        "_class_name": "StableDiffusionInstructPix2PixPipeline",
        "_diffusers_version": diffusers_version,
        "feature_extractor": nothing,
        "image_encoder": nothing,
        "requires_safety_checker": False,
        "safety_checker": nothing,
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", autoencoder],
    }


@torch.no_grad()
def merged_weights(unet: Any, base: Path) -> dict[str, Tensor]:
    """The U-Net's weights with the low-rank updates merged, under the base's names.

    The base's weights are read again from its folder, as those in memory may be rounded.
    """
    from peft.tuners.lora import LoraLayer

    plain = _load(UNet2DConditionModel, base, "unet")
    widen(plain, in_channels=unet.config["in_channels"])
    weights = plain.state_dict()
    for name, module in unet.named_modules():
        if isinstance(module, LoraLayer):
            key = f"{name}.weight"
            delta = module.get_delta_weight(module.active_adapters[0])  # type: ignore[attr-defined]
            weights[key] = weights[key] + delta.to(weights[key])
    return weights


def _save_unet(folder: Path, unet: Any, base: Path, dtype: torch.dtype, *, lora: bool) -> None:
    weights = merged_weights(unet, base) if lora else unet.state_dict()
    halves = {name: value.detach().to(dtype).cpu().contiguous() for name, value in weights.items()}
    safetensors.torch.save_file(halves, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes its files private
    unet.save_config(folder)
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    settings.pop(CAME_FROM, None)
    _write_json(folder / "config.json", settings)


def _save_lora(folder: Path, unet: Any) -> None:
    """The low-rank updates in a file that diffusers' `load_lora_weights` reads.

    They keep peft's names: `convert_state_dict_to_diffusers` renames those of attention but not
    that of conv_in, and from a file with both, diffusers 0.42 loads only the latter.
    """
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from peft.utils import get_peft_model_state_dict

    layers = get_peft_model_state_dict(unet)
    layers = {name: value.detach().cpu().contiguous() for name, value in layers.items()}
    StableDiffusionLoraLoaderMixin.save_lora_weights(folder, unet_lora_layers=layers)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)


def _ignore_other_formats(_: str, names: list[str]) -> set[str]:
    kept = (".json", ".txt", ".safetensors")
    return {name for name in names if not name.endswith(kept) or ".fp16." in name}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")
