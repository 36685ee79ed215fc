"""Converts the training state to the tensors of a checkpoint, by name, and restores it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from condiff.errors import TrainingError
from condiff.training.accelerator import gather, join_parts, local_part, shard_like

MOMENTS = ("exp_avg", "exp_avg_sq")
EIGHT_BIT = "state1"  # bitsandbytes' name of the first moment, also for small parameters


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def gather_checkpoint(
    model: nn.Module, optimizer: Any, ema: EMAModel, *, keep: bool = True
) -> dict[str, dict[str, Tensor]]:
    """The files of a checkpoint, each {name: tensor}: weights, averages, AdamW moments.

    Tensors are whole and on the CPU. If the model is sharded, all processes must call this; without
    `keep` the files are empty.
    """
    files: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}

    def add(file: str, name: str, value: Tensor) -> None:
        if keep:
            files[file][name] = value.detach().cpu().contiguous()

    for (name, parameter), shadow in zip(trainable(model).items(), ema.shadow_params, strict=True):
        add("model", name, gather(parameter))
        add("ema", name, join_parts(shadow, parameter))
        for key, value in optimizer.state[parameter].items():
            value = torch.as_tensor(value)
            # All parameters share the table of 8-bit values; a file cannot contain shared tensors.
            add("optimizer", f"{name}.{key}", value.clone() if "qmap" in key else gather(value))
    return files


@torch.no_grad()
def restore_checkpoint(
    model: nn.Module,
    optimizer: Any,
    ema: EMAModel,
    read: Callable[[str], Mapping[str, Tensor]],
) -> None:
    """Restore model, optimizer and averages from a checkpoint; `read` returns a file's tensors.

    Raises TrainingError if the checkpoint's parameters have other names or shapes.
    """
    names = trainable(model)
    saved, averaged, moments = read("model"), read("ema"), read("optimizer")
    if {n: v.shape for n, v in saved.items()} != {n: p.shape for n, p in names.items()}:
        raise TrainingError("The checkpoint is of a model of another shape: start a new run.")
    for (name, parameter), shadow in zip(names.items(), ema.shadow_params, strict=True):
        parameter.copy_(shard_like(saved[name], parameter))
        shadow.copy_(local_part(shard_like(averaged[name], parameter)))
        if f"{name}.{EIGHT_BIT}" in moments:
            optimizer.state[parameter] = _read_eight_bits(moments, name, parameter.device)
            continue
        if f"{name}.step" not in moments:  # it has never had a gradient
            continue
        state = {"step": moments[f"{name}.step"].to(parameter.device, copy=True)}
        for key in MOMENTS:
            moment = shard_like(moments[f"{name}.{key}"], parameter)
            # The fused optimizer step requires the parameter's memory layout.
            state[key] = torch.empty_like(parameter).copy_(moment)
        optimizer.state[parameter] = state


def _read_eight_bits(
    moments: Mapping[str, Tensor], name: str, device: torch.device
) -> dict[str, Any]:
    """The state of bitsandbytes' AdamW for one parameter: tensors, and the step as a number."""
    start = f"{name}."
    own = {key.removeprefix(start): v for key, v in moments.items() if key.startswith(start)}
    state: dict[str, Any] = {
        key: value.to(device) for key, value in own.items() if "." not in key and key != "step"
    }
    return {"step": int(own["step"]), **state}
