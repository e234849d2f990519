"""What a batch of answers is worth in training: how far from the dense module's, and from the labels.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2: soft targets at a temperature,
their gradients scaled by its square. Embeddings are drawn to the dense module's, in direction. Hints are what layers
within hand on: Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", ICLR 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-12

# (answers, the dense module's answers, temperature) -> a number.
Distillation = Callable[[Tensor, Tensor, float], Tensor]
# (answers, labels) -> a number.
Supervision = Callable[[Tensor, Tensor], Tensor]


def soft_targets(answers: Tensor, dense: Tensor, temperature: float) -> Tensor:
    """T^2 KL(dense / T || answers / T), the mean over samples, of logits (samples, classes)."""
    own, wanted = (functional.log_softmax(each / temperature, dim=1) for each in (answers, dense))
    return temperature**2 * functional.kl_div(own, wanted, reduction="batchmean", log_target=True)


def directions(answers: Tensor, dense: Tensor, temperature: float) -> Tensor:
    """The mean of 1 - the cosine of both embeddings of a row, (rows, width)."""
    return (1 - functional.cosine_similarity(answers, dense, dim=1)).mean()


def hints(own: Sequence[Tensor], dense: Sequence[Tensor]) -> Tensor:
    """The squared change of what layers hand on relative to its square, the mean over layers."""
    errors = [
        functional.mse_loss(a, b, reduction="sum") / torch.linalg.vector_norm(b).square().clamp_min(_TINY)
        for a, b in zip(own, dense, strict=True)
    ]
    return torch.stack(errors).mean()


def labelled_classes(answers: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (samples, classes) with class indices (samples,)."""
    return functional.cross_entropy(answers, labels)


def labelled_pairs(answers: Tensor, labels: Tensor) -> Tensor:
    """1 - Pearson's correlation of scores (pairs,) with the cosines of embeddings 2i and 2i + 1."""
    cosines = functional.cosine_similarity(answers[0::2], answers[1::2], dim=1)
    a, b = cosines - cosines.mean(), labels.to(cosines.dtype) - labels.to(cosines.dtype).mean()
    return 1 - (a @ b) / torch.sqrt(((a @ a) * (b @ b)).clamp_min(_TINY))


# By how many rows a label speaks of: one sample of a class, or a pair with a score.
LOSSES: dict[int, tuple[Distillation, Supervision]] = {
    1: (soft_targets, labelled_classes),
    2: (directions, labelled_pairs),
}
