"""AdamW, with moments in single precision or in 8 bits."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from condiff.config import OptimizerConfig
from condiff.errors import ConfigError


def build_optimizer(config: OptimizerConfig, weights: Iterable[nn.Parameter]) -> Any:
    """The optimizer of a run; with `eight_bit` bitsandbytes' (Dettmers et al. 2021, 2110.02861).

    Raises ConfigError if bitsandbytes is not installed.
    """
    how: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if not config.eight_bit:
        return torch.optim.AdamW(weights, **how, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            "optimizer.eight_bit needs bitsandbytes: pip install bitsandbytes, or set it to false."
        ) from error
    return AdamW8bit(weights, **how)
