"""The model card: content, training and use of a model folder."""

from pathlib import Path
from typing import Any

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
    licence: str | None = None,
) -> str:
    """README.md of a model folder, with the front matter that the Hugging Face Hub reads.

    `licence` is that of the base, if the run has one.
    """
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
        **_describe_base(config, licence),
        **_describe_backbone(config, task),
        **_describe_words(config),
        "parameters trained": f"{parameters / 1e6:.2f} M",
        "prediction type": diffusion.prediction_type,
        "noise schedule": diffusion.beta_schedule
        + (", zero terminal SNR" if diffusion.rescale_betas_zero_snr else ""),
        "trained on": data,
        "began from": f"the weights of {init or config.base.name}"
        if init or config.base.name
        else "random weights",
        "steps": f"{step} of {batch_size} images, {step * batch_size} in all",
        "time": f"{minutes:.1f} minutes on {device}",
        "loss at the end, smoothed": f"{loss:.4f}",
    }
    base = config.base.name
    shared: dict[str, Any] = {}
    if base is not None and not Path(base).exists():
        shared = {"base_model": base}
    front = ModelCardData(
        license=licence,
        **shared,
        library_name="diffusers",
        pipeline_tag="image-to-image" if task.picture else "unconditional-image-generation",
        tags=["condiff", "diffusion", task.name],
    )
    card = ModelCard.from_template(
        front, template_path=str(TEMPLATE), task=task, rows=rows, rank=config.base.lora_rank
    )
    return f"{card}\n"


def _describe_backbone(config: TrainConfig, task: Task) -> dict[str, str]:
    """The card's row for the backbone, and which part of it was trained."""
    variant = config.model.backbone_variant if task.condition_channels else None
    if variant is None or not config.optimizer.backbone_rate:
        return {"backbone (frozen)": variant or "none"}
    rate, stride = config.optimizer.backbone_rate, config.optimizer.backbone_stride
    trained = f"from stride {stride} on, at {rate:g} times the learning rate"
    return {"backbone": f"{variant}, trained {trained}"}


def _describe_words(config: TrainConfig) -> dict[str, str]:
    """The card's row for a model with its own text encoder."""
    if config.model.text_channels is None:
        return {}
    return {"words": f"a text encoder of {config.model.text_channels} channels, trained with it"}


def _describe_base(config: TrainConfig, licence: str | None) -> dict[str, str]:
    """The card's rows for a model on a base."""
    if config.base.name is None:
        return {}
    rank, drop = config.base.lora_rank, config.diffusion.cond_drop_prob
    return {
        "base": Path(config.base.name).name
        if Path(config.base.name).exists()
        else config.base.name,
        "licence of the base": licence or "not named in its folder: look it up",
        "trained part": "the U-Net" if rank is None else f"low-rank updates of rank {rank}",
        "dropped in training": f"words, picture and both, {100 * drop:g} % each",
    }
