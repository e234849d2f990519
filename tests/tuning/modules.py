"""Small torch modules, and data that they can learn."""

from __future__ import annotations

import copy
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwsparse.data import Dataset
from hwsparse.model import Model, import_torch
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import apply_plan

CLASSES = 4

Trained = TypeVar("Trained", bound=nn.Module)


class Classifier(nn.Module):
    """Two convolutions with batch norm, dropout and a linear layer over (samples, 4, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 16, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.1)
        self.last = nn.Linear(16, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.first_norm(self.first(image)))
        x = functional.relu(self.second_norm(self.second(x)))
        logits: Tensor = self.last(self.drop(x.mean((2, 3))))
        return logits


class Wide(nn.Module):
    """A convolution of 96 channels between two small layers, over (samples, 4, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 96, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(96)
        self.second = nn.Conv2d(96, 96, 3, padding=1)
        self.last = nn.Linear(96, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(image)))
        logits: Tensor = self.last(functional.relu(self.second(x)).mean((2, 3)))
        return logits


class Separable(nn.Module):
    """A depthwise convolution between two others, over (samples, 4, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 32, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 16, 1)
        self.last = nn.Linear(16, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.first_norm(self.first(image)))
        x = functional.relu(self.depthwise_norm(self.depthwise(x)))
        logits: Tensor = self.last(functional.relu(self.second(x)).mean((2, 3)))
        return logits


class Embedder(nn.Module):
    """Tokens (rows, 6) to embeddings of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 12)
        self.dense = nn.Linear(12, 16)
        self.out = nn.Linear(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.out(functional.gelu(self.dense(self.table(ids)))).mean(1)
        return vectors


def classifier() -> tuple[Classifier, Model]:
    """A module that was trained for a moment, and the model of it."""
    module, model = _trained()
    return copy.deepcopy(module), model


@cache
def _trained() -> tuple[Classifier, Model]:
    module = _fitted(Classifier)
    return module, import_torch(module, (torch.zeros(1, 4, 8, 8),), name="classifier")


@cache
def _trained_wide() -> Wide:
    return _fitted(Wide)


def wide() -> Wide:
    """A module that was trained for a moment, with a layer so wide that sparsity pays."""
    return copy.deepcopy(_trained_wide())


@cache
def separable() -> Separable:
    """A module that was trained for a moment."""
    return _fitted(Separable)


def _fitted(kind: type[Trained]) -> Trained:
    torch.manual_seed(0)
    module, data = kind().train(), pictures(256, 9)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    x, y = torch.from_numpy(np.array(data.inputs["image"])), torch.from_numpy(np.array(data.labels))
    for _ in range(30):
        optimizer.zero_grad()
        functional.cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return module.eval()


def embedder() -> tuple[Embedder, Model]:
    """A module with random weights, and the model of it."""
    torch.manual_seed(1)
    module = Embedder().eval()
    return module, import_torch(module, (torch.zeros(1, 6, dtype=torch.int64),), name="embedder")


def pictures(samples: int, seed: int) -> Dataset:
    """Each class has a pattern of its own, under noise."""
    patterns = np.random.default_rng(0).standard_normal((CLASSES, 4, 8, 8))
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % CLASSES
    images = 0.7 * patterns[labels] + rng.standard_normal((samples, 4, 8, 8))
    return Dataset("pictures", {"image": images.astype(np.float32)}, labels)


def sentences(pairs: int, seed: int) -> Dataset:
    """Pairs that share more tokens are more alike."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 30, (pairs, 6))
    kept = rng.integers(0, 7, pairs)
    second = np.where(np.arange(6) < kept[:, None], first, rng.integers(0, 30, (pairs, 6)))
    ids = np.stack([first, second], axis=1).reshape(2 * pairs, 6)
    return Dataset("sentences", {"ids": ids}, kept / 6, "spearman")


def plan_of(model: Model, choice: str, *names: str) -> Plan:
    return Plan.of(model.digest, dict.fromkeys(names, parse_choice(choice)))


def pruned(model: Model, plan: Plan) -> dict[str, np.ndarray]:
    """By magnitude."""
    return apply_plan(model, plan)
