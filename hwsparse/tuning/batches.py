"""Batches of a data set for training: an order and an augmentation that seed, epoch and step decide.

Nothing is drawn from a generator that was used before: so a training can go on at any step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hwsparse.data import Dataset

SHIFT = 4  # pixels, in every direction: what CIFAR networks are trained with (He et al. 2016, section 4.2)


def steps_per_epoch(dataset: Dataset, batch: int) -> int:
    """How many batches an epoch has: whole ones, but of a smaller data set one."""
    return max(1, len(dataset) // batch)


def training_order(dataset: Dataset, seed: int, epoch: int) -> np.ndarray:
    """The labels' places in the order in which an epoch takes them, (labels,)."""
    return np.random.default_rng([seed, epoch]).permutation(len(dataset))


def take(dataset: Dataset, names: Sequence[str], labels: np.ndarray, device: torch.device) -> tuple[Tensor, ...]:
    """The inputs of these labels' samples, by the order of `names`; images in the layout that torch trains fastest."""
    chosen = dataset.subset(labels).inputs
    tensors = (torch.from_numpy(np.array(chosen[name])).to(device) for name in names)
    return tuple(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in tensors)


def in_order(dataset: Dataset, batch: int) -> Iterator[np.ndarray]:
    """All labels' places, batch by batch."""
    for start in range(0, len(dataset), batch):
        yield np.arange(start, min(start + batch, len(dataset)))


def augmented(inputs: tuple[Tensor, ...], how: str, seed: int, step: int) -> tuple[Tensor, ...]:
    """Images mirrored, shifted and mixed, as far as that is asked for, each by its own draw; no other input changes.

    Args:
        inputs: of images (samples, channels, height, width).
        how: as in `TuningSettings.augment`.
    """
    if how == "none":
        return inputs
    rng = np.random.default_rng([seed, step, 1])
    return tuple(_changed(x, how, rng) if x.ndim == 4 else x for x in inputs)


def _changed(images: Tensor, how: str, rng: np.random.Generator) -> Tensor:
    moved = _moved(images, how != "flip", rng)
    return _mixed(moved, rng) if how == "crop-flip-mix" else moved


def _mixed(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Each image, in a share of its own, with another: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup", ICLR 2018."""
    shares = torch.from_numpy(rng.random((len(images), 1, 1, 1), np.float32)).to(images)
    others = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    return torch.lerp(images[others], images, shares)


def _moved(images: Tensor, shifted: bool, rng: np.random.Generator) -> Tensor:
    count, channels, height, width = images.shape
    shift = SHIFT if shifted else 0
    down, right = (torch.from_numpy(rng.integers(0, 2 * shift + 1, count)) for _ in range(2))
    mirrored = torch.from_numpy(rng.random(count) < 0.5)
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = functional.pad(images, (shift,) * 4)
    sample, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    moved = padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return moved.contiguous(memory_format=torch.channels_last)
