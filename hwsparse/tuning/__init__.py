"""Recovery by training: a pruned torch module learns to answer as the dense one did.

    settings.py       how long, how fast, and what is learned from
    schedule.py       how zeros grow while a module is trained
    batches.py        samples in an order that a seed decides, and their augmentation
    losses.py         what a batch of answers is worth: distillation and labels
    kept_weights.py   which weights of a module are zero, and stay so
    checkpoint.py     a training on disk, that goes on where it was
    tune.py           the loop

Optimisers and schedules are torch's; settings can be named without it. Knows neither devices nor searches.
"""

from hwsparse.tuning.settings import TuningSettings

__all__ = ["TuningSettings"]
