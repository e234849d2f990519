"""Training: it recovers what was lost, keeps its zeros, and goes on after a stop as if there had been none."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from hwsparse.data import Dataset
from hwsparse.errors import DataError, ModelError, PlanError, StorageError, TuningError
from hwsparse.model import import_torch
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import Evaluator, apply_plan
from hwsparse.tuning import TuningSettings
from hwsparse.tuning.checkpoint import Epoch
from hwsparse.tuning.tune import Tuned, _Training, tune
from tests.disk import small_files
from tests.tuning.modules import classifier, embedder, pictures, plan_of, pruned, sentences

SETTINGS = TuningSettings(epochs=3, batch=32, learning_rate=0.05, augment="crop-flip")
TRAIN, VALIDATION, HELD_OUT = pictures(192, 1), pictures(64, 2), pictures(400, 3)


def train(settings: TuningSettings = SETTINGS, choice: str = "unstructured@0.8", **options: object) -> Tuned:
    module, model = classifier()
    plan = plan_of(model, choice, "first", "second")
    start = None if settings.gradual else pruned(model, plan)
    return tune(module, model, plan, TRAIN, VALIDATION, settings, start=start, **options)  # type: ignore[arg-type]


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_what_pruning_lost_is_recovered_and_zeros_stay() -> None:
    module, model = classifier()
    plan = plan_of(model, "unstructured@0.9", "first", "second")
    weights = pruned(model, plan)
    before = copy.deepcopy(module.state_dict())
    held_out = Evaluator(model, HELD_OUT, "held-out")
    lost = held_out.evaluate(weights).drop
    settings = TuningSettings(epochs=6, batch=32, learning_rate=0.05)
    found = tune(module, model, plan, TRAIN, VALIDATION, settings, start=weights)
    tuned = import_torch(found.module, (torch.zeros(1, 4, 8, 8),), name="tuned")
    left = held_out.evaluate({}).value - Evaluator(tuned, HELD_OUT, "held-out").evaluate({}).value
    assert lost > 0.1 and left < 0.5 * lost
    for name, weight in weights.items():
        np.testing.assert_array_equal(tuned.weight(name) != 0, weight != 0)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not found.module.training
    best = max(found.epochs, key=lambda epoch: epoch.quality)
    assert found.best == best and [epoch.number for epoch in found.epochs] == [*range(7)]
    assert Evaluator(tuned, VALIDATION, "validation").evaluate({}).value == best.quality


@pytest.mark.parametrize("choice", ["unstructured@0.8", "block4x1@0.75", "1:4"])
def test_gradual_training_ends_with_the_pattern(choice: str) -> None:
    settings = TuningSettings(epochs=4, batch=32, learning_rate=0.02, gradual=True, patience=1)
    found = train(settings, choice)
    model = import_torch(found.module, (torch.zeros(1, 4, 8, 8),), name="tuned")
    plan = plan_of(model, choice, "first", "second")
    for name, weight in apply_plan(model, plan).items():  # there is nothing more to drop
        np.testing.assert_array_equal(weight, model.weight(name))
    ratios = [epoch.ratio for epoch in found.epochs]
    assert ratios == sorted(ratios) and ratios[0] == 0
    assert found.best.ratio == pytest.approx(parse_choice(choice).ratio, abs=0.01)


def test_hints_draw_layers_to_what_they_hand_on_in_the_dense_module() -> None:
    module, _ = classifier()
    images = torch.from_numpy(np.array(HELD_OUT.inputs["image"]))
    errors = []
    for weight in (0.0, 5.0):
        settings = TuningSettings(epochs=3, batch=32, learning_rate=0.02, hints=weight)
        tuned = train(settings, "unstructured@0.6").module
        assert not tuned.get_submodule("first")._forward_hooks
        with torch.no_grad():
            found, wanted = (
                each.second(functional.relu(each.first_norm(each.first(images)))) for each in (tuned, module)
            )
        errors.append(float((found - wanted).square().sum() / wanted.square().sum()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("averaging", [0.0, 0.3, 0.999])
def test_what_is_given_is_the_running_mean_of_the_steps(averaging: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the sum by hand, of which few steps are a mean of their own."""
    taken: list[torch.Tensor] = []
    step = _Training._step

    def noted(self: _Training, *arguments: Any) -> float:
        loss = step(self, *arguments)
        taken.append(self._student.get_parameter("first.weight").detach().clone())
        return loss

    monkeypatch.setattr(_Training, "_step", noted)
    monkeypatch.setattr(_Training, "_best_of", lambda self, epochs: epochs[-1])
    found = train(TuningSettings(epochs=3, batch=32, learning_rate=0.05, averaging=averaging))
    mean = taken[0]
    for number, new in enumerate(taken[1:], 1):
        kept = min(averaging, (1 + number) / (10 + number))
        mean = kept * mean + (1 - kept) * new
    torch.testing.assert_close(found.module.get_parameter("first.weight").detach(), mean, rtol=1e-5, atol=1e-6)


def test_what_counts_is_not_averaged() -> None:
    name = "first_norm.num_batches_tracked"
    before = int(classifier()[0].get_buffer(name))
    found = train(TuningSettings(epochs=3, batch=32, learning_rate=0.05))
    assert int(found.module.get_buffer(name)) == before + found.best.number * 6  # 192 images


def test_few_steps_are_enough_for_all_zeros() -> None:
    settings = TuningSettings(epochs=1, batch=192, gradual=True, ramp=1.0)
    assert train(settings).best.ratio == pytest.approx(0.8, abs=0.01)


def test_pairs_are_drawn_to_the_dense_embeddings() -> None:
    module, model = embedder()
    plan = plan_of(model, "unstructured@0.8", "dense")
    settings = TuningSettings(epochs=5, batch=16, learning_rate=0.01, optimizer="adamw", hints=0)
    found = tune(module, model, plan, sentences(80, 1), sentences(40, 2), settings, start=pruned(model, plan))
    losses = [epoch.loss for epoch in found.epochs]
    assert losses[0] is None and losses[1] is not None and losses[-1] is not None
    assert losses[-1] < 0.8 * losses[1]
    assert found.best == max(found.epochs, key=lambda epoch: epoch.quality)


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    first, second = train(), train()
    assert same(first.module, second.module) and first.epochs == second.epochs
    other = train(TuningSettings(epochs=3, batch=32, learning_rate=0.05, augment="crop-flip", seed=1))
    assert not same(first.module, other.module)


class Stop(Exception):
    pass


@pytest.mark.parametrize("gradual", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stops", [(1,), (5, 13), (12,), (17,)])
def test_a_stopped_training_ends_as_if_it_had_not_been(
    gradual: bool, optimizer: str, stops: tuple[int, ...], tmp_path: Path
) -> None:
    settings = TuningSettings(
        epochs=3, batch=32, learning_rate=0.01, optimizer=optimizer, gradual=gradual, augment="flip"
    )  # fmt: skip
    whole = train(settings)
    path = tmp_path / "training.safetensors"
    ticks = itertools.count(0, 1000)  # a checkpoint after every step
    for stop in stops:

        def until(done: int, total: int, stop: int = stop) -> None:
            if done == stop:
                raise Stop

        with pytest.raises(Stop):
            train(settings, checkpoint=path, progress=until, clock=ticks.__next__)
    steps: list[int] = []
    resumed = train(settings, checkpoint=path, progress=lambda done, total: steps.append(done))
    assert steps[0] == stops[-1] and steps[-1] == 18
    assert same(whole.module, resumed.module) and whole.epochs == resumed.epochs
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    finished = train(settings, checkpoint=path)  # nothing is left to do
    assert same(whole.module, finished.module)


def test_a_training_that_gets_no_better_ends_early() -> None:
    settings = TuningSettings(epochs=30, batch=32, learning_rate=1e-9, patience=2, optimizer="adamw")
    found = train(settings)
    assert found.epochs[-1].number < 30
    assert found.epochs[-1].number - found.best.number == 2


def test_what_training_makes_worse_is_not_taken() -> None:
    module, model = classifier()
    plan = plan_of(model, "unstructured@0.3", "first", "second")
    settings = TuningSettings(epochs=2, batch=32, learning_rate=0.5, distillation=0, hints=0, patience=1)
    shuffled = Dataset("shuffled", TRAIN.inputs, np.random.default_rng(0).permutation(TRAIN.labels))
    weights = pruned(model, plan)
    found = tune(module, model, plan, shuffled, VALIDATION, settings, start=weights)
    tuned = import_torch(found.module, (torch.zeros(1, 4, 8, 8),), name="tuned")
    assert found.best.number == 0 and found.epochs[-1].number == 2  # the start is no reason to stop
    np.testing.assert_allclose(tuned.weight("first"), weights["first"], rtol=1e-4, atol=1e-7)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    train(TuningSettings(epochs=1, batch=32), checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(TuningError, match=r"learning_rate 0\.02, not 0\.03"):
        train(TuningSettings(epochs=1, batch=32, learning_rate=0.03), checkpoint=path)
    with pytest.raises(TuningError, match=r"with plan \w+, not"):
        train(TuningSettings(epochs=1, batch=32), "2:4", checkpoint=path)
    assert path.read_bytes() == before


def test_a_training_on_other_threads_is_another(tmp_path: Path) -> None:
    path, settings = tmp_path / "training.safetensors", TuningSettings(epochs=1, batch=32)
    threads = torch.get_num_threads()
    train(settings, checkpoint=path)
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(TuningError, match=rf"with torch threads {threads}, not {threads + 1}; remove it, or"):
            train(settings, checkpoint=path)
    finally:
        torch.set_num_threads(threads)
    train(settings, checkpoint=path)


@pytest.mark.parametrize("what", ["empty", "cut", "foreign", "without weights"])
def test_a_damaged_checkpoint_is_one_clear_error(what: str, tmp_path: Path) -> None:
    path, settings = tmp_path / "training.safetensors", TuningSettings(epochs=1, batch=32)
    train(settings, checkpoint=path)
    content, tensors = path.read_bytes(), load_file(path)
    match what:
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "foreign":
            save_file(tensors, path)
        case "without weights":
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
            save_file({name: value for name, value in tensors.items() if "second.weight" not in name}, path, metadata)
    with pytest.raises(TuningError, match="remove it"):
        train(settings, checkpoint=path)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path, settings = tmp_path / "training.safetensors", TuningSettings(epochs=2, batch=32)

    def stop(epoch: Epoch) -> None:
        if epoch.number == 1:
            raise Stop

    with pytest.raises(Stop):
        train(settings, checkpoint=path, on_epoch=stop)
    before = path.read_bytes()
    with pytest.raises(StorageError, match="cannot write"), small_files(1 << 10):
        train(settings, checkpoint=path)
    assert [item.name for item in tmp_path.iterdir()] == [path.name] and path.read_bytes() == before


class Tied(nn.Module):
    """Two layers of one weight, and a layer of its own behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 4)
        self.second.weight = self.first.weight

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.last(self.second(self.first(image.flatten(1))))
        return logits


def test_tied_weights_are_kept_in_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Tied().eval()
    model = import_torch(module, (torch.zeros(1, 4, 8, 8),), name="tied")
    plan = plan_of(model, "unstructured@0.5", "last")  # a weight that two layers read is left alone
    path = tmp_path / "training.safetensors"
    settings, start = TuningSettings(epochs=1, batch=64), pruned(model, plan)
    tuned = tune(module, model, plan, TRAIN, VALIDATION, settings, start=start, checkpoint=path)
    again = tune(module, model, plan, TRAIN, VALIDATION, settings, start=start, checkpoint=path)
    assert same(tuned.module, again.module)
    assert torch.equal(tuned.module.get_parameter("first.weight"), tuned.module.get_parameter("second.weight"))


def test_a_training_that_diverges_says_so() -> None:
    with pytest.raises(TuningError, match=r"lower learning rate"):
        train(TuningSettings(epochs=50, batch=32, learning_rate=10, momentum=1.0, weight_decay=1.0))


class Images(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner = inner.first, inner

    def forward(self, image: Tensor) -> Tensor:
        if len(image) > 1:
            raise ValueError("one at a time")
        logits: Tensor = self.inner(image)
        return logits


def test_what_cannot_be_trained_is_said() -> None:
    module, model = classifier()
    plan = plan_of(model, "unstructured@0.8", "first")
    start = pruned(model, plan)
    softmax = import_torch(nn.Sequential(module, nn.Softmax(1)), (torch.zeros(1, 4, 8, 8),), name="softmax")
    probabilities = softmax, Plan(softmax.digest), TRAIN.for_model(softmax), VALIDATION.for_model(softmax)
    with pytest.raises(TuningError, match="give one of the two"):
        tune(module, model, plan, TRAIN, VALIDATION, TuningSettings(gradual=True), start=start)
    with pytest.raises(TuningError, match="give one of the two"):
        tune(module, model, plan, TRAIN, VALIDATION, TuningSettings())
    with pytest.raises(TuningError, match="torch cannot train on 'abacus'"):
        tune(module, model, plan, TRAIN, VALIDATION, TuningSettings(), start=start, device="abacus")
    with pytest.raises(PlanError, match="another model"):
        tune(module, model, Plan.of("0" * 64, {}), TRAIN, VALIDATION, TuningSettings(), start={})
    with pytest.raises(ModelError, match="one at a time"):
        tune(Images(module), model, plan, TRAIN, VALIDATION, TuningSettings(), start=start)
    with pytest.raises(ModelError, match="to give logits"):
        tune(nn.Sequential(module, nn.Softmax(1)), *probabilities, TuningSettings(), start={})
    with pytest.raises(ModelError, match="all are frozen"):
        tune(copy.deepcopy(module).requires_grad_(False), model, plan, TRAIN, VALIDATION, TuningSettings(), start=start)
    wrong = Dataset("wrong", {"image": np.zeros((8, 4, 5, 5), np.float32)}, np.arange(8) % 2)
    with pytest.raises(DataError, match="a sample of 'image' is"):
        tune(module, model, plan, wrong, VALIDATION, TuningSettings(), start=start)


class Attentive(nn.Module):
    """Attention over (samples, 5, 16), which reads the weight of its output layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))
        return logits


def test_a_layer_that_is_never_called_has_no_hints() -> None:
    torch.manual_seed(0)
    module = Attentive().eval()
    model = import_torch(module, (torch.zeros(1, 5, 16),), name="attentive")
    plan = plan_of(model, "unstructured@0.5", "attention.out_proj", "last")

    def data(samples: int, seed: int) -> Dataset:
        x = np.random.default_rng(seed).standard_normal((samples, 5, 16)).astype(np.float32)
        return Dataset("vectors", {model.inputs[0].name: x}, np.arange(samples) % 4)

    settings = TuningSettings(epochs=1, batch=32)
    found = tune(module, model, plan, data(64, 1), data(32, 2), settings, start=apply_plan(model, plan))
    assert len(found.epochs) == 2
    zeros = found.module.get_submodule("attention.out_proj").weight == 0
    assert int(zeros.sum()) >= 0.5 * 16 * 16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("gradual", [False, True])
def test_it_trains_and_goes_on_where_cuda_is(gradual: bool, tmp_path: Path) -> None:
    settings = TuningSettings(epochs=3, batch=32, learning_rate=0.01, gradual=gradual)
    path = tmp_path / "training.safetensors"

    def until(done: int, total: int) -> None:
        if done == 5:
            raise Stop

    ticks = itertools.count(0, 1000)
    with pytest.raises(Stop):
        train(settings, device="cuda", checkpoint=path, progress=until, clock=ticks.__next__)
    steps: list[int] = []
    found = train(settings, device="cuda", checkpoint=path, progress=lambda done, total: steps.append(done))
    assert steps[0] == 5 and steps[-1] == 18
    assert found.epochs[-1].ratio == pytest.approx(0.8, abs=0.01)
    assert all(value.device.type == "cuda" for value in found.module.state_dict().values())
