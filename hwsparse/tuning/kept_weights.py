"""The weights of a torch module that a plan makes zero, by the names of the model that the module became.

On import, batch norm was folded into weights: a model's weight is the module's but for a factor for each output.
Factors are found here, so that pruned weights go back into the module, and a factor keeps its zeros. A bias goes back
to where it came from: the layer's own, or that of the batch norm whose factors they are. Layer norms hold what the
model does.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from hwsparse.errors import ModelError, PatternError, PlanError
from hwsparse.model import Model
from hwsparse.plan import Plan
from hwsparse.sparsify import achieved_ratio, applicable, make_mask
from hwsparse.sparsify.norms import Norm, in_order
from hwsparse.tuning.schedule import growing

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Relative: how far a row may be from the module's, times its factor.
TOLERANCE = 1e-3


class KeptWeights:
    """The masks of a module's layers; `hold` sets what they drop to zero."""

    def __init__(self, module: nn.Module, model: Model, plan: Plan) -> None:
        """Finds the layers of a plan in the module; nothing is dropped yet.

        Raises:
            PlanError: the plan is of another model, or a layer cannot be what it says.
            ModelError: a layer of the model is no submodule with the model's weight.
        """
        if plan.model_digest != model.digest:
            raise PlanError(f"the plan is of another model than {model.name}")
        for name, choice in plan.choices:
            if reason := applicable(model.layer(name), choice.pattern):
                raise PlanError(f"layer {name!r} cannot be {choice}: {reason}")
        self._model, self._plan = model, plan
        self._weights: dict[str, nn.Parameter] = {}
        self._factors: dict[str, Tensor] = {}
        self._constants: dict[str, nn.Parameter] = {}
        for layer in model.layers:
            found = _found(module, layer.name, model.weight(layer.name))
            if found is None:
                continue
            self._weights[layer.name], self._factors[layer.name] = found
            if layer.bias is not None and (bias := _bias(module, layer.name, found[1])) is not None:
                self._constants[layer.bias] = bias
        parameters = dict(module.named_parameters())
        for norm in in_order(model):
            for name in (norm.scale, norm.shift) if isinstance(norm, Norm) else ():
                if name in parameters and np.array_equal(_values(parameters[name]), model.constant(name)):
                    self._constants[name] = parameters[name]
        if lost := [name for name, _ in plan.choices if name not in self._weights]:
            raise ModelError(
                f"layer {lost[0]!r} of {model.name}: the module has no submodule of that name with the weight that "
                "the model has, so that it cannot be tuned"
            )
        self.masks: dict[str, Tensor] = {}

    def start_from(self, weights: Mapping[str, np.ndarray]) -> None:
        """Puts canonical pruned weights into the module; zeros of the plan's layers stay zero from then on.

        Biases, and the scales of layer norms, go by their constants' names. What the module does not hold as the model
        does keeps its own values.

        Raises:
            PlanError: a layer of the plan has no weight here.
        """
        if lost := [name for name, _ in self._plan.choices if name not in weights]:
            raise PlanError(f"layer {lost[0]!r} has no pruned weight to start from")
        planned = dict(self._plan.choices)
        for name, weight in weights.items():
            if name in self._weights:
                parameter = self._weights[name]
                fresh = torch.from_numpy(np.array(weight, np.float32)).to(parameter) / self._factors[name]
                with torch.no_grad():
                    parameter.copy_(fresh)
                if name in planned:  # of dense layers, what was rounded to zero may go on
                    self.masks[name] = (
                        torch.ones_like(fresh, dtype=torch.bool) if planned[name].is_dense else fresh != 0
                    )
            elif name in self._constants:
                moved = torch.from_numpy(weight - self._model.constant(name)).reshape(-1)
                with torch.no_grad():
                    self._constants[name].add_(moved.to(self._constants[name]))

    def grow(self, progress: float) -> None:
        """Drops the smallest weights, of what the model's magnitudes would be: the more, the farther it is (0 to 1).

        Raises:
            PlanError: a weight is not finite.
        """
        for name, choice in self._plan.choices:
            scores = (self._weights[name] * self._factors[name]).detach().abs().cpu().numpy()
            try:
                mask = make_mask(scores, growing(choice, progress), self._model.layer(name).groups)
            except PatternError as error:
                raise PlanError(f"layer {name!r}: {error}") from None
            self.masks[name] = torch.from_numpy(mask).to(self._weights[name].device)

    def hold(self) -> None:
        """Sets what is dropped to zero."""
        with torch.no_grad():
            for name, mask in self.masks.items():
                self._weights[name].mul_(mask)

    @property
    def ratio(self) -> float:
        """Of the weights of the plan's layers, the fraction that is zero."""
        kept = [mask.cpu().numpy().ravel() for mask in self.masks.values()]
        return achieved_ratio(np.concatenate(kept)) if kept else 0.0


def _found(module: nn.Module, name: str, weight: np.ndarray) -> tuple[nn.Parameter, Tensor] | None:
    """A layer's parameter, and the factor of each output that makes the model's weight of it; None: it is none."""
    try:
        parameter = module.get_submodule(name).weight
    except AttributeError:
        return None
    if not isinstance(parameter, nn.Parameter) or tuple(parameter.shape) != weight.shape:
        return None
    own = _values(parameter).reshape(len(weight), -1).astype(np.float64)
    rows = weight.reshape(own.shape)
    power = np.sum(own * own, axis=1)
    factors = np.divide(np.sum(own * rows, axis=1), power, out=np.ones(len(own)), where=power > 0)
    if not np.allclose(own * factors[:, None], rows, rtol=TOLERANCE, atol=TOLERANCE * np.abs(rows).max(initial=0)):
        return None
    factors[factors == 0] = 1  # of an output that batch norm sets to nothing: any weight will do
    shape = (len(weight), *[1] * (weight.ndim - 1))
    return parameter, torch.from_numpy(factors.astype(np.float32)).reshape(shape).to(parameter.device)


def _values(parameter: nn.Parameter) -> np.ndarray:
    return np.asarray(parameter.detach().cpu().numpy())


def _bias(module: nn.Module, name: str, factors: Tensor) -> nn.Parameter | None:
    """The parameter to which a change of a layer's bias can be added; None: there is none that is surely its own."""
    own, wanted = getattr(module.get_submodule(name), "bias", None), factors.flatten().cpu()
    if isinstance(own, nn.Parameter) and bool((wanted == 1).all()):
        return own
    norms = [each for each in module.modules() if isinstance(each, BATCH_NORMS) and _factors_are(each, wanted)]
    return norms[0].bias if len(norms) == 1 else None


def _factors_are(norm: BatchNorm, wanted: Tensor) -> bool:
    if not norm.affine or norm.running_var is None or norm.num_features != len(wanted):
        return False
    factors = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
    return torch.allclose(factors.cpu(), wanted, rtol=TOLERANCE)
