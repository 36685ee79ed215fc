"""All that the next optimizer step depends on, as tensors by name: to a checkpoint and back."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from condiff.errors import TrainingError

MOMENTS = ("exp_avg", "exp_avg_sq")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def take_snapshot(model: nn.Module, optimizer: Any, ema: EMAModel) -> dict[str, dict[str, Tensor]]:
    """The files of a checkpoint: weights, their averages, the moments of AdamW; on the CPU."""
    names = trainable(model)
    files = {
        "model": {name: p.detach() for name, p in names.items()},
        "ema": dict(zip(names, ema.shadow_params, strict=True)),
        "optimizer": {
            f"{name}.{key}": value
            for name, parameter in names.items()
            for key, value in optimizer.state[parameter].items()
        },
    }
    return {
        file: {name: value.cpu().contiguous() for name, value in values.items()}
        for file, values in files.items()
    }


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
        parameter.copy_(saved[name])
        shadow.copy_(averaged[name])
        # Laid out like the parameter: the fused step walks all of them side by side.
        optimizer.state[parameter] = {
            "step": moments[f"{name}.step"].to(parameter.device),
            **{key: torch.empty_like(parameter).copy_(moments[f"{name}.{key}"]) for key in MOMENTS},
        }
