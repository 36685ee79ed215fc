"""Engines run a model: torch on any device; ONNX Runtime or OpenVINO on a processor.

torch      the model folder's safetensors
onnx       encoder/model.onnx and unet/model.onnx beside them, by `condiff export`
openvino   the same graphs

ONNX Runtime and OpenVINO work without torch.
"""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from condiff.backends.graphs import GraphBackend, Run, open_onnx, open_openvino
from condiff.checks import as_int_within, check_kind
from condiff.errors import ConfigError, ModelError, first_line, install_command
from condiff.models.info import TEXT_ENCODER, ModelInfo
from condiff.words import NO_WORDS, Words

Array = Any  # float32, of NumPy or torch

GRAPH = "model.onnx"
PARTS = ("encoder", "unet")


class Backend(Protocol):
    """Runs a model; several threads may call it at once, but only one on Apple's GPU.

    Arrays are float32, of NumPy or of torch on `device`: they stay there for the whole loop of
    sampling, and only `to_device` and `to_numpy` move them.
    """

    @property
    def name(self) -> str:
        """Its name in the table ENGINES."""
        ...

    @property
    def device(self) -> str:
        """Where it runs: cpu, cuda, cuda:1 or mps."""
        ...

    def to_device(self, array: NDArray[Any]) -> Array:
        """A NumPy array as the backend's kind."""
        ...

    def to_numpy(self, array: Array) -> NDArray[Any]:
        """The inverse of `to_device`."""
        ...

    def encode(
        self,
        condition: Array,
        hints: Array | None,
        size: tuple[int, int],
        *,
        guided: bool,
        words: Words = NO_WORDS,
    ) -> tuple[Array | None, ...]:
        """cond and null_cond (B,K,*size) of a condition (B,N,H,W) in [-1,1].

        Without `guided` null_cond is None. hints are (B,3,*size); null_cond is the condition that
        guidance leads away from. A model that takes words returns three if `guided`, of the
        backend's own kind: for the picture and the prompt, for the picture and the negative
        prompt, and for the negative prompt alone.
        """
        ...

    def predict(self, x_t: Array, t: float, cond: Array) -> Array:
        """The model output (B,C,h,w) for x_t (B,C,h,w) and a condition already encoded."""
        ...

    def predict_each(self, x_t: Array, t: float, conds: Sequence[Array]) -> list[Array]:
        """The outputs for several conditions, each the same as that of `predict`."""
        ...

    def decode(self, x_0: Array) -> Array:
        """x_0 (B,C,h,w) itself; for latents, the picture (B,3,H,W) that they stand for."""
        ...


@dataclass(frozen=True)
class Row:
    """A row of the table ENGINES: its package, how to install it, how it opens a graph."""

    package: str
    install: str
    open_graph: Callable[[Path, int], Run] | None  # (path, threads); None: torch, no graph


ENGINES = {
    "torch": Row("torch", "pip install torch diffusers", None),
    "onnx": Row("onnxruntime", "pip install onnxruntime", open_onnx),
    "openvino": Row("openvino", install_command("openvino"), open_openvino),
}


def list_engines() -> list[str]:
    """The engines whose packages are installed."""
    return [name for name, row in ENGINES.items() if find_spec(row.package)]


def has_graphs(folder: ModelInfo) -> bool:
    """Whether all graphs of the model exist."""
    return all((folder.path / part / GRAPH).is_file() for part in parts_of(folder))


def parts_of(folder: ModelInfo) -> tuple[str, ...]:
    """The parts of a model that have a graph; an unconditional model has no encoder graph."""
    parts = PARTS if folder.task.condition_channels else PARTS[1:]
    return parts if folder.text_buckets is None else (*parts, TEXT_ENCODER)


def choose_engine(folder: ModelInfo, engine: str, device: str) -> str:
    """The name of the engine to use; `auto` is onnx on a processor if it can run, else torch.

    Raises ConfigError where the engine cannot run here, ModelError where the graphs are missing.
    """
    if engine == "auto":
        ready = device == "cpu" and has_graphs(folder) and find_spec("onnxruntime")
        return "onnx" if ready else "torch"
    if engine not in ENGINES:
        raise ConfigError(f"There is no engine {engine!r}: choose from auto, {', '.join(ENGINES)}.")
    row = ENGINES[engine]
    if not find_spec(row.package):
        raise ConfigError(f"The engine {engine} needs a package that is missing: {row.install}")
    if row.open_graph is None:
        return engine
    if folder.task.space.is_latent:
        raise ConfigError(
            f"The model {folder.name} is on a Stable Diffusion base, which torch alone runs: "
            "leave --engine out."
        )
    if device != "cpu":
        raise ConfigError(f"The engine {engine} runs on cpu, not {device}: use --engine torch.")
    if not has_graphs(folder):
        raise ModelError(
            f"The model folder {folder.path} has no graphs for {engine}: write them with "
            f"`condiff export {folder.path}`, or use --engine torch."
        )
    return engine


def build_engine(folder: ModelInfo, engine: str, *, device: str, threads: int) -> Backend:
    """Load a model into the engine that `choose_engine` named.

    Raises ModelError where it cannot be loaded, ConfigError for less than 1 or more than 1024
    threads.
    """
    threads = as_int_within("threads", threads, 1, 256)
    open_graph = ENGINES[engine].open_graph
    if open_graph is None:
        from condiff.backends.torch_backend import TorchBackend
        from condiff.models.loading import load_model

        if folder.task.space.is_latent:
            from condiff.backends.latent_backend import LatentBackend
            from condiff.models.base import require_packages
            from condiff.models.latent import load_latent_model

            require_packages()
            model, frozen = load_latent_model(folder, device=device)
            frozen.load()  # now, since several threads may ask for it later
            return LatentBackend(model, frozen, folder.task, device, threads)
        return TorchBackend(load_model(folder.path, device=device).model, device, threads)
    try:
        # One after the other: both at once save 0.1 s and take 55 MB more.
        runs = {part: open_graph(folder.path / part / GRAPH, threads) for part in parts_of(folder)}
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(
            f"The graphs in {folder.path} cannot be opened by {engine}: {first_line(error)}; write "
            f"them again with `condiff export {folder.path}`."
        ) from error
    return GraphBackend(
        engine,
        runs.get("encoder"),
        runs["unet"],
        folder.hint_channels,
        runs.get(TEXT_ENCODER),
        folder.text_buckets or 1,
    )


def find_device(name: str, *, engine: str = "auto") -> str:
    """The device of that name; `auto` is the best one here that the engine can use.

    torch is imported only if the result may differ from cpu. Raises ConfigError for a device that
    is not available.
    """
    check_kind("device", name, str)
    if name == "auto" and engine in ENGINES and engine != "torch":
        return "cpu"
    if name == "cpu" or (name == "auto" and not (may_have_gpu() and find_spec("torch"))):
        return "cpu"
    if not find_spec("torch"):
        raise ConfigError(f"The device {name} needs torch: {ENGINES['torch'].install}")
    from condiff.backends.torch_backend import find_torch_device

    return str(find_torch_device(name))


def may_have_gpu() -> bool:
    """Whether there seems to be a driver for a GPU that torch could use: a quick check."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if sys.platform == "win32":
        system = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32"
        return (system / "nvcuda.dll").exists()
    return any(Path(f"/dev/{node}").exists() for node in ("nvidiactl", "kfd", "dxg", "nvhost-gpu"))
