"""The processes and devices of a run, through accelerate."""

from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    is_tensorboard_available,
    is_wandb_available,
)

from condiff.config import TrainConfig
from condiff.errors import ConfigError, TrainingError

TRACKERS = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}


def build_accelerator(config: TrainConfig, output: Path) -> Accelerator:
    """Precision, processes and tracker of a run; one copy of the model a device.

    Raises ConfigError where the tracker is not installed, TrainingError for sharded training.
    """
    if config.tracker is not None and not TRACKERS[config.tracker]():
        raise ConfigError(
            f"tracker: {config.tracker} is not installed: pip install {config.tracker}"
        )
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        log_with=config.tracker,
        project_dir=output,
    )
    kind = accelerator.distributed_type.value
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise TrainingError(
            f"condiff trains with one copy of the model a device, not with {kind}: "
            "choose MULTI_GPU in accelerate's configuration."
        )
    return accelerator
