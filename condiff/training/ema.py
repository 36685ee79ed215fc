"""The exponential moving average of the weights, which is what is sampled, saved and shared."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.training_utils import EMAModel
from torch import Tensor

from condiff.models.denoiser import Denoiser
from condiff.training.accelerator import gather_model, is_sharded, local_part


def build_average(model: Denoiser, decay: float) -> EMAModel:
    """The average of the trained weights; of a sharded model, of this process's part of them."""
    return EMAModel(_parts(model), decay=decay, use_ema_warmup=True, power=0.75, foreach=True)


def update_average(ema: EMAModel, model: Denoiser) -> None:
    """Add the present weights to the average; call it after every optimizer step."""
    ema.step(_parts(model))


@contextmanager
def averaged(ema: EMAModel, model: Denoiser, *, keep: bool) -> Iterator[Denoiser | None]:
    """Within the context, the model with its averaged weights; None for a process not to `keep` it.

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
    """The trained parameters; of sharded ones, the parts that this process holds."""
    return [local_part(parameter) for parameter in model.trainable()]
