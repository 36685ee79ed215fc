"""The processes and devices of a run, through accelerate."""

import os
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    is_tensorboard_available,
    is_wandb_available,
    str_to_bool,
)

from condiff.config import TrainConfig
from condiff.errors import ConfigError, TrainingError
from condiff.training.sharding import read_plugin, shard_on_cpus

TRACKERS = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}

REFUSED = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}


def build_accelerator(config: TrainConfig, output: Path) -> Accelerator:
    """The Accelerator of a run: its precision, processes, sharding and tracker.

    Raises ConfigError where the tracker is not installed, TrainingError for DeepSpeed, Megatron-LM
    and options of FSDP that condiff has not been tried with.
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
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        log_with=config.tracker,
        project_dir=output,
        fsdp_plugin=plugin,
    )
    if plugin is not None:
        shard_on_cpus(accelerator, plugin)
    return accelerator
