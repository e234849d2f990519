"""Where a plan and what it is held to are trained: by the same settings, on the same data, judged alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hwsparse import strictjson
from hwsparse.codegen import relative_error
from hwsparse.compiler import onnxruntime_answers
from hwsparse.data import Dataset
from hwsparse.errors import ModelError
from hwsparse.model import Model, import_torch
from hwsparse.pattern import Unstructured
from hwsparse.pipeline.judges import Judges
from hwsparse.pipeline.outcome import Recovery
from hwsparse.pipeline.small_dense import Lessons
from hwsparse.plan import Choice, Plan
from hwsparse.quantise import split_weights
from hwsparse.sparsify import Narrower, achieved_ratio, applicable, pruned_model
from hwsparse.sparsify.ranges import rounded_weights
from hwsparse.target import Target
from hwsparse.tuning import TuningSettings
from hwsparse.tuning.checkpoint import Epoch
from hwsparse.tuning.tune import Tuned, tune

SAME = 1e-3  # two programs of one network: the largest difference of their outputs, of the largest output


class School:
    """Trains forms of one module. Each training is kept in a directory as a checkpoint, and goes on from there.

    A narrower network of another share is another training: shares are found by timing, and the one that was begun
    with is kept beside.
    """

    def __init__(
        self,
        module: nn.Module,
        model: Model,
        training: Dataset,
        judges: Judges,
        settings: TuningSettings,
        directory: Path,
        device: str,
        on_stage: Callable[[str, int, int], None],
    ) -> None:
        self._module, self._model, self._training, self._judges = module, model, training, judges
        self._settings, self._directory, self._device, self._on_stage = settings, directory, device, on_stage

    def recover(
        self, plan: Plan, pruned: Mapping[str, np.ndarray], on_epoch: Callable[[Epoch], None]
    ) -> tuple[Recovery, Mapping[str, np.ndarray]]:
        """Trains a plan: what that does to it, and the weights that ship.

        Raises:
            PlanError, ModelError, DataError, TuningError, StorageError: as `tune`.
        """
        tuned = self._tuned(plan, pruned, self._settings, "training", on_epoch)
        shipped = self._better(plan, pruned, tuned)
        recovery = Recovery(
            self._settings,
            len(self._training),
            tuned.epochs,
            tuned.best,
            shipped is not pruned,
            self._judges.reporting.evaluate(pruned),
        )
        return recovery, shipped

    def ceiling(self, plan: Plan, pruned: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """An unstructured plan's weights after training; those from before where it made them no better.

        Raises:
            TuningError: training diverges, or the checkpoint is damaged.
        """
        return self._better(plan, pruned, self._tuned(plan, pruned, self._settings, "training ceiling"))

    def small_dense(self, plan: Plan, target: Target) -> Lessons:
        """Those of the narrower network that a plan is held to on a target."""
        of = f"{target.name} {target.threads} {_digest(plan, self._settings)}"
        name = hashlib.sha256(of.encode()).hexdigest()[:16]
        return Lessons(self.narrowed, self._directory / f"small-dense-{name}.json")

    def narrowed(self, narrower: Narrower, keep: float, narrow: Model) -> Model:
        """A narrower network after training: itself if that made it no better.

        The module is trained with zeros where channels went, which then are cut out.

        Raises:
            ModelError: with zeros there it does not compute what the narrower network does, or does not hold its
                weights as the model does.
            TuningError: training diverges, or the checkpoint is damaged.
        """
        model, choosing, sample = self._model, self._judges.choosing, self._judges.sample
        start = narrower.widened(narrow, keep)
        own, wide = onnxruntime_answers(narrow, {}, sample), onnxruntime_answers(model, start, sample)
        if max(relative_error(wide[name], value) for name, value in own.items()) > SAME:
            raise ModelError(
                f"{model.name} computes something else with zeros for channels than without these channels"
            )
        zeros = {
            layer.name: Choice(Unstructured(), achieved_ratio(start[layer.name] != 0))
            for layer in model.layers
            # What a depthwise layer makes of a channel that went, nobody reads.
            if narrow.layer(layer.name).weight_shape != layer.weight_shape and not applicable(layer, Unstructured())
        }
        settings = replace(self._settings, gradual=False)
        tuned = self._tuned(Plan.of(model.digest, zeros), start, settings, "training small dense")
        if not tuned.best.number:
            return narrow
        trained = narrower.cut(pruned_model(model, self._changes(tuned)), keep)
        better = choosing.evaluate_other(trained).value > choosing.evaluate_other(narrow).value
        return trained if better else narrow

    def _tuned(
        self,
        plan: Plan,
        pruned: Mapping[str, np.ndarray],
        settings: TuningSettings,
        stage: str,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ) -> Tuned:
        return tune(
            self._module,
            self._model,
            plan,
            self._training,
            self._judges.choosing.dataset,
            settings,
            start=None if settings.gradual else pruned,
            checkpoint=self._directory / f"training-{_digest(plan, settings)}.safetensors",
            device=self._device,
            progress=partial(self._on_stage, stage),
            on_epoch=on_epoch,
        )

    def _changes(self, tuned: Tuned) -> dict[str, np.ndarray]:
        """What training changed, as weights by layer name and constants by theirs."""
        return self._model.changes_to(imported(tuned.module.to("cpu"), self._model, self._judges.sample))

    def _better(self, plan: Plan, pruned: Mapping[str, np.ndarray], tuned: Tuned) -> Mapping[str, np.ndarray]:
        """The weights after training, if that made them better; of a gradual training there are none from before."""
        if not tuned.best.number and not self._settings.gradual:
            return pruned
        plain = split_weights(pruned).plain
        ranges = {name: values for name, values in pruned.items() if name not in plain}
        changed = rounded_weights(self._model, plan, self._changes(tuned)) | ranges
        choosing = self._judges.choosing
        if self._settings.gradual or choosing.evaluate(changed).value > choosing.evaluate(pruned).value:
            return changed
        return pruned


def imported(module: nn.Module, model: Model, sample: Mapping[str, np.ndarray]) -> Model:
    """What a module is now, as a model; `model` is what it was before, and `sample` has its inputs."""
    examples = tuple(torch.from_numpy(np.array(sample[spec.name])) for spec in model.inputs)
    return import_torch(module, examples, name=model.name)


def _digest(plan: Plan, settings: TuningSettings) -> str:
    """Of a training: several may be kept side by side."""
    return hashlib.sha256((plan.to_json() + strictjson.dumps(settings)).encode()).hexdigest()[:16]
