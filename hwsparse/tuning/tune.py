"""The training of a pruned module, step by step, with the dense one as its teacher.

    fixed mask   starts with pruned weights, and what is zero stays zero
    gradual      starts dense, and the smallest weights go, the more the farther it is (`schedule`)

Layers that the plan has in int8 are trained as they will compute, rounded (`rounding`).

Every draw is decided by seed, epoch and step, and a checkpoint holds all the rest: a training that was stopped ends
with the weights that it would have ended with. Where they would be others, as with other threads, it does not go on.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hwsparse import strictjson
from hwsparse.data import Dataset
from hwsparse.errors import DataError, ModelError, TuningError, one_line
from hwsparse.model import Model
from hwsparse.plan import Plan
from hwsparse.quantise import split_weights
from hwsparse.sparsify.ranges import scales_read
from hwsparse.sparsify.scores import SCORERS
from hwsparse.tuning.batches import augmented, in_order, steps_per_epoch, take, training_order
from hwsparse.tuning.checkpoint import Epoch, Position, load_checkpoint, save_checkpoint, writing_checkpoints
from hwsparse.tuning.kept_weights import KeptWeights
from hwsparse.tuning.losses import LOSSES, hints
from hwsparse.tuning.rounding import begin_rounding, end_rounding
from hwsparse.tuning.settings import TuningSettings

CHECKPOINT_EVERY_S = 60.0
GROW_EVERY = 32  # steps


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A tuned copy of the module, in evaluation mode, as it was after `best`."""

    module: nn.Module
    epochs: tuple[Epoch, ...]
    best: Epoch


def tune(
    module: nn.Module,
    model: Model,
    plan: Plan,
    train: Dataset,
    validation: Dataset,
    settings: TuningSettings,
    *,
    start: Mapping[str, np.ndarray] | None = None,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    clock: Callable[[], float] = time.monotonic,
) -> Tuned:
    """Trains a copy of a module whose layers are as sparse as a plan says.

    Args:
        module: the dense network; of classes it answers with logits. It stays as it is.
        model: what `import_torch` made of it; its inputs are the module's arguments, in their order.
        train, validation: of no sample in common; the latter tells which epoch was best.
        start: canonical pruned weights by layer name, of all layers of the plan, and the ranges of what int8 layers
            read; of a gradual training, none.
        teacher: whose answers are learned; by default the module, as it is.
        checkpoint: a .safetensors file that is written every minute; if it is there, the training goes on from it.
        device: where torch trains: cpu, or cuda.
        progress: called with the steps done and the steps in all.

    Raises:
        PlanError: the plan does not fit the model, or `start` the plan.
        ModelError: a layer of the plan is no submodule of the module, or one that int8 cannot be trained for; or torch
            cannot run the module.
        DataError: the data do not fit the model, or a range is missing.
        TuningError: torch has no such device, a gradual training has int8 layers, the loss is no longer finite, or the
            checkpoint is damaged or of another training.
        StorageError: the checkpoint cannot be written.
    """
    if settings.gradual != (start is None):
        raise TuningError("a gradual training starts dense, any other with pruned weights: give one of the two")
    if settings.gradual and plan.in_bytes:
        raise TuningError("zeros cannot grow in int8 layers: leave out --gradual, or choose float32")
    for dataset in (train, validation):
        dataset.check_fits(model)
    if train.kind != validation.kind:
        raise DataError(f"training data are of {train.kind}, but validation data of {validation.kind}")
    place = _device(device)
    with _reproducible(), nullcontext() if checkpoint is None else writing_checkpoints(checkpoint.parent):
        training = _Training(
            module, model, plan, train, validation, settings, start, teacher or module, place
        )  # fmt: skip
        return training.run(checkpoint, progress, on_epoch, clock)


class _Training:
    """A training on its way."""

    def __init__(
        self,
        module: nn.Module,
        model: Model,
        plan: Plan,
        train: Dataset,
        validation: Dataset,
        settings: TuningSettings,
        start: Mapping[str, np.ndarray] | None,
        teacher: nn.Module,
        device: torch.device,
    ) -> None:
        self._settings, self._device, self._train, self._validation = settings, device, train, validation
        self._names = [spec.name for spec in model.inputs]
        self._teacher, self._student = (_copy(each, device) for each in (teacher, module))
        self._teacher.eval().requires_grad_(False)
        self._kept = KeptWeights(self._student, model, plan)  # refuses what does not belong together
        begin_rounding(self._student, scales_read(model, plan, start or {}))
        self._mean = AveragedModel(self._student, avg_fn=partial(_running_mean, settings.averaging), use_buffers=True)
        self._mean_kept = KeptWeights(self._mean.module, model, plan)
        if start is not None:
            for kept in (self._kept, self._mean_kept):
                kept.start_from(split_weights(start).plain)
        hinting = [name for name, _ in plan.choices] if settings.hints else []
        self._hints, self._wanted = (_Taps(each, hinting) for each in (self._student, self._teacher))
        self._optimizer = _optimizer(self._student, settings)
        self._per_epoch = steps_per_epoch(train, settings.batch)
        self._steps = settings.epochs * self._per_epoch
        self._grown_at = min(math.ceil(settings.ramp * self._steps), self._steps - 1)
        self._schedule = self._cosine(0)
        self._best: dict[str, Tensor] = {}
        self._identity = {
            **{key: str(value) for key, value in strictjson.encode(settings).items()},
            "model": model.digest[:16],
            "plan": plan.digest[:16],
            "training data": train.digest[:16],
            "validation data": validation.digest[:16],
            "first weights": _digest(start or {}),
            "teacher": _digest({name: tensor.cpu().numpy() for name, tensor in self._teacher.state_dict().items()}),
            "device": str(device),
            "torch": str(torch.__version__),
        }
        if device.type == "cpu":  # sums are of parts, one for each thread
            self._identity["torch threads"] = str(torch.get_num_threads())

    def run(
        self,
        checkpoint: Path | None,
        progress: Callable[[int, int], None],
        on_epoch: Callable[[Epoch], None],
        clock: Callable[[], float],
    ) -> Tuned:
        step, loss, epochs = 0, 0.0, list[Epoch]()
        if checkpoint is not None and checkpoint.exists():
            position, tensors = load_checkpoint(checkpoint, self._identity)
            step, loss, epochs = position.step, position.loss, list(position.epochs)
            self._restore(checkpoint, position, tensors)
        self._require_logits()
        if not epochs:
            epochs.append(self._finished(0, None, epochs))
            on_epoch(epochs[0])
        saved_at = clock()
        order, ordered = np.empty(0, np.int64), -1
        progress(step, self._steps)
        while step < self._steps and not self._is_over(epochs):
            epoch, place = divmod(step, self._per_epoch)
            if ordered != epoch:
                order, ordered = training_order(self._train, self._settings.seed, epoch), epoch
            labels = order[place * self._settings.batch : (place + 1) * self._settings.batch]
            loss += self._step(step, labels)
            step += 1
            ended = place + 1 == self._per_epoch
            if ended:
                epochs.append(self._finished(epoch + 1, loss / self._per_epoch, epochs))
                loss = 0.0
            if checkpoint is not None and (ended or clock() - saved_at >= CHECKPOINT_EVERY_S):
                save_checkpoint(checkpoint, self._identity, Position(step, loss, tuple(epochs)), self._state())
                saved_at = clock()
            if ended:
                on_epoch(epochs[-1])
            progress(step, self._steps)
        self._student.load_state_dict(self._best)
        self._hints.close()
        end_rounding(self._student)
        return Tuned(self._student.eval(), tuple(epochs), self._best_of(epochs))

    def _step(self, step: int, labels: np.ndarray) -> float:
        """Learns from one batch; its loss."""
        settings = self._settings
        if settings.gradual and (step == self._grown_at or (step < self._grown_at and step % GROW_EVERY == 0)):
            self._kept.grow(step / max(self._grown_at, 1) if step < self._grown_at else 1.0)
            self._kept.hold()
        torch.manual_seed(settings.seed * self._steps + step)  # for modules that draw, as dropout does
        inputs = augmented(take(self._train, self._names, labels, self._device), settings.augment, settings.seed, step)
        distillation, supervision = LOSSES[self._train.rows_per_label]
        self._student.train()
        answers = self._answers(self._student, inputs)
        loss = torch.zeros((), device=self._device)
        if settings.distillation > 0 or self._wanted:
            with torch.no_grad():
                wanted = self._answers(self._teacher, inputs)
            loss = loss + settings.distillation * distillation(answers, wanted, settings.temperature)
        own, dense = self._hints.taken, self._wanted.taken
        if both := [name for name in own if name in dense]:
            loss = loss + settings.hints * hints([own[name] for name in both], [dense[name] for name in both])
        if settings.distillation < 1:
            told = torch.from_numpy(np.array(self._train.labels[labels])).to(self._device)
            loss = loss + (1 - settings.distillation) * supervision(answers, told)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TuningError(
                f"the loss is {value} at step {step + 1}: training diverges; take a lower learning rate than "
                f"{settings.learning_rate:g}"
            )
        self._optimizer.zero_grad()
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # no gradient, or no memory
            raise TuningError(f"torch cannot learn from a batch: {one_line(error)}") from None
        self._optimizer.step()
        self._schedule.step()
        self._kept.hold()
        self._mean.update_parameters(self._student)
        return value

    def _require_logits(self) -> None:
        """Refuses a module whose answers are probabilities: losses take them for logits, and would learn little.

        Raises:
            ModelError: they are.
        """
        with torch.no_grad():
            first = next(in_order(self._validation, self._settings.batch))
            answers = self._answers(self._teacher, take(self._validation, self._names, first, self._device))
        sums = answers.sum(1)
        if self._train.kind == "classes" and bool((answers >= 0).all()) and torch.allclose(sums, torch.ones_like(sums)):
            raise ModelError(
                "the module answers with probabilities: to be tuned it has to give logits, without softmax"
            )

    def _finished(self, number: int, loss: float | None, before: list[Epoch]) -> Epoch:
        """Judges the mean of weights after an epoch, and keeps it if none was better."""
        # Of steps before, it may hold weights that are gone by now.
        self._mean_kept.masks = self._kept.masks
        self._mean_kept.hold()
        epoch = Epoch(number, loss, self._quality(), self._kept.ratio)
        if self._best_of([*before, epoch]) is epoch:
            self._best = {name: tensor.detach().clone() for name, tensor in self._mean.module.state_dict().items()}
        return epoch

    def _best_of(self, epochs: list[Epoch]) -> Epoch:
        """The best epoch among those with the most zeros; of equals the first."""
        return max(epochs, key=lambda epoch: (epoch.ratio, epoch.quality))

    def _is_over(self, epochs: list[Epoch]) -> bool:
        """Whether patience has run out; not before the last zeros have come.

        What training starts from does not count: at a high rate it gets worse before it gets better.
        """
        trained = epochs[1:]
        grown = not self._settings.gradual or epochs[-1].number * self._per_epoch > self._grown_at
        return bool(trained) and grown and epochs[-1].number - self._best_of(trained).number >= self._settings.patience

    def _quality(self) -> float:
        self._mean.eval()
        rows = []
        with torch.no_grad():
            for labels in in_order(self._validation, self._settings.batch):
                inputs = take(self._validation, self._names, labels, self._device)
                rows.append(self._answers(self._mean, inputs).flatten(1).cpu().numpy())
        outputs = np.concatenate(rows).astype(np.float64)
        if not np.isfinite(outputs).all():
            raise TuningError("the module's answers are no longer finite; take a lower learning rate")
        scorer = SCORERS[self._validation.metric](outputs, self._validation.labels)
        return float(scorer(np.ones((1, len(self._validation))))[0])

    def _answers(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        try:
            answers = module(*inputs)
        except Exception as error:  # a module may raise anything
            raise ModelError(f"torch cannot run the module on a batch: {one_line(error)}") from None
        first = answers[0] if isinstance(answers, tuple | list) else answers
        if not isinstance(first, Tensor) or first.ndim != 2 or len(first) != len(inputs[0]):
            shape = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
            raise DataError(f"the module answers a batch of {len(inputs[0])} with {shape}, not with one row for each")
        return first

    def _state(self) -> dict[str, Tensor]:
        state = {f"module/{name}": tensor for name, tensor in self._student.state_dict().items()}
        state |= {f"mean/{name}": tensor for name, tensor in self._mean.state_dict().items()}
        state |= {f"best/{name}": tensor for name, tensor in self._best.items()}
        state |= {f"mask/{name}": mask for name, mask in self._kept.masks.items()}
        for index, own in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{index}/{name}": value for name, value in own.items() if isinstance(value, Tensor)}
        return state

    def _cosine(self, step: int) -> torch.optim.lr_scheduler.LRScheduler:
        def share(done: int) -> float:
            return (1 + math.cos(math.pi * done / self._steps)) / 2

        return torch.optim.lr_scheduler.LambdaLR(self._optimizer, share, last_epoch=step - 1)

    def _restore(self, checkpoint: Path, position: Position, tensors: Mapping[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        optimizer = self._optimizer.state_dict()
        self._best = {name: value.to(self._device) for name, value in part("best/").items()}
        self._kept.masks = {name: value.to(self._device) for name, value in part("mask/").items()}
        try:
            if position.epochs:
                self._student.load_state_dict(self._best)
            self._student.load_state_dict(part("module/"))
            self._mean.load_state_dict(part("mean/"))
            for place, value in part("optimizer/").items():
                index, _, name = place.partition("/")
                optimizer["state"].setdefault(int(index), {})[name] = value
            self._optimizer.load_state_dict(optimizer)
        except (RuntimeError, ValueError, KeyError) as error:
            raise TuningError(f"{checkpoint}: does not hold this module: remove it ({one_line(error)})") from None
        self._schedule = self._cosine(position.step)


class _Taps:
    """What some layers of a module handed on when it was last run; false if there are none.

    `taken` is by layer name. A layer that is not called is not in it, as when attention reads a layer's weight itself.
    """

    def __init__(self, module: nn.Module, layers: Sequence[str]) -> None:
        self._layers, self.taken = layers, dict[str, Tensor]()
        self._hooks = [
            module.get_submodule(name).register_forward_hook(partial(self._take, name)) for name in layers
        ]  # fmt: skip

    def __bool__(self) -> bool:
        return bool(self._layers)

    def close(self) -> None:
        """Leaves the module as it was."""
        for hook in self._hooks:
            hook.remove()

    def _take(self, name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.taken[name] = output


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(name.encode() + np.ascontiguousarray(values).data)
    return digest.hexdigest()[:16]


def _running_mean(decay: float, mean: Tensor, new: Tensor, steps: int | Tensor) -> Tensor:
    """The mean after one more step; after few of them it is of those few. Whole numbers, as counters, have none."""
    if not mean.is_floating_point():
        return new
    kept = min(decay, (1 + int(steps)) / (10 + int(steps)))
    return mean * kept + new * (1 - kept)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except Exception as error:  # torch raises errors of several types
        raise TuningError(f"torch cannot train on {name!r}: {one_line(error)}; use cpu") from None
    return device


def _copy(module: nn.Module, device: torch.device) -> nn.Module:
    try:
        copied = copy.deepcopy(module).to(device)
    except Exception as error:  # a module may hold anything
        raise ModelError(f"the module cannot be copied: {one_line(error)}") from None
    # Three times as fast on CPUs, for networks of images; others have no weights of four axes.
    return copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _optimizer(module: nn.Module, settings: TuningSettings) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise ModelError("the module has no parameters that may change: all are frozen")
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters,
        settings.learning_rate,
        settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
    )


@contextmanager
def _reproducible() -> Iterator[None]:
    """Leaves torch's generators, and its choice of algorithms, as they were."""
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic
