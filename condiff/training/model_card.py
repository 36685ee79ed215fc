"""The model card: what a model folder is, how it was made, and how it is used."""

from condiff.config import TrainConfig
from condiff.tasks import Task

USES = {
    "chroma": """```
condiff colorize photo.jpg --model FOLDER
```
```python
from condiff import Pipeline
Pipeline.from_pretrained("FOLDER")(image)[0].save("photo.color.jpg")
```""",
    "rgb": """```
condiff render sketch.png --model FOLDER
```
```python
from condiff import Pipeline
Pipeline.from_pretrained("FOLDER")(image, samples=4)
```""",
    "none": """```
condiff render --model FOLDER --samples 4
```
```python
from condiff import Pipeline
Pipeline.from_pretrained("FOLDER")(samples=4)
```""",
    "upscale": """```
condiff render sketch.png --size 512 --upscale FOLDER
```
```python
from condiff.pipelines.cascade import Upscaler

Upscaler.from_pretrained("FOLDER")(picture, drawing, size=512, seed=0)
```""",
}


def _use(task: Task) -> str:
    """How a model of the task is used, in Markdown."""
    if task.enlarges:
        return USES["upscale"]
    if task.picture is None:
        return USES["none"]
    return USES[task.space.name]


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
    use = _use(task)
    began = f"the weights of {init}" if init else "random weights"
    rows = {
        "task": task.name,
        "x_0": f"{task.space.channels} channels at {model.sample_size}² ({task.space.name})"
        + (f", in patches of {model.patch_size}²" if model.patch_size > 1 else ""),
        "condition": f"{task.condition_channels} channels at {task.condition_size(config)}²"
        if task.condition_channels
        else "none",
        "backbone (frozen)": (model.backbone_variant if task.condition_channels else None)
        or "none",
        "parameters trained": f"{parameters / 1e6:.2f} M",
        "prediction type": diffusion.prediction_type,
        "noise schedule": diffusion.beta_schedule
        + (", zero terminal SNR" if diffusion.rescale_betas_zero_snr else ""),
        "trained on": data,
        "began from": began,
        "steps": f"{step} of {batch_size} images, {step * batch_size} in all",
        "time": f"{minutes:.1f} minutes on {device}",
        "loss at the end, smoothed": f"{loss:.4f}",
    }
    measure = "condiff eval --model FOLDER"
    if task.enlarges:
        measure = "condiff eval --model sketch --upscale FOLDER"
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""---
library_name: diffusers
tags: [condiff, diffusion, {task.name}]
---
# {task.name}: a condiff model

It {task.does}, by conditional diffusion.

| | |
| --- | --- |
{table}

`config.yaml` holds every setting. `unet/` is a stock diffusers `UNet2DModel`, `scheduler/` a stock
scheduler; all weights are safetensors, the exponential moving average of those trained.

## Use

{use}

## Limits

It has learned from the photos named above and knows what they show; elsewhere it guesses. What it
adds is plausible, not true: do not take it for a record. Measure it before you rely on it:
`{measure} --data PHOTOS`.
"""
