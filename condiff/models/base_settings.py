"""The settings of a run on a pretrained base: its defaults, and what must agree with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condiff.config import TrainConfig, origin_of, parse_config, read_values
from condiff.errors import ConfigError, UsageError
from condiff.models.base import Base, read_base, require_packages

DROP_PROB = 0.05  # of InstructPix2Pix (Brooks et al. 2022, arXiv:2211.09800): words, picture, both
GUIDANCE = {"guidance_scale": 7.0, "image_guidance_scale": 1.5}  # its defaults in diffusers
NUM_FEW_STEPS = 4


def read_run_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    base: str | None = None,
    lora: int | None = None,
) -> TrainConfig:
    """The settings of a run, like `read_config`, with the defaults of the base that they name.

    `base` and `lora` override base.name and base.lora_rank. Raises UsageError for a rank without a
    base, ModelError if the base cannot be used, ConfigError for invalid settings.
    """
    values, origin = read_values(path, overrides), origin_of(path)
    section = dict(values.get("base") or {})
    section |= {"name": str(Path(base)) if Path(base).exists() else base} if base else {}
    section |= {"lora_rank": lora} if lora else {}
    if section.get("lora_rank") and not section.get("name"):
        raise UsageError("--lora trains updates of a pretrained base: name it with --base.")
    if section:
        values["base"] = section
    return parse_config(with_base(values, origin=origin), origin=origin, overrides=overrides)


def check_process(config: TrainConfig, base: Base) -> None:
    """Raise ConfigError if a run's noise process or sizes differ from those of its base.

    The prediction type and the terminal SNR may differ: training adapts the U-Net to them.
    """
    own = {"diffusion." + key: value for key, value in base.process().items()}
    own |= {"model.fold": base.factor}
    for key, value in own.items():
        section, name = key.split(".")
        found = getattr(getattr(config, section), name)
        if found != value and name not in ("prediction_type", "rescale_betas_zero_snr"):
            raise ConfigError(
                f"{key} is {found}, but the base {base.name} was trained with {value}: leave it "
                "out, or read the settings with read_run_config."
            )


def with_base(values: dict[str, Any], *, origin: str) -> dict[str, Any]:
    """Settings of a run, with defaults of the base that they name for all that is not set.

    Sizes, noise process and prediction type are the base's. Text and picture are dropped with the
    probabilities of InstructPix2Pix. A base distilled to few steps is sampled with few. Raises
    ModelError if the base cannot be used, ConfigError for invalid settings.
    """
    name = (values.get("base") or {}).get("name")
    if name is None:
        return values
    require_packages()
    base = read_base(str(name))
    data = values.get("data") or {}
    size = data.get("size", int(base.unet["sample_size"]) * base.factor)
    _check_size(size, base)
    others = data.get("streaming") or data.get("cache", "none") != "none"
    few = base.sampler
    sampling: dict[str, Any] = {"steps": NUM_FEW_STEPS, "scheduler": few} if few else {**GUIDANCE}
    defaults = {
        "train_batch_size": 4,
        "model": {
            "sample_size": max(1, int(size) // base.factor),
            "fold": base.factor,
            "backbone_variant": None,
            "block_out_channels": list(base.unet["block_out_channels"]),
            "norm_num_groups": base.unet["norm_num_groups"],
        },
        "diffusion": {**base.process(), "cond_drop_prob": DROP_PROB},
        "data": {"size": size, "cache_features": not others},
        "sampling": sampling,
        "optimizer": {"learning_rate": 1e-4 if _rank_of(values) else 1e-5},
        "looks": _looks(sampling),
    }
    merged = _merge(defaults, values)
    parse_config(merged, origin=origin)
    return merged


def _check_size(size: Any, base: Base) -> None:
    """Raise ConfigError for a size whose latents the U-Net cannot halve often enough."""
    stride = base.factor * 2 ** (len(base.unet["block_out_channels"]) - 1)
    if isinstance(size, int) and (size % stride or size < stride):
        raise ConfigError(
            f"data.size {size} is not a multiple of {stride}, the total downsampling of the base's "
            f"VAE and U-Net; take {max(stride, round(size / stride) * stride)}."
        )


def _rank_of(values: Mapping[str, Any]) -> Any:
    return (values.get("base") or {}).get("lora_rank")


def _looks(sampling: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Looks of a colorizer on a base: chroma is scaled; guidance, which affects text, is not."""
    guidance = float(sampling.get("guidance_scale", 1.0))
    chroma = {"quiet": 0.85, "vivid": 1.15}
    return {
        name: {"guidance_scale": guidance, "variety": 1.0, "saturation": saturation}
        for name, saturation in chroma.items()
    }


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; values of `above` override those of `below`."""
    merged = {**below}
    for key, value in above.items():
        under = merged.get(key)
        whole = not (isinstance(value, Mapping) and isinstance(under, Mapping)) or key == "looks"
        merged[key] = value if whole else _merge(under, value)  # type: ignore[arg-type]
    return merged
