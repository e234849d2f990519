"""From a torch module to an artifact of its pruned, trained self: what pays is trained, and what was trained is proven.

    measured   every layer as the plan asks; what is not faster on the device stays dense, in training too
    pruned     in one shot, and corrected, as a search would ship it
    trained    on data that neither tell the best epoch nor report
    built      timed beside dense, onnxruntime and a small dense network, judged on held-out data, packaged

Trainings are kept as checkpoints: a job that was stopped goes on where it was. They start with the same weights then,
because pruned layers are kept too.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hwsparse import compiler
from hwsparse.data import Dataset
from hwsparse.errors import DataError, UnsupportedError
from hwsparse.execution import open_workers
from hwsparse.latency import CostModel
from hwsparse.model import Model
from hwsparse.pipeline.compilation import (
    OnProgress,
    Workspace,
    built_alone,
    layer_database,
    measured,
    require_work,
)
from hwsparse.pipeline.corrected import CorrectedWeights
from hwsparse.pipeline.finals import Workshop
from hwsparse.pipeline.judges import MIN_LABELS, appoint_judges, fitted_on, of_the_same
from hwsparse.pipeline.outcome import Limits, Outcome
from hwsparse.pipeline.school import School, imported
from hwsparse.pipeline.verdict import reach_verdict
from hwsparse.plan import Plan
from hwsparse.range_methods import DEFAULT_METHOD, require_use
from hwsparse.sparsify import apply_plan
from hwsparse.target import Target
from hwsparse.tuning import TuningSettings
from hwsparse.tuning.checkpoint import Epoch

LABEL = "tuned"
TRAINED = ("float32", "int8")
# Of data without a part for training, this share is trained on.
TRAINING_SHARE = 0.8


def recover(
    module: nn.Module,
    model: Model,
    plan: Plan,
    dataset: Dataset,
    target: Target,
    settings: TuningSettings,
    workspace: Workspace,
    *,
    training: Dataset | None = None,
    device: str = "cpu",
    rivals: bool = True,
    on_progress: OnProgress = lambda stage, done, total, known: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    corrupted: Iterable[Dataset] = (),
    ranges: str = DEFAULT_METHOD,
) -> Outcome:
    """Prunes a module as a plan says, trains what is left, and packages it for the target.

    Where training makes it no better, on the data that tell the best epoch, the weights from before ship. What it is
    held to is trained as well, so that all rows of a comparison had the same.

    Args:
        model: what `import_torch` made of the module; the plan is for it.
        dataset: in three parts, by the settings' seed: a sixth fits the pruned weights, a third tells the best epoch,
            half is only ever reported on.
        training: what is trained on, of no sample in common with `dataset`; by default most of that, and the rest is
            parted as above.
        device: where torch trains.
        rivals: whether a small dense network and the unstructured ceiling are made beside it, and trained by the same
            settings, each taking as long as the plan.
        corrupted: `dataset` under one corruption each: on what is held out of it, what was built is judged too. Nothing
            is trained on it, or chosen by it.
        ranges: the method that tells between what lies what int8 layers read.

    Raises:
        InputError: there is no such method, or no layer is int8 for it.
        UnsupportedError: the target cannot be timed from here, does not support a choice of the plan, or runs no layer
            of it faster: there is nothing to train for; or a layer is of a type that is not trained.
        PlanError, ModelError, DataError: plan, module and data do not belong together.
        TuningError: training diverges, or the workspace holds the same training of other data.
        StorageError: the workspace cannot be written to, or another job is writing there.
        MeasureError, CompileError, ArtifactError: as their names say.
    """
    require_work(model, target)
    for name, choice in plan.choices:
        target.require(choice)
        if choice.dtype not in TRAINED:
            raise UnsupportedError(
                f"layer {name!r} is {choice}: {' and '.join(TRAINED)} are trained only; compile this plan instead"
            )
    require_use(ranges, (choice.dtype for _, choice in plan.choices))
    apply_plan(model, plan)  # refuses a plan of another model before anything is measured
    if training is None:
        training, dataset, corrupted = _parted(dataset, corrupted, settings.seed)
    _require_apart(training, dataset)
    judges = appoint_judges(model, dataset, target, settings.seed, corrupted)

    def on_stage(stage: str, done: int, total: int) -> None:
        on_progress(stage, done, total, ())

    with ExitStack() as stack:
        stack.enter_context(workspace.taken())
        workers = stack.enter_context(open_workers())
        database = layer_database(workspace, model, judges, target, settings.seed, workers, ranges)
        bench, costs = stack.enter_context(measured(model, plan, target, workspace, on_progress, clock, workers))
        paying = _paying(model, plan, target, costs)
        database.build({name: [choice] for name, choice in paying.choices}, on_stage)
        _require_weights_back(module, model, judges.sample)
        pruned = CorrectedWeights(database, model, judges, target.host_cores, settings.seed)
        school = School(module, model, training, judges, settings, workspace.directory, device, on_stage)
        recovery, shipped = school.recover(paying, pruned(paying), on_epoch)

        @cache
        def weights(plan: Plan) -> Mapping[str, np.ndarray]:
            if plan == paying:
                return shipped
            return school.ceiling(plan, {} if settings.gradual else pruned(plan)) if plan.choices else {}

        if not rivals:
            return built_alone(
                model, plan, target, workspace, weights, judges, judges.sample, bench, costs, settings.seed,
                on_progress, label=LABEL, recovery=recovery,
            )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="hwsparse-") as scratch:
            shop = Workshop(model, target, weights, costs, bench, judges, judges.sample, Path(scratch), settings.seed)
            verdict = reach_verdict(
                shop, judges, {LABEL: plan}, Limits(), database, workspace.artifacts, on_stage,
                school.small_dense(paying, target),
            )  # fmt: skip
    return Outcome(
        model, target, verdict.baselines, verdict.finalists, verdict.winner, (), None, costs, weights,
        workspace.directory, settings.seed, fitted_on(judges), verdict.rivals, recovery,
        cpu_share=bench.cpu_share,
    )  # fmt: skip


def _paying(model: Model, plan: Plan, target: Target, costs: CostModel) -> Plan:
    """What of a plan is faster on the target.

    Raises:
        UnsupportedError: nothing is.
    """
    paying, refused = compiler.settle(model, plan, target, costs)
    if not paying.choices:
        name, refusal = next(iter(refused.items()), ("", None))
        why = f"; layer {name!r}: {refusal.reason}" if refusal else ""
        raise UnsupportedError(f"{target.name} runs no layer of {model.name} faster as asked{why}")
    return paying


def _parted(dataset: Dataset, corrupted: Iterable[Dataset], seed: int) -> tuple[Dataset, Dataset, Iterable[Dataset]]:
    """What is trained on, what judges, and the latter under every corruption."""
    least = round(MIN_LABELS / (1 - TRAINING_SHARE))
    if len(dataset) < least:
        raise DataError(
            f"data set {dataset.name!r} has {len(dataset)} labels: to train on most of them and judge by the others "
            f"takes at least {least}; or give training data of their own"
        )
    trains, judges = dataset.parted(TRAINING_SHARE, seed)
    return (
        dataset.subset(trains),
        dataset.subset(judges),
        (of_the_same(dataset, each).subset(judges) for each in corrupted),
    )


def _require_apart(training: Dataset, dataset: Dataset) -> None:
    """Refuses samples that are trained on and judged by.

    Raises:
        DataError: there are some.
    """
    if both := len(set(training.contents()) & set(dataset.contents())):
        raise DataError(
            f"{both} samples of {dataset.name!r} are in the training data {training.name!r} too: what is trained on "
            "cannot judge"
        )


def _require_weights_back(module: nn.Module, model: Model, sample: Mapping[str, np.ndarray]) -> None:
    """Refuses, before it is trained, a module whose weights could not be told from the model's afterwards.

    Exporters merge constants that are equal: of weights that are not yet trained some may be, and are not later.

    Raises:
        ModelError: that is so.
    """
    other = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1e-3 * torch.rand(parameter.shape, generator=generator).to(parameter))
    model.changes_to(imported(other, model, sample))
