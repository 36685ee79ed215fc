"""Saves and loads model folders: diffusers pipeline folders of half-precision safetensors.

model_index.json   task, noise process and objective, and the class of each part
unet/              a stock diffusers UNet2DModel
scheduler/         a stock diffusers DDPMScheduler
encoder/           condiff's ConditionEncoder, including the backbone
text_encoder/      condiff's TextEncoder, if the model takes text
*/model.onnx       graphs that point into the safetensors (`condiff export`), if there are any
config.yaml        the training settings
README.md          the model card
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers import __version__ as diffusers_version

from condiff.config import LOOKS, DiffusionConfig, Look, SamplingConfig
from condiff.diffusion.diffusers_schedulers import build_scheduler
from condiff.errors import ModelError, first_line
from condiff.files import replace_folder, write_text
from condiff.models.condition_encoder import ConditionEncoder
from condiff.models.denoiser import Model, freeze
from condiff.models.info import INDEX, TEXT_ENCODER, ModelInfo, read_model_info
from condiff.models.text_encoder import TextEncoder
from condiff.tasks import Task

CAME_FROM = "_name_or_path"  # diffusers' note of a path on the machine that trained


@dataclass(frozen=True, kw_only=True)
class LoadedModel(ModelInfo):
    """A model folder in memory."""

    model: Model


def save_model(
    folder: Path,
    model: Model,
    *,
    task: Task,
    diffusion: DiffusionConfig,
    dtype: torch.dtype,
    condition_size: int = 256,
    sampling: SamplingConfig | None = None,
    looks: Mapping[str, Look] = LOOKS,
    second_stage: str | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a model folder with weights in `dtype`, and `texts` by file name, atomically.

    The model in memory keeps its precision.
    """
    index = {
        "_class_name": "ConditionalDiffusionPipeline",
        "_diffusers_version": diffusers_version,
        "task": task.name,
        "condition_size": condition_size,
        "sampling": (sampling or SamplingConfig()).model_dump(mode="json"),
        **({"looks": dump_looks(looks)} if task.space.keeps_photo else {}),
        **({"second_stage": second_stage} if second_stage else {}),
        "diffusion": diffusion.model_dump(mode="json"),
        "encoder": ["condiff.models.condition_encoder", "ConditionEncoder"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    modules: dict[str, Any] = {"unet": model.unet, "encoder": model.encoder}
    if model.text_encoder is not None:
        index[TEXT_ENCODER] = ["condiff.models.text_encoder", "TextEncoder"]
        modules[TEXT_ENCODER] = model.text_encoder
    with whole_folder(folder, texts) as part:
        for name, module in modules.items():
            config = {key: value for key, value in module.config.items() if key != CAME_FROM}
            copy = type(module).from_config(config)
            copy.load_state_dict(module.state_dict())
            torch.nn.Module.to(copy, dtype)  # diffusers' own warns of modules kept in float32
            copy.save_pretrained(part / name, safe_serialization=True)
            for file in (part / name).glob("*.safetensors"):
                file.chmod(0o644)  # safetensors makes its files private
        build_scheduler("ddpm", diffusion).save_pretrained(part / "scheduler")
        (part / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


@contextmanager
def whole_folder(folder: Path, texts: Mapping[str, str] | None = None) -> Iterator[Path]:
    """A folder beside `folder` that replaces it at the end: the write is atomic.

    It contains only `texts`, by file name.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for name, text in (texts or {}).items():
            (part / name).write_text(text, "utf-8")
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # the disk may be full
        raise
    replace_folder(part, folder)


def dump_looks(looks: Mapping[str, Look]) -> dict[str, dict[str, float]]:
    """Looks in the form of a model folder's index."""
    return {name: look.model_dump(mode="json") for name, look in looks.items()}


def add_looks(folder: Path) -> None:
    """Write the built-in looks into the index of a colorizer's folder that has none."""
    index = json.loads((folder / INDEX).read_text("utf-8"))
    looks = read_model_info(folder).looks
    if "looks" in index or not looks:
        return
    added = json.dumps(index | {"looks": dump_looks(looks)}, indent=2)
    write_text(folder / INDEX, added + "\n")


def load_model(name: str | Path, *, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a model folder, or an embedded model by name, in single precision, ready to sample.

    Raises ModelError if it cannot be loaded.
    """
    info = read_model_info(name)
    if info.task.space.is_latent:
        raise ModelError(
            f"The model folder {info.path} is on a Stable Diffusion base: `Pipeline` runs it, and "
            "training starts from it with --base."
        )
    try:
        unet = UNet2DModel.from_pretrained(
            info.path, subfolder="unet", use_safetensors=True, torch_dtype=torch.float32
        )
        encoder = _load_encoder(info.path)
        text_encoder = _load_text_encoder(info.path) if info.task.takes_text else None
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"The model folder {info.path} cannot be loaded: {first_line(error)}."
        ) from error
    model = freeze(Model(encoder, unet, text_encoder)).eval().to(device)
    known = {field.name: getattr(info, field.name) for field in fields(info)}
    return LoadedModel(**known, model=model)


def _load_encoder(folder: Path) -> ConditionEncoder:
    if not list(
        (folder / "encoder").glob("*.safetensors")
    ):  # an encoder that only folds has no weights
        return ConditionEncoder.from_config(
            ConditionEncoder.load_config(folder, subfolder="encoder")
        )
    return ConditionEncoder.from_pretrained(
        folder, subfolder="encoder", use_safetensors=True, torch_dtype=torch.float32
    )


def _load_text_encoder(folder: Path) -> TextEncoder:
    return TextEncoder.from_pretrained(
        folder, subfolder=TEXT_ENCODER, use_safetensors=True, torch_dtype=torch.float32
    )
