"""The averaged weights: kept step by step, put in place of the trained ones for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.training_utils import EMAModel
from torch import Tensor

from condiff.networks.denoiser import Model
from condiff.training.sharding import held, is_cut, whole_model


def build_average(model: Model, decay: float) -> EMAModel:
    """The average of what is trained; of a model in shares, of this process's share."""
    return EMAModel(_parts(model), decay=decay, use_ema_warmup=True, power=0.75, foreach=True)


def update_average(ema: EMAModel, model: Model) -> None:
    """Bring the average a step further."""
    ema.step(_parts(model))


@contextmanager
def averaged(ema: EMAModel, model: Model, *, keep: bool) -> Iterator[Model | None]:
    """The model with the averaged weights, whole, for a while; None where nobody is to `keep` it.

    Where processes hold shares all have to ask for it.
    """
    if not (keep or is_cut(model)):
        yield None
        return
    parts = _parts(model)
    ema.store(parts)
    ema.copy_to(parts)
    try:
        made = whole_model(model) if is_cut(model) else model
        yield made if keep else None
    finally:
        ema.restore(parts)


def _parts(model: Model) -> list[Tensor]:
    """The trained parameters, or of each the part that this process holds."""
    return [held(parameter) for parameter in model.trainable()]
