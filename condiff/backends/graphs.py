"""The graphs of a model folder, run by ONNX Runtime or OpenVINO on a processor, without torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condiff.errors import DependencyError, first_line
from condiff.openvino_core import compile_for_cpu, openvino_core
from condiff.telemetry import import_onnxruntime
from condiff.threads import map_in_threads
from condiff.words import NO_WORDS, WithWords, Words, tokenize, with_words

Array = NDArray[Any]  # float32
# Inputs of a graph by name, and names of outputs -> these outputs.
Run = Callable[[dict[str, Array], list[str]], list[Array]]


@dataclass(frozen=True)
class GraphBackend:
    """A Backend that runs the graphs of a model folder in NumPy, by any library."""

    name: str
    encoder: Run | None  # None: the model is unconditional
    unet: Run
    hint_channels: int
    text_encoder: Run | None = None  # None: the model takes no words
    text_buckets: int = 1
    device: str = "cpu"

    def to_device(self, array: Array) -> Array:
        """The array itself."""
        return array

    def to_numpy(self, array: Array) -> Array:
        """The array itself."""
        return array

    def encode(
        self,
        condition: Array,
        hints: Array | None,
        size: tuple[int, int],
        *,
        guided: bool,
        words: Words = NO_WORDS,
    ) -> tuple[Any, ...]:
        """See Backend."""
        conds = self._encode(condition, hints, size, guided=guided)
        if self.text_encoder is None:
            return conds
        return with_words(conds, *(self._embed(text) for text in words))

    def _encode(
        self, condition: Array, hints: Array | None, size: tuple[int, int], *, guided: bool
    ) -> tuple[Array, Array | None]:
        """cond and null_cond of the picture alone."""
        if self.encoder is None:
            nothing = np.zeros((len(condition), 0, *size), np.float32)
            return nothing, nothing if guided else None
        inputs = {"condition": condition}
        if self.hint_channels:
            none = np.zeros((len(condition), self.hint_channels, *size), np.float32)
            inputs["hints"] = none if hints is None else hints
        if not guided:
            return self.encoder(inputs, ["cond"])[0], None
        cond, null_cond = self.encoder(inputs, ["cond", "null_cond"])
        return cond, null_cond

    def _embed(self, text: str) -> Array:
        assert self.text_encoder is not None
        tokens = tokenize([text], buckets=self.text_buckets)
        return self.text_encoder({"tokens": tokens}, ["words"])[0]

    def predict(self, x_t: Array, t: float, cond: Array | WithWords) -> Array:
        """See Backend."""
        inputs = {"x_t": x_t, "t": np.array([t], np.float32)}
        picture: Any = cond
        if isinstance(cond, WithWords):
            picture, inputs["words"] = cond
        if self.encoder is not None:
            inputs["cond"] = picture
        (output,) = self.unet(inputs, ["model_output"])
        return output

    def predict_each(self, x_t: Array, t: float, conds: Sequence[Any]) -> list[Array]:
        """See Backend; the outputs are computed in threads."""
        return map_in_threads(lambda cond: self.predict(x_t, t, cond), conds)

    def decode(self, x_0: Array) -> Array:
        """x_0 itself."""
        return x_0


def open_onnx(path: Path, threads: int) -> Run:
    """Open a graph with ONNX Runtime; ValueError if it is not a usable graph."""
    try:
        onnxruntime = import_onnxruntime()
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise DependencyError(
            f"ONNX Runtime cannot be loaded ({first_line(error)}): install it anew; on Windows "
            "Microsoft's Visual C++ Redistributable as well, which it needs."
        ) from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # log nothing: failures are raised
    options.enable_cpu_mem_arena = False  # the arena keeps the memory of one large photo
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf) as error:
        raise ValueError(str(error)) from error
    except state.RuntimeException as error:
        if "alloc" in str(error):
            raise MemoryError from error
        raise

    def run(inputs: dict[str, Array], names: list[str]) -> list[Array]:
        try:
            outputs = session.run(names, inputs)
        except (state.Fail, state.RuntimeException) as error:
            if "alloc" in str(error):  # bad allocation; Failed to allocate memory
                raise MemoryError from error
            raise
        return [np.asarray(output) for output in outputs]

    return run


def open_openvino(path: Path, threads: int) -> Run:
    """Open a graph with OpenVINO."""
    compiled = compile_for_cpu(openvino_core().read_model(path), threads=threads)

    def run(inputs: dict[str, Array], names: list[str]) -> list[Array]:
        request = compiled.create_infer_request()  # one per call, since several threads may call
        outputs = request.infer(inputs)
        return [np.array(outputs[compiled.output(name)]) for name in names]

    return run
