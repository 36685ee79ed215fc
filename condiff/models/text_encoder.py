"""The text encoder of condiff's own models: small, and trained with the U-Net from captions."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from condiff.config import TEXT_HEADS
from condiff.words import MAX_WORDS

BUCKETS = 8192  # rows of the table of embeddings


class TextEncoder(ModelMixin, ConfigMixin):
    """Tokens (B,n,HASHES) -> one embedding (B,out_channels) of the text, zero without words.

    A word's embedding is the sum of the embeddings of its hashes. Transformer layers read the words
    in order; the mean of their outputs is projected to `out_channels` and added to the U-Net's
    embedding of t. The projection is initialised to zero, so a new text encoder does not change the
    U-Net's output.
    """

    @register_to_config
    def __init__(
        self,
        out_channels: int = 256,
        channels: int = 64,
        buckets: int = BUCKETS,
        num_layers: int = 2,
        num_heads: int = TEXT_HEADS,
    ):
        super().__init__()
        self.words = nn.Embedding(buckets + 1, channels, padding_idx=0)
        self.places = nn.Parameter(torch.randn(MAX_WORDS, channels) * 0.02)
        self.layers = nn.ModuleList(_Layer(channels, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, out_channels, bias=False)
        nn.init.normal_(self.words.weight, std=0.5)
        nn.init.zeros_(self.words.weight[0])
        nn.init.zeros_(self.project.weight)

    def forward(self, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
        """Embeddings (B,out_channels) of tokens (B,n,HASHES).

        Where `kept` (B,1,1) is 0 instead of 1 the embedding is zero. A text has at most
        MAX_WORDS words.
        """
        there = (tokens[..., 0] > 0).to(self.places.dtype)[..., None]  # (B,n,1)
        x = self.words(tokens).sum(2) + self.places[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, there)
        mean = (self.norm(x) * there).sum(1) / there.sum(1).clamp(min=1)
        embedding = self.project(mean)
        return embedding if kept is None else embedding * kept[:, 0]


class _Layer(nn.Module):
    """A transformer layer; attention ignores the positions without a word."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)
        self.feed = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        batch, length, channels = x.shape
        parts = self.to_qkv(self.norm(x)).reshape(batch, length, 3, self.num_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) * (channels // self.num_heads) ** -0.5
        scores = scores + (there.transpose(1, 2)[:, None] - 1) * 1e4
        seen = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, channels)
        x = x + self.to_out(seen)
        return x + self.feed(x)
