"""`condiff info`: show versions and devices, or describe a model."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condiff._version import __version__
from condiff.cli import options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from condiff.models.info import ModelInfo
    from condiff.tasks import Task

PARTS = ("unet", "encoder", "vae", "text_encoder")  # of a model folder
PACKAGES = (
    "torch",
    "diffusers",
    "accelerate",
    "opencv-python-headless",
    "pillow",
    "numpy",
    "onnxruntime",
    "openvino",
)


def info(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Describe this model folder, or embedded model."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show versions and devices, or describe a model."""
    description = describe_model(model) if model else describe_machine()
    if as_json:
        print(json.dumps(description))
        return
    card = description.pop("card", None)
    for key, value in description.items():
        if isinstance(value, list):
            value = ", ".join(value) or "none"
        elif isinstance(value, dict):
            value = "; ".join(f"{name} ({_fields(row)})" for name, row in value.items())
        print(f"{key:<12} {value}")
    if card:
        print(f"\n{card}")


def describe_machine() -> dict[str, object]:
    """Versions, devices, engines and embedded models: what a bug report needs."""
    from condiff.backends.table import list_engines
    from condiff.models.info import available_models

    engines = list_engines()
    devices, threads = ["cpu"], 0
    if "torch" in engines:
        import torch

        devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        devices += ["mps"] if torch.backends.mps.is_available() else []
        threads = torch.get_num_threads()
    return {
        "condiff": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in PACKAGES},
        "devices": devices,
        "engines": engines,
        "threads": threads,
        "models": available_models(),
    }


def describe_model(name: str) -> dict[str, object]:
    """Task, sizes, noise process and card of a model folder."""
    from condiff.config import NATURAL
    from condiff.models.info import read_model_info

    options.quiet_libraries()
    loaded = read_model_info(name)
    looks = {n: loaded.find_look(n).model_dump() for n in (NATURAL, *loaded.looks)}
    size = sum(path.stat().st_size for path in loaded.path.rglob("*.safetensors"))
    card = loaded.path / "README.md"
    return {
        "folder": str(loaded.path),
        "task": loaded.task.name,
        "takes": _takes(loaded.task),
        **{part: _millions(loaded.path / part) for part in PARTS if (loaded.path / part).is_dir()},
        **{key: value for key, value in _base(loaded.base).items() if value},
        "weights": f"{size / 1e6:.1f} MB",
        "graphs": _graphs(loaded),
        "predicts": loaded.diffusion.prediction_type,
        "schedule": loaded.diffusion.beta_schedule,
        **({"looks": looks} if loaded.looks else {}),
        "card": card.read_text("utf-8", "replace") if card.exists() else None,
    }


def _graphs(loaded: "ModelInfo") -> str:
    """Whether the model has graphs, or can have some."""
    from condiff.backends.table import has_graphs

    if loaded.task.space.is_latent:
        return "none: only torch runs a model on a base"
    return "present" if has_graphs(loaded) else "none: see `condiff export`"


def _takes(task: "Task") -> str:
    """What a user gives: a photo, a drawing …, and words."""
    words = ["words"] if task.takes_text else []
    return ", ".join([*([task.picture.what] if task.picture else []), *words]) or "nothing"


def _base(base: "Mapping[str, object]") -> dict[str, object]:
    """The base that a model was trained on, and its licence."""
    return {"base": base.get("name"), "licence": base.get("licence")}


def _millions(folder: Path) -> str:
    """The number of parameters in a part's safetensors, read from their headers.

    Raises ModelError for a file that is damaged or cut short.
    """
    from math import prod

    from safetensors import SafetensorError, safe_open

    from condiff.errors import ModelError

    total = 0
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, framework="numpy") as weights:
                total += sum(prod(weights.get_slice(k).get_shape()) for k in weights.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(
                f"The weights {file} are damaged or cut short: copy the model folder again."
            ) from error
    return f"{total / 1e6:.1f} M parameters"


def _fields(row: dict[str, object]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in row.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
