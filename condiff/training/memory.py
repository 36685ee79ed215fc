"""Computes the device memory of training on a base, without loading weights."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from condiff.config import TrainConfig
from condiff.models.base import LATENT_CHANNELS, Base
from condiff.models.latent import AUTOENCODERS, add_lora

Precision = Literal["no", "bf16"]
NAMES = {"no": "float32", "bf16": "mixed precision"}
EXAMPLE_RANK = 8  # of the table's LoRA rows, if the run has no rank
TRAINED_BYTES = 4 * 3  # per trained weight: weight, gradient, average
MOMENT_BYTES = {False: 4 * 2, True: 2}  # two moments of AdamW, in single precision or 8 bits


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step, without temporary buffers of kernels."""

    weights: int  # of the U-Net, with gradients, moments and averages of trained weights
    activations: int  # kept for the backward pass, per image
    casts: int = 0  # of weights, by mixed precision, for any batch size

    def total(self, batch_size: int) -> int:
        """Bytes of a step with this batch size."""
        return self.weights + self.casts + batch_size * self.activations


@dataclass(frozen=True)
class Choice:
    """The settings that determine the memory of a run."""

    rank: int | None = None
    checkpointing: bool = False
    precision: Precision = "no"
    eight_bit: bool = False  # moments of AdamW

    def describe(self) -> str:
        """The choice as text, by flags and settings."""
        words = ["all of the U-Net" if self.rank is None else f"--lora {self.rank}"]
        words += ["gradient_checkpointing"] if self.checkpointing else []
        return ", ".join([*words, *(["optimizer.eight_bit"] if self.eight_bit else [])])


def count_memory(base: Base, choice: Choice, *, side: int, words: tuple[int, int]) -> Memory:
    """The memory of training the base's U-Net on latents (4,side,side) and words (n,d).

    Fake tensors are used, with shapes but without data. With low-rank updates and mixed precision,
    the frozen weights are in half precision.
    """
    return count_choices(base, [choice], side=side, words=words)[choice]


def count_choices(
    base: Base, choices: Iterable[Choice], *, side: int, words: tuple[int, int]
) -> dict[Choice, Memory]:
    """The memory of each choice; choices that share a U-Net build it only once."""
    sharing: dict[tuple[int | None, bool], list[Choice]] = {}
    for choice in choices:
        half = choice.rank is not None and choice.precision != "no"
        sharing.setdefault((choice.rank, half), []).append(choice)
    found: dict[Choice, Memory] = {}
    for (rank, half), group in sharing.items():
        with torch.device("meta"):
            config = {**base.unet, "in_channels": 2 * LATENT_CHANNELS}
            unet = UNet2DConditionModel.from_config(config)
            if rank is not None:
                add_lora(unet, rank)
        with FakeTensorMode():
            _give_fake_weights(unet, half=half)
            kept: dict[Choice, tuple[int, int]] = {}
            for choice in sorted(group, key=lambda c: c.checkpointing):  # cannot be turned off
                step = replace(choice, eight_bit=False)  # affects only the weights
                if step not in kept:
                    kept[step] = _count_step(unet, step, side=side, words=words, half=half)
                weights = _count_weights(unet, choice, half=half)
                found[choice] = Memory(weights, *kept[step])
    return found


def _count_weights(unet: Any, choice: Choice, *, half: bool) -> int:
    """Bytes of the weights, with gradients, moments and averages of trained ones."""
    trained = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in unet.parameters() if not p.requires_grad)
    of_trained = TRAINED_BYTES + MOMENT_BYTES[choice.eight_bit]
    return of_trained * trained + (2 if half else 4) * frozen


def _count_step(
    unet: Any, choice: Choice, *, side: int, words: tuple[int, int], half: bool
) -> tuple[int, int]:
    """Bytes of activations per image, and of casts for any batch size."""
    shape = (2 * LATENT_CHANNELS, side, side)
    of_one = _count_kept(unet, choice, (1, *shape), words)
    if choice.precision == "no" or half:  # almost nothing is cast
        return of_one, 0
    an_image = _count_kept(unet, choice, (2, *shape), words) - of_one
    return an_image, of_one - an_image


def _give_fake_weights(unet: Any, *, half: bool) -> None:
    """Replace meta tensors by fake ones: meta tensors would select other kernels."""
    for module in unet.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                dtype = torch.bfloat16 if half and not weight.requires_grad else torch.float32
                fake = nn.Parameter(torch.empty(weight.shape, dtype=dtype), weight.requires_grad)
                module._parameters[name] = fake


def _count_kept(unet: Any, choice: Choice, shape: tuple[int, ...], words: tuple[int, int]) -> int:
    """Peak bytes that a forward pass keeps, besides the weights."""
    weights = {storage_of(p) for p in unet.parameters()}
    kept: dict[int, int] = {}
    blocks = [0]

    def checkpoint(block: Callable[..., Any], *arguments: Any) -> Any:
        """Keep a block's inputs, and count what its recomputation will keep."""
        for argument in arguments:
            if isinstance(argument, Tensor):
                kept[storage_of(argument)] = argument.untyped_storage().nbytes()
        inside: dict[int, int] = {}
        with keeping(inside):
            output = block(*arguments)
        blocks.append(sum(size for key, size in inside.items() if key not in weights))
        return output

    unet.train()
    if choice.checkpointing:
        unet.enable_gradient_checkpointing(checkpoint)
    autocast = torch.autocast("cpu", torch.bfloat16) if choice.precision != "no" else nullcontext()
    with autocast, keeping(kept):
        unet(
            torch.empty(shape),
            torch.zeros(shape[0], dtype=torch.long),
            encoder_hidden_states=torch.empty(shape[0], *words),
        )
    return sum(size for key, size in kept.items() if key not in weights) + max(blocks)


def keeping(kept: dict[int, int]) -> Any:
    """A context that records in `kept` the bytes of tensors saved for a backward pass."""

    def keep(tensor: Tensor) -> Tensor:
        kept[storage_of(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)


def storage_of(tensor: Tensor) -> int:
    """An id of a tensor's storage, equal for all its views."""
    return int(tensor.untyped_storage()._cdata)


def make_table(base: Base, config: TrainConfig, *, words: tuple[int, int]) -> list[str]:
    """Lines of a table: the memory of each choice; an arrow marks the configured one."""
    ranks = (None, config.base.lora_rank or EXAMPLE_RANK)
    precisions: tuple[Precision, ...] = ("no", "bf16")
    side, batch = config.model.sample_size, config.train_batch_size
    chosen = Choice(
        config.base.lora_rank,
        config.gradient_checkpointing,
        "bf16" if config.mixed_precision in ("fp16", "bf16") else "no",
        config.optimizer.eight_bit,
    )
    pixels = config.data.size
    wide = 62
    lines = [
        f"memory of a step, batches of {batch} at {pixels}x{pixels}, at least, by arithmetic; "
        "without VAE and text encoder, which cached latents no longer need",
        " " * wide + "".join(f"{NAMES[precision]:>18}" for precision in precisions),
    ]
    rows = [(rank, checkpointing, False) for rank in ranks for checkpointing in (False, True)]
    rows.insert(2, (None, True, True))  # moments matter if all weights are trained
    choices = [
        [Choice(rank, checkpointing, precision, eight_bit) for precision in precisions]
        for rank, checkpointing, eight_bit in rows
    ]
    found = count_choices(base, chain(*choices), side=side, words=words)
    for of_row in choices:
        row = of_row[0].describe().ljust(wide)
        for choice in of_row:
            size = found[choice].total(batch)
            row += f"{_in_words(size):>16}{' <' if choice == chosen else '  '}"
        lines.append(row.rstrip())
    return lines


def count_frozen(base: Base) -> tuple[int, int]:
    """Bytes of the weights of the base's VAE and of its text encoder, in single precision."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        vae = AUTOENCODERS[base.autoencoder].from_config(dict(base.vae))
        texts = CLIPTextModel(CLIPTextConfig(**base.text))
    vae_size, text_size = (4 * sum(p.numel() for p in part.parameters()) for part in (vae, texts))
    return vae_size, text_size


def describe_frozen(base: Base, config: TrainConfig) -> str:
    """A line on the memory of the frozen parts, and when they need it."""
    vae, texts = map(_in_words, count_frozen(base))
    when = "until latents are cached" if config.data.cache_features else "in each step, on top"
    return f"weights of the {base.autoencoder} {vae}, of the text encoder {texts}, {when}"


def _in_words(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
