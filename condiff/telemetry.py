"""Imports of libraries that report their use to their makers, with these reports switched off.

condiff works offline, and whoever colours private photos does not expect a program to call home.
"""

import os
import sys
from types import ModuleType


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime, which since 1.29 sends events, and keeps an identifier in the home folder.

    Its switch is read when it is first imported in a process. On Windows it writes events for the
    system's tracing instead, which have a switch of their own.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def import_openvino() -> ModuleType:
    """OpenVINO, which sends an event when it is imported, unless openvino-telemetry is missing."""
    if "openvino" in sys.modules or "openvino_telemetry" in sys.modules:
        import openvino

        return openvino
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if not installed
    try:
        import openvino
    finally:
        del sys.modules["openvino_telemetry"]
    return openvino
