"""The model card: what a model folder is, how it was made, and how it is used."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from condiff.config import TrainConfig
from condiff.tasks import Task

TEMPLATE = Path(__file__).with_name("model_card_template.md")


def make_card(
    config: TrainConfig,
    task: Task,
    *,
    data: str,
    parameters: int,
    step: int,
    batch_size: int,
    minutes: float,
    device: str,
    loss: float,
    init: str | None,
) -> str:
    """README.md of a model folder, with the front matter that the Hugging Face Hub reads."""
    diffusion, model = config.diffusion, config.model
    patches = f", in patches of {model.patch_size}²" if model.patch_size > 1 else ""
    size = task.condition_size(config)
    rows = {
        "task": task.name,
        "x_0": f"{task.space.channels} channels at {model.sample_size}² ({task.space.name})"
        + patches,
        "condition": f"{task.condition_channels} channels at {size}²"
        if task.condition_channels
        else "none",
        "backbone (frozen)": (model.backbone_variant if task.condition_channels else None)
        or "none",
        "parameters trained": f"{parameters / 1e6:.2f} M",
        "prediction type": diffusion.prediction_type,
        "noise schedule": diffusion.beta_schedule
        + (", zero terminal SNR" if diffusion.rescale_betas_zero_snr else ""),
        "trained on": data,
        "began from": f"the weights of {init}" if init else "random weights",
        "steps": f"{step} of {batch_size} images, {step * batch_size} in all",
        "time": f"{minutes:.1f} minutes on {device}",
        "loss at the end, smoothed": f"{loss:.4f}",
    }
    front = ModelCardData(
        library_name="diffusers",
        pipeline_tag="image-to-image" if task.picture else "unconditional-image-generation",
        tags=["condiff", "diffusion", task.name],
    )
    card = ModelCard.from_template(front, template_path=str(TEMPLATE), task=task, rows=rows)
    return f"{card}\n"
