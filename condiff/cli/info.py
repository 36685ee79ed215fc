"""`condiff info`: show versions and devices, or describe a model."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from condiff import __version__
from condiff.cli import options

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
    told = describe_model(model) if model else describe_machine()
    if as_json:
        print(json.dumps(told, indent=2))
        return
    card = told.pop("card", None)
    for key, value in told.items():
        if isinstance(value, dict):
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
        "devices": ", ".join(devices),
        "engines": ", ".join(engines) or "none",
        "threads": threads,
        "models": ", ".join(available_models()) or "none",
    }


def describe_model(name: str) -> dict[str, object]:
    """Task, sizes, noise process and card of a model folder."""
    from condiff.backends.table import has_graphs
    from condiff.config import NATURAL
    from condiff.models.loading import load_model

    options.quiet_libraries()
    loaded = load_model(name)

    def millions(module: object) -> str:
        return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f} M parameters"  # type: ignore[attr-defined]

    looks = {n: loaded.find_look(n).model_dump() for n in (NATURAL, *loaded.looks)}
    size = sum(path.stat().st_size for path in loaded.path.rglob("*.safetensors"))
    card = loaded.path / "README.md"
    return {
        "folder": str(loaded.path),
        "task": loaded.task.name,
        "unet": millions(loaded.model.unet),
        "encoder": millions(loaded.model.encoder),
        "weights": f"{size / 1e6:.1f} MB",
        "graphs": "there" if has_graphs(loaded) else "none: see `condiff export`",
        "predicts": loaded.diffusion.prediction_type,
        "schedule": loaded.diffusion.beta_schedule,
        **({"looks": looks} if loaded.looks else {}),
        "card": Path(card).read_text("utf-8") if card.exists() else None,
    }


def _fields(row: dict[str, object]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in row.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
