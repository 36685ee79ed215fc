"""The exponential moving average of the weights, used for samples and saved models."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.training_utils import EMAModel
from torch import Tensor

from condiff.models.denoiser import Denoiser
from condiff.training.accelerator import gather_model, is_sharded, local_part


def build_average(model: Denoiser, decay: float) -> EMAModel:
    """The average of the trained weights; for a sharded model, of this process's part."""
    return EMAModel(_parts(model), decay=decay, use_ema_warmup=True, power=0.75, foreach=True)


def update_average(ema: EMAModel, model: Denoiser) -> None:
    """Add the current weights to the average; call this after every optimizer step."""
    ema.step(_parts(model))


@contextmanager
def averaged(ema: EMAModel, model: Denoiser, *, keep: bool) -> Iterator[Denoiser | None]:
    """A context with the model under its averaged weights; None for a process without `keep`.

    A sharded model is gathered into a copy, so all processes must enter.
    """
    if not (keep or is_sharded(model)):
        yield None
        return
    parts = _parts(model)
    ema.store(parts)
    ema.copy_to(parts)
    try:
        made = gather_model(model) if is_sharded(model) else model
        yield made if keep else None
    finally:
        ema.restore(parts)


def _parts(model: Denoiser) -> list[Tensor]:
    """The trained parameters; if sharded, this process's parts."""
    return [local_part(parameter) for parameter in model.trainable()]
