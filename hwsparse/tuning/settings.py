"""How a pruned module is trained: plain values, so that a training can be told from another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from hwsparse.errors import InputError

Optimizer = Literal["sgd", "adamw"]
Augmentation = Literal["none", "flip", "crop-flip", "crop-flip-mix"]
OPTIMIZERS, AUGMENTATIONS = get_args(Optimizer), get_args(Augmentation)


@dataclass(frozen=True, slots=True)
class TuningSettings:
    """What a training does, whatever the module and the data; equal settings give equal weights on one CPU.

    The learning rate falls along a cosine to 0. Of the loss, `distillation` is how far the answers are from the dense
    module's, at `temperature`; the rest is told by labels. `hints` weighs what is added to it: how far that what pruned
    layers hand on is from what they hand on in the dense module. A `gradual` training starts dense, and zeros grow over
    the first `ramp` of its steps; any other keeps the mask that it starts with. What is judged and given is the mean of
    the steps' weights, each of which counts `averaging` times what the next one does (0: the last step's alone). The
    training ends early after `patience` epochs without a better validation quality, and gives the best epoch's
    weights. Images are moved and mixed as `augment` says; what is mixed has no label, but the dense module answers it.
    """

    epochs: int = 8
    batch: int = 128  # labels
    learning_rate: float = 0.02
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9  # of sgd
    weight_decay: float = 1e-4
    distillation: float = 1.0
    temperature: float = 4.0
    hints: float = 1.0
    gradual: bool = False
    ramp: float = 0.5
    averaging: float = 0.997
    patience: int = 4
    augment: Augmentation = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for what, count in (("epochs", self.epochs), ("batch", self.batch), ("patience", self.patience)):
            if count < 1:
                raise InputError(f"{what}: at least 1, not {count}")
        for what, name, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("augment", self.augment, AUGMENTATIONS),
        ):
            if name not in known:
                raise InputError(f"{what}: {' or '.join(known)}, not {name!r}")
        if not 0 < self.learning_rate <= 10:
            raise InputError(f"learning rate: above 0 and at most 10, not {self.learning_rate:g}")
        shares = (("momentum", self.momentum), ("distillation", self.distillation), ("weight decay", self.weight_decay))
        for what, share in shares:
            if not 0 <= share <= 1:
                raise InputError(f"{what}: a fraction from 0 to 1, not {share:g}")
        if self.augment == "crop-flip-mix" and self.distillation < 1:
            raise InputError(
                f"augment crop-flip-mix: mixed images have no labels to learn from; take distillation 1, "
                f"not {self.distillation:g}"
            )
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature: above 0, not {self.temperature:g}")
        if not 0 <= self.hints < math.inf:
            raise InputError(f"hints: a weight of 0 or more, not {self.hints:g}")
        if not 0 < self.ramp <= 1:
            raise InputError(f"ramp: a share of the steps, above 0 and at most 1, not {self.ramp:g}")
        if not 0 <= self.averaging < 1:
            raise InputError(f"averaging: a fraction from 0 to below 1, not {self.averaging:g}")
        if self.seed < 0:
            raise InputError(f"seed: not negative, as {self.seed} is")
