"""The processes and devices of a run, by accelerate; sharding of models over them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    broadcast_object_list,
    convert_outputs_to_fp32,
    is_tensorboard_available,
    is_wandb_available,
    str_to_bool,
)
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from condiff.config import TrainConfig
from condiff.errors import CondiffError, ConfigError, TrainingError
from condiff.models.denoiser import Denoiser, Model, freeze

TRACKERS = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}

REFUSED = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}


def build_accelerator(
    config: TrainConfig, output: Path, *, mixed_precision: str | None = None
) -> Accelerator:
    """The Accelerator of a run: its precision (default: as configured), processes and tracker.

    Raises ConfigError if the tracker is not installed, TrainingError for DeepSpeed, Megatron-LM and
    FSDP options that condiff is not tested with.
    """
    if config.tracker is not None and not TRACKERS[config.tracker]():
        raise ConfigError(
            f"tracker: {config.tracker} is not installed: pip install {config.tracker}"
        )
    for variable, name in REFUSED.items():
        if str_to_bool(os.environ.get(variable, "false")):
            raise TrainingError(
                f"condiff does not train with {name}: choose FSDP with fsdp_version: 2 in "
                "accelerate's configuration to share the weights among GPUs, or MULTI_GPU."
            )
    plugin = read_plugin()
    # It outlives an Accelerator: a second run of a program may have another precision.
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(
        mixed_precision=mixed_precision or config.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        log_with=config.tracker,
        project_dir=output,
        fsdp_plugin=plugin,
    )
    _check_processes(accelerator)
    if plugin is not None:
        shard_on_cpus(accelerator, plugin)
    return accelerator


def _check_processes(accelerator: Accelerator) -> None:
    """Raise TrainingError if a launcher's processes are not connected.

    Each would train the whole run in the same folder.
    """
    started = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if started > 1 and accelerator.num_processes == 1:
        raise TrainingError(
            f"{started} processes were started, and each would train alone: without GPUs set "
            "ACCELERATE_USE_CPU=true, or start one process."
        )


def read_plugin() -> FullyShardedDataParallelPlugin | None:
    """The FSDP plugin of accelerate's configuration; None if FSDP is not configured.

    Raises TrainingError for options that condiff is not tested with.
    """
    if not str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false")):
        return None
    plugin = FullyShardedDataParallelPlugin()
    if getattr(plugin, "fsdp_version", 1) != 2:
        raise TrainingError(
            "condiff shards only with FSDP 2: set fsdp_version: 2 in accelerate's configuration "
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
            "more processes make the shards smaller."
        )
    plugin.cpu_ram_efficient_loading = False  # every process builds the same weights
    return plugin


@contextmanager
def main_first(accelerator: Accelerator) -> Iterator[None]:
    """Run the block on the main process, then on the others; all of them must enter.

    A CondiffError of the main process is raised on all: the others would wait for it, and end with
    a traceback of the connection that it closed.
    """
    is_main = accelerator.is_main_process
    if not is_main:
        (error,) = broadcast_object_list([None])
        if error is not None:
            raise error
    try:
        yield
    except CondiffError as error:
        if is_main:
            broadcast_object_list([error])
        raise
    if is_main:
        broadcast_object_list([None])


def is_sharded(model: Denoiser) -> bool:
    """Whether each process has only a shard of the model's weights."""
    return any(isinstance(parameter, DTensor) for parameter in model.trainable())


def shard_on_cpus(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Turn FSDP on for several CPU processes, for which accelerate 1.15 ignores it."""
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        for state in (PartialState(), accelerator.state):  # the first updates the second
            state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin


def prepare(
    accelerator: Accelerator, model: Denoiser, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model to call and the optimizer to step; with FSDP, `model` is sharded in place.

    Every process keeps the whole backbone if it is frozen. Mixed precision uses autocast, as
    without FSDP: shards and sums are in single precision.
    """
    sharded = accelerator.distributed_type == DistributedType.FSDP
    if sharded:
        plugin = accelerator.state.fsdp_plugin
        plugin.mixed_precision_policy = None
        if not isinstance(model, Model):
            raise TrainingError(
                "A base is not sharded: choose MULTI_GPU in accelerate's configuration; --lora and "
                "gradient_checkpointing take less memory."
            )
        backbone = model.backbone
        if backbone is not None and not any(p.requires_grad for p in backbone.parameters()):
            plugin.ignored_modules = [backbone]
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    parallel, optimizer = accelerator.prepare(model, optimizer)
    if sharded and accelerator.mixed_precision != "no":
        autocast = accelerator.autocast()
        parallel.forward = convert_outputs_to_fp32(autocast(parallel.forward))
    return parallel, optimizer


def local_part(parameter: Tensor) -> Tensor:
    """This process's part of a parameter: a view, not a copy."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def shard_like(value: Tensor, parameter: Tensor) -> Tensor:
    """Shard a whole tensor like a parameter; each process has the whole and keeps its part."""
    if not isinstance(parameter, DTensor):
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def join_parts(part: Tensor, parameter: Tensor) -> Tensor:
    """The whole tensor from parts sharded like a parameter; all processes must call this."""
    if not isinstance(parameter, DTensor):
        return part
    mesh, placements = parameter.device_mesh, parameter.placements
    shape, stride = parameter.shape, parameter.stride()
    return gather(DTensor.from_local(part, mesh, placements, shape=shape, stride=stride))


def gather(value: Tensor) -> Tensor:
    """The whole tensor, gathered from all processes; all of them must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gather_model(model: Denoiser) -> Denoiser:
    """An unsharded copy of a sharded model; all processes must call this."""
    assert isinstance(model, Model)  # `prepare` shards only these
    weights = {name: gather(value) for name, value in model.state_dict().items()}

    def rebuild(part: Any) -> Any:
        return None if part is None else type(part).from_config(part.config)

    copy = freeze(Model(*map(rebuild, (model.encoder, model.unet, model.text_encoder))))
    copy.load_state_dict(weights)
    return copy.to(next(iter(weights.values())).device)
