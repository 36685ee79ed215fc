"""OpenVINO's only Core of this process, and the settings that all of its networks share."""

from functools import cache
from importlib.util import find_spec
from typing import Any

from condiff.telemetry import import_openvino


def has_openvino() -> bool:
    """Whether the package openvino is installed; it is not imported."""
    return find_spec("openvino") is not None


@cache
def openvino_core() -> Any:
    """The Core.

    Its CPU plugin (2026.4) registers a stack for signal handlers on the thread that compiles. When
    two Cores are freed one after the other, a freed stack stays registered. The next signal with a
    handler, such as SIGCHLD in a process with data loaders, then ends the process.
    """
    return import_openvino().Core()


def compile_for_cpu(network: Any, *, threads: int) -> Any:
    """A network compiled for the processor, in single precision."""
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,  # else all processes' threads share the first cores
    }
    return openvino_core().compile_model(network, "CPU", settings)
