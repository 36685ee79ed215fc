"""AdamW, with moments in single precision or in 8 bits; the backbone has a rate of its own."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from condiff.config import OptimizerConfig
from condiff.errors import ConfigError

SHARE = "share_of_rate"  # key of a parameter group: its learning rate, as a share of the run's


def build_optimizer(
    config: OptimizerConfig,
    weights: Iterable[nn.Parameter],
    *,
    backbone: Iterable[nn.Parameter] = (),
) -> Any:
    """The optimizer of a run; with `eight_bit` bitsandbytes' (Dettmers et al. 2021, 2110.02861).

    Parameters of `backbone` that are among `weights` train at `backbone_rate` times the learning
    rate. Raises ConfigError if bitsandbytes is not installed.
    """
    how: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    pretrained = set(backbone)
    own: dict[str, Any] = {"params": [], SHARE: 1.0}
    tuned: dict[str, Any] = {"params": [], SHARE: config.backbone_rate}
    for weight in weights:
        (tuned if weight in pretrained else own)["params"].append(weight)
    groups = [group for group in (own, tuned) if group["params"]]
    if not config.eight_bit:
        return torch.optim.AdamW(groups, **how, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            "optimizer.eight_bit needs bitsandbytes: pip install bitsandbytes, or set it to false."
        ) from error
    return AdamW8bit(groups, **how)


def set_rate(optimizer: Any, learning_rate: float) -> None:
    """Set the learning rate of the next step; a group's is its share of `learning_rate`."""
    for group in optimizer.param_groups:
        group["lr"] = group[SHARE] * learning_rate
