"""FSDP: weights, gradients, moments and averages in shares, a share a process.

accelerate's configuration asks for it and says how the model is cut; accelerate and torch's
`fully_shard` do it. A parameter is then a DTensor, of which a process holds its rows. What leaves a
run is whole: checkpoints, the model folder and the samples are those of a run that shares nothing.
"""

import os

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    convert_outputs_to_fp32,
    str_to_bool,
)
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from condiff.errors import TrainingError
from condiff.networks.denoiser import Model, freeze


def read_plugin() -> FullyShardedDataParallelPlugin | None:
    """What accelerate's configuration says of FSDP; None where it does not ask for it.

    Raises TrainingError for what nobody has tried.
    """
    if not str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false")):
        return None
    plugin = FullyShardedDataParallelPlugin()
    if getattr(plugin, "fsdp_version", 1) != 2:
        raise TrainingError(
            "condiff shards by FSDP 2 alone: set fsdp_version: 2 in accelerate's configuration "
            "(accelerate 1.6 or newer)."
        )
    if plugin.activation_checkpointing:
        raise TrainingError(
            "fsdp_activation_checkpointing is not supported: set gradient_checkpointing: true "
            "in the run's own settings instead."
        )
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise TrainingError(
            "fsdp_offload_params is not supported: set it to false in accelerate's configuration; "
            "more processes make the shares smaller."
        )
    plugin.cpu_ram_efficient_loading = False  # every process has built the same weights
    return plugin


def is_cut(model: Model) -> bool:
    """Whether the processes share the weights of a model among them."""
    return any(isinstance(parameter, DTensor) for parameter in model.trainable())


def shard_on_cpus(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Have several CPU processes take FSDP: accelerate 1.15 passes it over there."""
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        for state in (PartialState(), accelerator.state):  # the second is refreshed by the first
            state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin


def prepare(
    accelerator: Accelerator, model: Model, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model to call and the optimizer to step, for all processes; `model` is cut in place.

    The frozen backbone stays whole everywhere: it is called by itself, and nothing of it is
    trained. Precision is autocast's, as without FSDP: shares and sums are single precision.
    """
    shares = accelerator.distributed_type == DistributedType.FSDP
    if shares:
        plugin = accelerator.state.fsdp_plugin
        plugin.mixed_precision_policy = None
        if model.encoder.backbone is not None:
            plugin.ignored_modules = [model.encoder.backbone]
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    parallel, optimizer = accelerator.prepare(model, optimizer)
    if shares and accelerator.mixed_precision != "no":
        autocast = accelerator.autocast()
        parallel.forward = convert_outputs_to_fp32(autocast(parallel.forward))
    return parallel, optimizer


def held(parameter: Tensor) -> Tensor:
    """The part of a parameter that this process holds, in the same memory."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def cut(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole value laid out like a parameter; every process takes its part of its own copy."""
    if not isinstance(parameter, DTensor):
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def join(part: Tensor, parameter: Tensor) -> Tensor:
    """The whole value of which each process holds a part like its part of a parameter."""
    if not isinstance(parameter, DTensor):
        return part
    mesh, placements = parameter.device_mesh, parameter.placements
    shape, stride = parameter.shape, parameter.stride()
    return whole(DTensor.from_local(part, mesh, placements, shape=shape, stride=stride))


def whole(value: Tensor) -> Tensor:
    """A value put together from all processes; all have to ask for it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_model(model: Model) -> Model:
    """A whole copy of a model in shares; all processes have to ask for it."""
    weights = {name: whole(value) for name, value in model.state_dict().items()}
    parts = [type(part).from_config(part.config) for part in (model.encoder, model.unet)]
    copy = freeze(Model(*parts))
    copy.load_state_dict(weights)
    return copy.to(next(iter(weights.values())).device)
