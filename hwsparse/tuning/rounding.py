"""Layers of a module that weigh and read what bytes stand for, while they are trained.

Values and weights are rounded on the way forward, and on the way back it is as if they were not, but for values beyond
the last byte, which learn nothing (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, section 3). Ranges of values stay what they are; each row of a weight has
the step that its largest value asks for. What residuals add is not rounded here, as it is in what ships.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwsparse.errors import ModelError
from hwsparse.quantise import MOST_VALUE, MOST_WEIGHT, Scale


def begin_rounding(module: nn.Module, scales: Mapping[str, Scale]) -> None:
    """Has layers of a module, by name, round their weights, and what they read by a scale.

    Their parameters stay where they are, and copies of the module round as well.

    Raises:
        ModelError: a layer is of a type that cannot.
    """
    for name, scale in scales.items():
        layer = module.get_submodule(name)
        if type(layer) not in _ROUNDING:
            known = ", ".join(kind.__name__ for kind in _ROUNDING)
            raise ModelError(f"layer {name!r} is a {type(layer).__name__}: int8 is trained for {known} only")
        layer.__class__ = _ROUNDING[type(layer)]
        layer.scale = scale  # type: ignore[assignment]


def end_rounding(module: nn.Module) -> None:
    """Gives the layers of a module back what they were."""
    plain = {rounding: kind for kind, rounding in _ROUNDING.items()}
    for layer in module.modules():
        if type(layer) in plain:
            layer.__class__ = plain[type(layer)]
            del layer.scale


def rounded_values(values: Tensor, scale: Scale) -> Tensor:
    """What bytes stand for."""
    low, high = -scale.zero, MOST_VALUE - scale.zero
    within = values.clamp(low * scale.scale, high * scale.scale)
    nearest = (values.detach() * float(scale.inverse)).round().clamp(low, high) * scale.scale
    return within + (nearest - within).detach()


def rounded_rows(weight: Tensor) -> Tensor:
    """What signed bytes stand for, row by row."""
    rows = weight.detach().flatten(1)
    steps = rows.abs().amax(1, keepdim=True) / MOST_WEIGHT
    steps = torch.where(steps >= torch.finfo(steps.dtype).tiny, steps, torch.ones_like(steps))
    nearest = ((rows / steps).round() * steps).reshape(weight.shape)
    return weight + (nearest - weight).detach()


class _Conv1d(nn.Conv1d):
    scale: Scale

    def forward(self, values: Tensor) -> Tensor:
        summed: Tensor = self._conv_forward(rounded_values(values, self.scale), rounded_rows(self.weight), self.bias)
        return summed


class _Conv2d(nn.Conv2d):
    scale: Scale

    def forward(self, values: Tensor) -> Tensor:
        summed: Tensor = self._conv_forward(rounded_values(values, self.scale), rounded_rows(self.weight), self.bias)
        return summed


class _Linear(nn.Linear):
    scale: Scale

    def forward(self, values: Tensor) -> Tensor:
        return functional.linear(rounded_values(values, self.scale), rounded_rows(self.weight), self.bias)


_ROUNDING: dict[type[nn.Module], type[nn.Module]] = {nn.Conv1d: _Conv1d, nn.Conv2d: _Conv2d, nn.Linear: _Linear}
