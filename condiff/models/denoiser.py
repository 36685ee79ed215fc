"""The denoising model: a condition encoder and a U-Net."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from condiff.config import ModelConfig
from condiff.models.backbone import EfficientNetLite, load_pretrained
from condiff.models.condition_encoder import ConditionEncoder, Features, from_patches, to_patches
from condiff.models.text_encoder import TextEncoder
from condiff.tasks import Task
from condiff.words import WithWords, tokenize

DEFAULTS = "_use_default_values"  # in a diffusers configuration


class Denoiser(nn.Module, ABC):
    """A trainable network of x_t, t and a condition, around a diffusers U-Net."""

    unet: Any
    patch_size = 1
    trains_channels_last = False  # on a processor; see condiff/training/precision.py

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Model output (B,C,h,w) for an encoded condition."""

    @property
    def backbone(self) -> EfficientNetLite | None:
        """The pretrained network that reads the condition, if there is one."""
        return None

    @property
    def feature_channels(self) -> dict[int, int]:
        """Channels of the backbone's maps, by stride."""
        return {}

    def trainable(self) -> list[nn.Parameter]:
        """All parameters that are not frozen."""
        return [p for p in self.parameters() if p.requires_grad]

    def _memory_format(self, x: Tensor) -> torch.memory_format:
        # Measured on a CPU: channels last gains 4-13 % in sampling and loses 0-3 % in training.
        plain = self.training and x.device.type == "cpu" and not self.trains_channels_last
        return torch.contiguous_format if plain else torch.channels_last


class Model(Denoiser):
    """The denoising network: a U-Net of t and of x_t concatenated with the encoded condition.

    With a text encoder, the text embedding is added to that of t.

    The U-Net works on patches of x_t, as in DiT (Peebles and Xie 2022, arXiv:2212.09748): with
    `patch_size` 2 it has four times the channels at its ends, and a quarter of the pixels.
    """

    def __init__(
        self, encoder: ConditionEncoder, unet: UNet2DModel, text_encoder: TextEncoder | None = None
    ):
        super().__init__()
        self.encoder, self.unet, self.text_encoder = encoder, unet, text_encoder
        self.patch_size = int(encoder.patch_size)

    @property
    def backbone(self) -> EfficientNetLite | None:
        """The encoder's EfficientNet."""
        return self.encoder.backbone

    @property
    def feature_channels(self) -> dict[int, int]:
        """Channels of the backbone's maps that the encoder uses."""
        return self.encoder.feature_channels

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Tensor,
        *,
        features: Features | None = None,
        hints: Tensor | None = None,
        kept: Tensor | None = None,
        tokens: Tensor | None = None,
        words_kept: Tensor | None = None,
    ) -> Tensor:
        """Model output (B,C,h,w) for x_t (B,C,h,w), t (B,) and a condition image (B,N,H,W).

        `tokens` (B,n,2) come from `tokenize`; where `words_kept` (B,1,1) is 0 instead of 1 the text
        is dropped.
        """
        size = (x_t.shape[-2], x_t.shape[-1])
        cond = self.encoder(condition, features=features, hints=hints, size=size, kept=kept)
        if self.text_encoder is not None:
            assert tokens is not None
            cond = WithWords(cond, self.text_encoder(tokens, kept=words_kept))
        return self.predict(x_t, t, cond)

    def predict(self, x_t: Tensor, t: Tensor, cond: Tensor | WithWords) -> Tensor:
        """Model output (B,C,h,w) for an encoded condition, cond (B,K,h/p,w/p).

        A model with a text encoder takes it together with text embeddings (B,d).
        """
        picture, words = cond if isinstance(cond, WithWords) else (cond, None)
        joined = torch.cat([to_patches(x_t, self.patch_size), picture], dim=1)
        joined = joined.contiguous(memory_format=self._memory_format(joined))
        return from_patches(self.unet(joined, t, class_labels=words).sample, self.patch_size)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """The tokens (B,n,2) of texts."""
        assert self.text_encoder is not None
        buckets = self.text_encoder.config["buckets"]
        return torch.from_numpy(tokenize(texts, buckets=buckets)).to(self.unet.device)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """The embeddings (B,d) of texts; that of "" is zero."""
        assert self.text_encoder is not None
        return self.text_encoder(self.tokenize(texts))


def build_model(config: ModelConfig, task: Task) -> Model:
    """A new model for a task: the backbone pretrained and frozen, all other weights random."""
    encoder = build_encoder(config, task)
    levels = len(config.block_out_channels)
    x_0_channels = task.space.channels * config.patch_size**2
    unet = UNet2DModel(
        sample_size=config.sample_size // config.patch_size,
        in_channels=x_0_channels + encoder.out_channels,
        out_channels=x_0_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        norm_num_groups=config.norm_num_groups,
        attention_head_dim=min(config.attention_head_dim, config.block_out_channels[-1]),
        add_attention=task.attends,
    )
    model = Model(encoder, unet)
    if config.text_channels is not None:
        add_text_encoder(model, channels=config.text_channels)
    return freeze(model)


def add_text_encoder(model: Model, *, channels: int) -> None:
    """Add a text encoder of `channels` to a model; at first text changes nothing."""
    first = model.unet.config["block_out_channels"][0]
    model.text_encoder = TextEncoder(out_channels=4 * first, channels=channels)
    model.unet.class_embedding = nn.Identity()
    _record(model.unet, class_embed_type="identity")


def add_backbone(model: Model, config: ModelConfig, task: Task) -> None:
    """Add a pretrained backbone and a new neck to a model, shaped as in `config`.

    At first the model's output does not change: the neck's channels enter `conv_in`, between those
    of the folded condition and those of the hints, with zero weights.
    """
    shape = {key: model.encoder.config[key] for key in ("fold", "patch_size")}
    encoder = build_encoder(config.model_copy(update=shape), task)
    channels = model.unet.config["in_channels"] + config.neck_channels
    hints = encoder.hint_channels * encoder.patch_size**2
    widen(model.unet, in_channels=channels, last=hints)
    model.encoder = encoder
    freeze(model)


def add_decoder(model: Model, *, channels: int) -> None:
    """Add a feature decoder of `channels` to a model; at first its output does not change."""
    model.encoder.decoder = model.encoder.make_decoder(channels)
    _record(model.encoder, decoder_channels=channels)
    freeze(model)


def change_null(model: Model, config: ModelConfig) -> None:
    """Change what a model's null_cond lacks to what `config` names."""
    model.encoder.null_lacks = config.null_lacks
    _record(model.encoder, null_lacks=config.null_lacks)


@torch.no_grad()
def add_patches(model: Model, *, patch_size: int) -> None:
    """Convert a model of single pixels to patches of `patch_size` by `patch_size` pixels.

    The U-Net keeps its size; x_t becomes `patch_size` times as large. At first the U-Net reads the
    sum of a patch's pixels divided by `patch_size`, and outputs the same value for each of them. If
    the schedule's shift is divided by `patch_size`, that sum has the signal and noise levels that
    the U-Net was trained on at its noisiest timesteps.
    """
    encoder, unet = model.encoder, model.unet
    pixels = patch_size**2
    channels, hints = unet.config["out_channels"], encoder.hint_channels
    first, last = unet.conv_in, unet.conv_out
    of_x_t, of_cond = first.weight.split([channels, first.in_channels - channels], dim=1)
    parts = [of_x_t.repeat_interleave(pixels, dim=1) / patch_size]
    parts.append(of_cond[:, : of_cond.shape[1] - hints])
    if hints:
        parts.append(of_cond[:, -hints:].repeat_interleave(pixels, dim=1) / pixels)
    unet.conv_in = _convolution(first, torch.cat(parts, dim=1), first.bias)
    unet.conv_out = _convolution(
        last, last.weight.repeat_interleave(pixels, dim=0), last.bias.repeat_interleave(pixels)
    )
    unet.register_to_config(
        in_channels=unet.conv_in.in_channels, out_channels=unet.conv_out.out_channels
    )
    encoder.out_channels += hints * (pixels - 1)
    encoder.patch_size = model.patch_size = patch_size
    _record(encoder, patch_size=patch_size)
    freeze(model)


@torch.no_grad()
def widen(unet: Any, *, in_channels: int, last: int = 0) -> None:
    """Widen a diffusers U-Net to `in_channels`; the weights of the new channels are zero.

    The last `last` old channels stay the last ones.
    """
    old = unet.conv_in
    if old.in_channels == in_channels:
        return
    first = old.in_channels - last
    weight = old.weight.new_zeros(old.out_channels, in_channels, *old.kernel_size)
    weight[:, :first] = old.weight[:, :first]
    weight[:, in_channels - last :] = old.weight[:, first:]
    unet.conv_in = _convolution(old, weight, old.bias)
    unet.register_to_config(in_channels=in_channels)


def freeze(model: Model) -> Model:
    """Freeze the backbone and convert all weights to channels last; returns the model."""
    if model.encoder.backbone is not None:
        model.encoder.backbone.requires_grad_(False)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _convolution(old: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution like `old` with these weights (O,I,k,k) and this bias (O,)."""
    out, into = weight.shape[:2]
    new = nn.Conv2d(into, out, old.kernel_size, padding=old.padding)  # type: ignore[arg-type]
    new.weight.copy_(weight)
    new.bias.copy_(bias)  # type: ignore[union-attr]
    return new


def _record(module: Any, **values: Any) -> None:
    """Write values into the configuration of a diffusers module."""
    # `from_config` resets to its default whatever DEFAULTS lists.
    defaults = [key for key in module.config.get(DEFAULTS, ()) if key not in values]
    module.register_to_config(**values, **{DEFAULTS: defaults})


def build_encoder(config: ModelConfig, task: Task) -> ConditionEncoder:
    variant = config.backbone_variant if task.condition_channels else None
    picture = task.picture
    encoder = ConditionEncoder(
        in_channels=task.condition_channels,
        fold=config.fold,
        backbone_variant=variant,
        feature_strides=config.feature_strides,
        neck_channels=config.neck_channels,
        decoder_channels=config.decoder_channels,
        null_lacks=config.null_lacks,
        hint_channels=task.hint_channels,
        patch_size=config.patch_size,
        is_ink=picture is not None and picture.is_ink,
    )
    if variant:
        encoder.backbone.load_state_dict(load_pretrained(variant).state_dict())
    return encoder
