"""The frozen backbone compiled by OpenVINO: on a CPU it takes a third of torch's time."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from condiff.models.backbone import EfficientNetLite
from condiff.openvino_core import compile_for_cpu


class CompiledBackbone:
    """Replaces the backbone on a CPU, without gradients; compiled once for each H and W.

    The maps differ from torch's by rounding, about 1e-5 of their largest value.
    """

    def __init__(self, backbone: EfficientNetLite):
        self.backbone, self.strides = backbone, sorted(backbone.feature_channels)
        self._compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, x: Tensor) -> dict[int, Tensor]:
        """Maps {stride: (B,C,H/stride,W/stride)} of pictures (B,3,H,W) in [0,1]."""
        shape = tuple(x.shape[1:])
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(shape)
        found = self._compiled[shape](np.ascontiguousarray(x.detach().float().numpy()))
        return {s: torch.from_numpy(found[n].copy()) for n, s in enumerate(self.strides)}

    @torch.no_grad()
    def _compile(self, shape: tuple[int, ...]) -> Any:
        import openvino

        # OpenVINO cannot convert autocast's operations.
        with warnings.catch_warnings(), torch.autocast("cpu", enabled=False):
            warnings.simplefilter("ignore")  # torch's, that tracing is deprecated
            network = openvino.convert_model(
                _InOrder(self.backbone, self.strides), example_input=torch.zeros(2, *shape)
            )
        network.reshape([-1, *shape])
        return compile_for_cpu(network, threads=torch.get_num_threads())


class _InOrder(nn.Module):
    """The backbone with a tuple of maps as its output, which a conversion needs."""

    def __init__(self, backbone: EfficientNetLite, strides: list[int]):
        super().__init__()
        self.backbone, self.strides = backbone, strides

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(x)
        return tuple(maps[stride] for stride in self.strides)
