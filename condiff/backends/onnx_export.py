"""ONNX graphs of a model folder, which use the weights in its safetensors files.

A safetensors file is raw numbers at known offsets after a JSON header, and an ONNX initializer may
refer to numbers at an offset of another file: so the graphs point into the weights. Half precision
is cast to single in the graph, once, when it is opened.
"""

import io
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from condiff.backends.table import GRAPH, Backend, build_engine, list_engines, parts_of
from condiff.backends.torch_backend import TorchBackend, encode_both
from condiff.errors import DependencyError, ModelError, StorageError
from condiff.files import publish
from condiff.models.condition_encoder import ConditionEncoder, from_patches, to_patches
from condiff.models.denoiser import Model
from condiff.models.info import TEXT_ENCODER, read_model_info
from condiff.models.loading import LoadedModel, add_looks, load_model
from condiff.models.text_encoder import TextEncoder
from condiff.words import WithWords

OPSET = 17
WEIGHTS = "diffusion_pytorch_model.safetensors"
CALL_TOLERANCE = 1e-3  # largest difference of any number in one output, in x_0's units
CHECK_TIMESTEPS = (0.0, 600.0)
CHECK_WORDS = ("a red house, blue roof", "yellow")
PLANE = {0: "batch", 2: "height", 3: "width"}  # axes of any length
AXES = {"tokens": {0: "batch", 1: "length"}, "words": {0: "batch"}}  # of inputs that are not planes
CHECK_SIZES = ((1, 2), (2, 1))  # height and width of the condition, in strides


class Difference(NamedTuple):
    """The largest differences of an engine's outputs from torch's; the condition has `size`."""

    engine: str
    size: tuple[int, int]
    encoder: float
    unet: float


class _Encoder(nn.Module):
    """The exported encoder, which computes x_t's size from the condition's."""

    def __init__(self, encoder: ConditionEncoder, cell: int):
        super().__init__()
        self.encoder, self.cell = encoder, cell

    def forward(self, condition: Tensor, hints: Tensor | None = None) -> tuple[Tensor, Tensor]:
        height, width = condition.shape[-2:]
        size = (height // self.cell, width // self.cell)
        return encode_both(self.encoder, condition, hints=hints, size=size)


class _Unet(nn.Module):
    def __init__(self, model: Model):
        super().__init__()
        self.unet, self.patch_size = model.unet, model.patch_size

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Tensor | None = None, words: Tensor | None = None
    ) -> Tensor:
        patches = to_patches(x_t, self.patch_size)
        joined = patches if cond is None else torch.cat([patches, cond], dim=1)
        output = self.unet(joined, t, class_labels=words).sample
        return from_patches(output, self.patch_size)


class _Text(nn.Module):
    def __init__(self, text_encoder: TextEncoder):
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, tokens: Tensor) -> Tensor:
        return self.text_encoder(tokens)


def write_graphs(name: str | Path, out: Path | None = None) -> Path:
    """Write graphs into a model folder, or into a copy of it at `out`; return that folder.

    A colorizer's index gets the built-in looks where it has none.

    Raises DependencyError where onnx is missing, StorageError where `out` exists or cannot be
    written.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise DependencyError.of("Writing graphs needs the package onnx", extra="export") from error
    loaded = load_model(name)
    folder = loaded.path
    if out is not None and out.resolve() != folder.resolve():
        if out.exists():
            raise StorageError(f"{out} already exists: give a new folder.")
        folder = out.with_name(f".{out.name}.part")
    try:
        if folder != loaded.path:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(loaded.path, folder)
        for part in parts_of(loaded):
            _write_graph(loaded, part, folder / part)
        add_looks(folder)
        return folder if out is None or folder == loaded.path else folder.rename(out)
    except OSError as error:
        if folder != loaded.path:
            shutil.rmtree(folder, ignore_errors=True)
        faults = error.args[0] if isinstance(error, shutil.Error) else None  # of several files
        reason = faults[0][2] if faults else error.strerror or error
        raise StorageError(
            f"Cannot write graphs into {out or folder}: {reason}. Give another folder to write to."
        ) from error


def compare_engines(folder: Path, engines: list[str] | None = None) -> list[Difference]:
    """Compare engines on the folder's graphs with torch, on random inputs of two sizes.

    Raises ModelError where an output differs by more than CALL_TOLERANCE.
    """
    index = read_model_info(folder)
    reference = TorchBackend(load_model(folder).model)
    names = [n for n in engines or list_engines() if n != "torch"]
    found = []
    for name in names:
        engine = build_engine(index, name, device="cpu", threads=1)
        for strides in CHECK_SIZES:
            height, width = (index.stride * max(1, 64 // index.stride) * n for n in strides)
            size = (height // index.cell, width // index.cell)
            rng = np.random.default_rng(0)
            shape = (1, index.task.condition_channels, height, width)
            condition = rng.uniform(-1, 1, shape).astype(np.float32)
            hints = None
            if index.hint_channels:
                hints = rng.uniform(-1, 1, (1, index.hint_channels, *size)).astype(np.float32)
            x_t = rng.standard_normal((1, index.task.space.channels, *size)).astype(np.float32)
            outputs = [_run(each, condition, hints, x_t, size) for each in (reference, engine)]
            gaps = [_gap(ours, its) for ours, its in zip(*outputs, strict=True)]
            unet = max(gaps[-len(CHECK_TIMESTEPS) :])
            encoder = max(gaps[: -len(CHECK_TIMESTEPS)])
            found.append(Difference(name, (height, width), encoder, unet))
            if not max(encoder, unet) <= CALL_TOLERANCE:
                raise ModelError(
                    f"The graphs in {folder} differ from torch by {max(encoder, unet):.2g} in "
                    f"{name}, more than {CALL_TOLERANCE:g}: use --engine torch."
                )
    return found


def _run(
    backend: Backend,
    condition: np.ndarray,
    hints: np.ndarray | None,
    x_t: np.ndarray,
    size: tuple[int, int],
) -> list[np.ndarray]:
    """The encoded condition, and the model output at two timesteps, one clean and one noisy."""
    move = backend.to_device
    shown = None if hints is None else move(hints)
    conds = backend.encode(move(condition), shown, size, guided=True, words=CHECK_WORDS)
    outputs = [backend.predict(move(x_t), t, conds[0]) for t in CHECK_TIMESTEPS]
    encoded = [p for cond in conds for p in (cond if isinstance(cond, WithWords) else [cond])]
    return [backend.to_numpy(array) for array in (*encoded, *outputs)]


def _gap(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max(initial=0))


def _write_graph(loaded: LoadedModel, part: str, folder: Path) -> None:
    """Write the graph of one part beside its weights."""
    import onnx

    task, side = loaded.task, loaded.stride * 2
    cells = side // loaded.cell
    hints = torch.zeros(1, loaded.hint_channels, cells, cells)
    inputs: dict[str, Tensor]
    module: nn.Module
    if part == "encoder":
        module = _Encoder(loaded.model.encoder, loaded.cell)
        inputs = {"condition": torch.zeros(1, task.condition_channels, side, side)}
        inputs |= {"hints": hints} if loaded.hint_channels else {}
        outputs = ["cond", "null_cond"]
    elif part == TEXT_ENCODER:
        assert loaded.model.text_encoder is not None
        module = _Text(loaded.model.text_encoder)
        inputs = {"tokens": loaded.model.tokenize(["two words"])}
        outputs = ["words"]
    else:
        module = _Unet(loaded.model)
        inputs = {"x_t": torch.zeros(1, task.space.channels, cells, cells), "t": torch.zeros(1)}
        if task.condition_channels:
            encoder = loaded.model.encoder
            grid = cells // encoder.patch_size
            inputs["cond"] = torch.zeros(1, encoder.out_channels, grid, grid)
        if loaded.model.text_encoder is not None:
            inputs["words"] = torch.zeros(1, loaded.model.text_encoder.config["out_channels"])
        outputs = ["model_output"]
    axes = {name: AXES.get(name, PLANE) for name in [*inputs, *outputs] if name != "t"}
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # from tracing, and about this exporter's age
        warnings.simplefilter("ignore")
        # The tracing exporter: the newer one needs another package and at least twice the time.
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type]
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            do_constant_folding=False,  # so that weights keep their names
            dynamo=False,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    if (folder / WEIGHTS).is_file():
        _point_into(graph.graph, folder / WEIGHTS)
    with publish(folder / GRAPH, force=True) as file:
        file.write(graph.SerializeToString(deterministic=True))


def _point_into(graph: Any, weights: Path) -> None:
    """Make every initializer that is in the safetensors file refer to that file."""
    import onnx

    kinds = {"F16": onnx.TensorProto.FLOAT16, "F32": onnx.TensorProto.FLOAT}
    stored = {name: found for name, *found in read_offsets(weights)}
    casts = []
    for tensor in graph.initializer:
        name = tensor.name.split(".", 1)[-1]  # unet.conv_in.weight -> conv_in.weight
        if name not in stored:
            continue
        kind, shape, offset, length = stored[name]
        if list(tensor.dims) != shape or kind not in kinds:
            raise ModelError(f"{weights} has {name} as {kind} {shape}, which no graph can use.")
        own_name = tensor.name
        tensor.Clear()
        tensor.name, tensor.data_type = own_name, kinds[kind]
        tensor.dims.extend(shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", weights.name), ("offset", offset), ("length", length)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        if kind == "F16":
            tensor.name = f"{own_name}.half"
            cast = onnx.helper.make_node(
                "Cast", [tensor.name], [own_name], to=onnx.TensorProto.FLOAT
            )
            casts.append(cast)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def read_offsets(weights: Path) -> Iterator[tuple[str, str, list[int], int, int]]:
    """(name, dtype, shape, offset, length) of every tensor in a safetensors file."""
    with open(weights, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    for name, tensor in header.items():
        if name != "__metadata__":
            start, end = tensor["data_offsets"]
            yield name, tensor["dtype"], tensor["shape"], 8 + size + start, end - start
