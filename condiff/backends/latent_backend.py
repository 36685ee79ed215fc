"""The backend that runs a model on a Stable Diffusion base with torch, on any device."""

import logging

import torch
from torch import Tensor

from condiff.backends.torch_backend import TorchBackend
from condiff.models.latent import FrozenParts, LatentModel
from condiff.tasks import Task
from condiff.words import NO_WORDS, WithWords, Words, with_words

logger = logging.getLogger(__name__)


class LatentBackend(TorchBackend):
    """The Backend of a U-Net with cross-attention, its VAE and its text encoder."""

    def __init__(
        self,
        model: LatentModel,
        frozen: FrozenParts,
        task: Task,
        device: torch.device | str = "cpu",
        threads: int | None = 1,
    ):
        super().__init__(model, device, threads)
        self.frozen, self.task = frozen, task
        self._known: dict[str, Tensor] = {"": model.null_words}  # embeddings of the last texts

    def encode(
        self,
        condition: Tensor,
        hints: Tensor | None,
        size: tuple[int, int],
        *,
        guided: bool,
        words: Words = NO_WORDS,
    ) -> tuple[WithWords | None, ...]:
        """See Backend."""
        assert self.task.picture is not None
        with self._at_work():
            picture = self.frozen.condition(self.task.picture.show(condition))
            prompt, negative = (self._embed(text) for text in words)
            null = torch.zeros_like(picture) if guided else None
            return with_words((picture, null), prompt, negative)

    def decode(self, x_0: Tensor) -> Tensor:
        """The picture (B,3,H,W), about in [-1,1]."""
        with self._at_work():
            return self.frozen.decode(x_0)

    def _embed(self, text: str) -> Tensor:
        """The embedding (1,n,d) of a text, kept for the next picture."""
        found = self._known.get(text)
        if found is None:
            taken, most = self.frozen.count(text)
            if taken > most:
                logger.warning("the end of the prompt is cut off: %d of %d tokens", most, taken)
            found = self.frozen.words([text])
            self._known = {"": self.model.null_words, text: found}
        return found
