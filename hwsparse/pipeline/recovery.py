"""From a torch module to an artifact of its pruned, trained self: what pays is trained, and what was trained is proven.

    measured   every layer as the plan asks; what is not faster on the device stays dense, in training too
    pruned     in one shot, and corrected, as a search would ship it
    trained    on data that neither tell the best epoch nor report
    built      timed beside dense and onnxruntime, judged on held-out data, packaged

The training is kept as a checkpoint: a job that was stopped goes on where it was. It starts with the same weights
then, because pruned layers are kept too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone

import numpy as np
import torch
from torch import nn

from hwsparse import compiler
from hwsparse.data import Dataset
from hwsparse.errors import UnsupportedError
from hwsparse.model import Model, import_torch
from hwsparse.pipeline.compilation import (
    OnProgress,
    Workspace,
    built_alone,
    corrected_weights,
    layer_database,
    measured,
    require_work,
)
from hwsparse.pipeline.judges import appoint_judges
from hwsparse.pipeline.outcome import Outcome, Recovery
from hwsparse.plan import Plan
from hwsparse.sparsify import apply_plan
from hwsparse.target import Target
from hwsparse.tuning import Epoch, TuningSettings, tune

LABEL = "tuned"
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
    on_progress: OnProgress = lambda stage, done, total, known: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
) -> Outcome:
    """Prunes a module as a plan says, trains what is left, and packages it for the target.

    Where training makes it no better, on the data that tell the best epoch, the weights from before ship.

    Args:
        model: what `import_torch` made of the module; the plan is for it.
        dataset: in three parts, by the settings' seed: a sixth fits the pruned weights, a third tells the best epoch,
            half is only ever reported on.
        training: what is trained on, of no sample in common with `dataset`; by default most of that, and the rest is
            parted as above.
        device: where torch trains.

    Raises:
        UnsupportedError: the target cannot be timed from here, does not support a choice of the plan, or runs no layer
            of it faster: there is nothing to train for.
        PlanError, ModelError, DataError: plan, module and data do not belong together.
        TuningError: training diverges, or the workspace holds another training.
        MeasureError, CompileError, ArtifactError: as their names say.
    """
    require_work(model, target)
    for _, choice in plan.choices:
        target.require(choice)
    apply_plan(model, plan)  # refuses a plan of another model before anything is measured
    if training is None:
        training, dataset = dataset.split(TRAINING_SHARE, settings.seed)
    judges = appoint_judges(model, dataset, target, settings.seed)
    workspace.directory.mkdir(parents=True, exist_ok=True)
    database = layer_database(workspace, model, judges, target, settings.seed)
    with measured(model, plan, target, workspace, on_progress, clock) as (bench, costs):
        paying, refused = compiler.settle(model, plan, target, costs)
        if not paying.choices:
            name, refusal = next(iter(refused.items()), ("", None))
            why = f"; layer {name!r}: {refusal.reason}" if refusal else ""
            raise UnsupportedError(f"{target.name} runs no layer of {model.name} faster as asked{why}")
        database.build(
            {name: [choice] for name, choice in paying.choices},
            lambda stage, done, total: on_progress(stage, done, total, ()),
        )
        pruned = corrected_weights(database, model, judges, target, settings.seed)(paying)
        tuned = tune(
            module,
            model,
            paying,
            training,
            judges.choosing.dataset,
            settings,
            start=None if settings.gradual else pruned,
            checkpoint=workspace.directory / f"training-{model.digest[:16]}.safetensors",
            device=device,
            progress=lambda done, total: on_progress("training", done, total, ()),
            on_epoch=on_epoch,
        )
        examples = tuple(torch.from_numpy(np.array(judges.sample[spec.name])) for spec in model.inputs)
        changed = model.changes_to(import_torch(tuned.module.to("cpu"), examples, name=model.name))
        choosing = judges.choosing
        taken = settings.gradual or choosing.evaluate(changed).value >= choosing.evaluate(pruned).value
        shipped = changed if taken else pruned
        recovery = Recovery(settings, tuned.epochs, tuned.best, taken, judges.reporting.evaluate(pruned))

        def weights(plan: Plan) -> Mapping[str, np.ndarray]:
            return shipped if plan.choices else {}

        return built_alone(
            model, plan, target, workspace, weights, judges, judges.sample, bench, costs, settings.seed, on_progress,
            label=LABEL, recovery=recovery,
        )  # fmt: skip
