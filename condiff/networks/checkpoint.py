"""Model folders: what is shared. A diffusers pipeline folder of safetensors, half precision.

model_index.json   task, noise process and objective, and which class each part is
unet/              a stock diffusers UNet2DModel
scheduler/         a stock diffusers DDPMScheduler
encoder/           condiff's ConditionEncoder, the frozen backbone included
config.yaml        how it was trained
README.md          the model card
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers import __version__ as diffusers_version

from condiff.config import DiffusionConfig
from condiff.diffusion import build_scheduler
from condiff.errors import ConfigError, ModelError
from condiff.networks.denoiser import Model, freeze
from condiff.networks.encoder import ConditionEncoder
from condiff.tasks import Task, find_task

EMBEDDED = Path(__file__).parents[1] / "weights"
INDEX = "model_index.json"


@dataclass(frozen=True)
class Loaded:
    """A model folder in memory."""

    folder: Path
    task: Task
    model: Model
    diffusion: DiffusionConfig
    condition_size: int = 256  # side of the condition in training


def save_model(
    folder: Path,
    model: Model,
    *,
    task: Task,
    diffusion: DiffusionConfig,
    dtype: torch.dtype,
    condition_size: int = 256,
) -> None:
    """Write the folder beside its place, then move it there: it is whole or absent.

    The model's own precision is left as it is.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, module in (("unet", model.unet), ("encoder", model.encoder)):
        copy = type(module).from_config(module.config)
        copy.load_state_dict(module.state_dict())
        copy.to(dtype).save_pretrained(part / name, safe_serialization=True)
        for file in (part / name).glob("*.safetensors"):
            file.chmod(0o644)  # safetensors makes its files private
    build_scheduler("ddpm", diffusion).save_pretrained(part / "scheduler")
    index = {
        "_class_name": "ConditionalDiffusionPipeline",
        "_diffusers_version": diffusers_version,
        "task": task.name,
        "condition_size": condition_size,
        "diffusion": diffusion.model_dump(mode="json"),
        "encoder": ["condiff.networks.encoder", "ConditionEncoder"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    (part / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def find_model(name: str | Path) -> Path:
    """The folder of an embedded model by its name, or the folder itself."""
    for folder in (Path(name), EMBEDDED / str(name)):
        if (folder / INDEX).is_file():
            return folder
    if Path(name).exists():
        raise ModelError(f"{name} is not a model folder: it has no {INDEX}.")
    known = ", ".join(sorted(p.parent.name for p in EMBEDDED.glob(f"*/{INDEX}"))) or "none"
    raise ModelError(f"There is no model {name}: give a folder, or an embedded one ({known}).")


def load_model(name: str | Path, *, device: str | torch.device = "cpu") -> Loaded:
    """The model in a folder, or an embedded one by name, in single precision, ready to sample."""
    folder = find_model(name)
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))
        task = find_task(index.get("task", ""))
        unet = UNet2DModel.from_pretrained(
            folder, subfolder="unet", use_safetensors=True, torch_dtype=torch.float32
        )
        encoder = _load_encoder(folder)
        scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    except (OSError, ValueError, KeyError, ConfigError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"The model folder {folder} cannot be loaded: {reason}") from error
    known = set(DiffusionConfig.model_fields)
    process = {**scheduler.config, **index.get("diffusion", {})}
    diffusion = DiffusionConfig(**{k: v for k, v in process.items() if k in known})
    model = freeze(Model(encoder, unet)).eval().to(device)
    return Loaded(folder, task, model, diffusion, int(index.get("condition_size", 256)))


def _load_encoder(folder: Path) -> ConditionEncoder:
    if not list((folder / "encoder").glob("*.safetensors")):  # a fold alone has no weights
        return ConditionEncoder.from_config(
            ConditionEncoder.load_config(folder, subfolder="encoder")
        )
    return ConditionEncoder.from_pretrained(
        folder, subfolder="encoder", use_safetensors=True, torch_dtype=torch.float32
    )
