"""All that the next optimizer step depends on, as tensors by name: to a checkpoint and back."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from condiff.errors import TrainingError
from condiff.training.sharding import cut, held, join, whole

MOMENTS = ("exp_avg", "exp_avg_sq")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def take_snapshot(
    model: nn.Module, optimizer: Any, ema: EMAModel, *, keep: bool = True
) -> dict[str, dict[str, Tensor]]:
    """The files of a checkpoint: weights, their averages, the moments of AdamW; whole, on the CPU.

    Where processes hold shares all have to ask for it; those that do not `keep` it get nothing.
    """
    files: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}

    def add(file: str, name: str, value: Tensor) -> None:
        if keep:
            files[file][name] = value.detach().cpu().contiguous()

    for (name, parameter), shadow in zip(trainable(model).items(), ema.shadow_params, strict=True):
        add("model", name, whole(parameter))
        add("ema", name, join(shadow, parameter))
        for key, value in optimizer.state[parameter].items():
            add("optimizer", f"{name}.{key}", whole(value))
    return files


@torch.no_grad()
def restore_snapshot(
    model: nn.Module,
    optimizer: Any,
    ema: EMAModel,
    read: Callable[[str], Mapping[str, Tensor]],
) -> None:
    """Put everything back where `take_snapshot` found it; `read` gives a file's tensors."""
    names = trainable(model)
    saved, averaged, moments = read("model"), read("ema"), read("optimizer")
    if {n: v.shape for n, v in saved.items()} != {n: p.shape for n, p in names.items()}:
        raise TrainingError("The checkpoint is of a model of another shape: start a new run.")
    for (name, parameter), shadow in zip(names.items(), ema.shadow_params, strict=True):
        parameter.copy_(cut(saved[name], parameter))
        shadow.copy_(held(cut(averaged[name], parameter)))
        # Laid out like the parameter: the fused step walks all of them side by side.
        optimizer.state[parameter] = {
            "step": moments[f"{name}.step"].to(parameter.device),
            **{
                key: torch.empty_like(parameter).copy_(cut(moments[f"{name}.{key}"], parameter))
                for key in MOMENTS
            },
        }
