"""The backend that runs a model with torch, on any device."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from condiff.errors import ConfigError
from condiff.models.condition_encoder import ConditionEncoder
from condiff.words import NO_WORDS, WithWords, Words, with_words

# In torch's errors where memory is lacking: of Linux, of all others, of Apple's GPU.
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class TorchBackend:
    """The Backend of torch; `threads` of the processor, None for torch's own setting."""

    name = "torch"

    def __init__(self, model: Any, device: torch.device | str = "cpu", threads: int | None = 1):
        self.model, self.device, self.threads = model, str(device), threads  # a Denoiser

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """A tensor on the device; on a processor it shares the array's memory."""
        return torch.from_numpy(array).to(self.device)

    def to_numpy(self, array: Tensor) -> NDArray[Any]:
        """The inverse of `to_device`."""
        return array.cpu().numpy()

    def encode(
        self,
        condition: Tensor,
        hints: Tensor | None,
        size: tuple[int, int],
        *,
        guided: bool,
        words: Words = NO_WORDS,
    ) -> tuple[Any, ...]:
        """See Backend."""
        with self._at_work():
            given = condition.contiguous(memory_format=torch.channels_last)
            encoder = self.model.encoder
            conds: tuple[Tensor, Tensor | None]
            if guided:
                conds = encode_both(encoder, given, hints=hints, size=size)
            else:
                conds = encoder(given, hints=hints, size=size), None
            if self.model.text_encoder is None:
                return conds
            return with_words(conds, *(self.model.embed([text]) for text in words))

    def predict(self, x_t: Tensor, t: float, cond: Tensor | WithWords) -> Tensor:
        """See Backend."""
        with self._at_work():
            step = torch.tensor([t], dtype=torch.float32, device=self.device)
            return self.model.predict(x_t, step, cond)

    def predict_each(self, x_t: Tensor, t: float, conds: Sequence[Any]) -> list[Tensor]:
        """See Backend; one after the other, because a batch would round differently."""
        return [self.predict(x_t, t, cond) for cond in conds]

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 itself."""
        return x_0

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """No gradients; the number of threads, which torch keeps for each calling thread."""
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                yield
        except RuntimeError as error:
            on_gpu = isinstance(error, torch.OutOfMemoryError)
            if not on_gpu and not any(words in str(error) for words in NO_MEMORY):
                raise
            if on_gpu:
                torch.cuda.empty_cache()
            raise MemoryError from error
        finally:
            torch.set_num_threads(before)


def encode_both(
    encoder: ConditionEncoder, condition: Tensor, *, hints: Tensor | None, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """cond and null_cond (B,K,*size), with one run of the backbone for both."""
    features = encoder.features(condition)
    none = condition.new_zeros(1, 1, 1, 1)
    cond = encoder(condition, features=features, hints=hints, size=size)
    return cond, encoder(condition, features=features, hints=hints, size=size, kept=none)


def find_torch_device(name: str) -> torch.device:
    """The device of that name; `auto` is the best one here. ConfigError if it is not there."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    kind = name.split(":")[0]
    if not available.get(kind, False):
        there = ", ".join(kind for kind, yes in available.items() if yes)
        raise ConfigError(f"There is no device {name!r} here: use auto or one of {there}.")
    return torch.device(name)
