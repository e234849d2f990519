"""The quality benchmark on a small network, and the figures of its last line by hand."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import quality
from benchmarks.tasks import CIFAR_DEVIATION, CIFAR_MEAN, CIFAR_SIDE, TASKS, Task, given, read_cifar
from hwsparse.codegen import refusal
from hwsparse.data import Corruption
from hwsparse.errors import DataError, InputError, PatternError
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.sparsify import Evaluator, Sizes, layer_database
from tests.sparsify.networks import classifier, images

LOSSES = {
    ("magnitude", "unstructured@0.7"): 0.4,
    ("alps", "unstructured@0.7"): 0.1,
    ("magnitude", "block4x1@0.7"): 0.5,
    ("alps", "block4x1@0.7"): 0.3,
    ("regroup", "block4x1@0.7"): 0.25,
    ("corrected", "unstructured@0.5"): 0.02,
    ("corrected", "2:4"): 0.03,
}


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    quality.options(parser)
    return parser.parse_args(["--task", "kws", *arguments])


def test_figures_are_points_between_methods() -> None:
    dense = np.full(9, 0.9)
    values = {(method, parse_choice(text)): dense - lost for (method, text), lost in LOSSES.items()}
    figures = quality._figures(dense, values)
    assert figures["drop_unstructured_50"] == pytest.approx(2) and figures["drop_nm_24"] == pytest.approx(3)
    assert figures["obs_minus_magnitude_70"] == pytest.approx(20)  # of blocks, where less is gained
    assert math.isnan(figures["obs_minus_magnitude_90"])
    assert figures["regroup_minus_direct"] == pytest.approx(5)
    removed = quality._figures_of_removal(dense, [])
    assert {*figures, *removed, "floors_missed"} == set(quality.FIGURES)


def test_every_way_is_tried_and_judged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task(classifier(), images(20), images(30, seed=1))
    monkeypatch.setitem(TASKS, "kws", (lambda data, seed: task,))
    choices = ("unstructured@0.5", "unstructured@0.9", "block2x1@0.5", "block2x1@0.9", "2:4")
    figures, details = quality.run(parsed("--patterns", "unstructured", "block2x1", "2:4", "--ratios", "0.5", "0.9"))
    assert isinstance(details, dict)
    assert figures["floors_missed"] == sum(holds is False for *_, holds in details["classifier"]["floors"])
    dropped = details["classifier"]["dropped"]
    assert {(method, choice) for method, choice, *_ in dropped} == {
        (method, choice)
        for method in quality.METHODS
        for choice in choices
        if method != "direct-corrected" or "block" in choice  # where rows share nothing it is what `corrected` is
    }
    by_way = {(method, choice): value for method, choice, value, low, high in dropped if low <= value <= high}
    assert len(by_way) == len(dropped)
    sizes = details["classifier"]["sizes"]
    assert sizes["unstructured@0.9"]["macs"] < sizes["2:4"]["macs"] < Sizes(task.model).of_weights({}).macs
    assert details["classifier"]["checkpoint"] == task.model.digest
    assert figures["drop_nm_24"] == pytest.approx(100 * by_way["corrected", "2:4"])
    fair = {choice: points for what, choice, *points, holds in details["classifier"]["floors"] if "both" in what}
    for choice in ("unstructured@0.9", "2:4"):
        gained = by_way["magnitude-corrected", choice] - by_way["corrected", choice]
        assert fair[choice][0] == pytest.approx(100 * gained)
    assert "30 held-out samples" in " ".join(capsys.readouterr().out.split())


def test_channels_are_removed_as_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task(classifier(), images(20), images(30, seed=1))
    monkeypatch.setitem(TASKS, "kws", (lambda data, seed: task,))
    figures, details = quality.run(parsed("--patterns", "--kept", "0.8", "0.5"))
    assert isinstance(details, dict)
    found = details["classifier"]["removed"]
    assert {(method, kept) for method, kept, *_ in found} >= {("magnitude", 0.5), ("structured OBS, fitted", 0.5)}
    (gain,) = [points[0] for what, _, *points, holds in details["classifier"]["floors"] if holds is not None]
    assert figures["channels_obs_minus_magnitude"] == pytest.approx(gain)
    shown = " ".join(capsys.readouterr().out.split())
    assert "whole channels and heads are removed" in shown and "static masks" not in shown
    with pytest.raises(InputError, match="--kept"):
        quality.run(parsed("--kept", "1.5"))


def test_a_network_without_finite_answers_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task, honest = Task(classifier(), images(20), images(30, seed=1)), Evaluator.resampled

    def resampled(self: Evaluator, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        if weights:
            raise DataError("an answer is not finite")
        return honest(self, weights)

    monkeypatch.setitem(TASKS, "kws", (lambda data, seed: task,))
    monkeypatch.setattr(Evaluator, "resampled", resampled)
    _, details = quality.run(parsed("--patterns", "2:4", "--methods", "magnitude", "--kept"))
    assert isinstance(details, dict) and details["classifier"]["dropped"] == []
    assert "classifier, magnitude, 2:4, uniform is left out: an answer is not finite" in capsys.readouterr().out


def test_int8_dense_and_pruned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task(classifier(), images(20), images(30, seed=1))
    monkeypatch.setitem(TASKS, "kws", (lambda data, seed: task,))
    ways = ("--methods", "magnitude", "alps", "corrected", "--patterns", "block4x4", "--ratios", "0.5", "--kept")
    figures, details = quality.run(parsed(*ways, "--dtypes", "float32", "int8"))
    assert isinstance(details, dict)
    lost = {(method, pruned): value for method, pruned, value, *_ in details["classifier"]["dropped"]}
    assert lost.keys() == {
        *((method, "dense/int8") for method in ("magnitude", "corrected")),
        *((method, f"block4x4@0.5{end}") for method in ("magnitude", "alps", "corrected") for end in ("", "/int8")),
    }
    assert figures["drop_dense_int8"] == pytest.approx(100 * lost["corrected", "dense/int8"])
    (asked,) = [holds for _, choice, *_, holds in details["classifier"]["floors"] if choice == "dense/int8"]
    assert asked is (figures["drop_dense_int8"] <= 0.5)
    assert "dense/int8" in capsys.readouterr().out


def test_all_layers_that_can_be_are_in_bytes() -> None:
    model = classifier()
    inner = Plan.uniform(model.digest, model.layers[1:2], parse_choice("block4x4@0.5/int8"))
    whole = quality._wholly(model, inner, "int8")
    assert whole.in_bytes == {layer.name for layer in model.layers if refusal(layer, Choice(dtype="int8")) is None}
    assert [choice for _, choice in whole.choices if not choice.is_dense] == [choice for _, choice in inner.choices]


def test_zeros_shared_out_in_every_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task(classifier(), images(20), images(30, seed=1))
    monkeypatch.setitem(TASKS, "kws", (lambda data, seed: task,))
    arguments = ("--patterns", "unstructured", "2:4", "--ratios", "0.5", "--methods", "alps", "corrected")
    figures, details = quality.run(parsed(*arguments, "--allocations", *quality.ALLOCATIONS))
    assert isinstance(details, dict)
    dropped = details["classifier"]["dropped"]
    ways = {f"unstructured@0.5{end}" for end in ("", ", erk", ", global-magnitude", ", least-harm")} | {"2:4"}
    assert {(method, pruned) for method, pruned, *_ in dropped} == {
        (method, pruned) for method in ("alps", "corrected") for pruned in ways
    }
    # The last line and the floors are of the same choice for all layers.
    alike = next(
        value for method, pruned, value, *_ in dropped if (method, pruned) == ("corrected", "unstructured@0.5")
    )
    assert figures["drop_unstructured_50"] == pytest.approx(100 * alike)
    choices = {choice for what, choice, *_ in details["classifier"]["floors"] if "OBS" not in what}
    assert choices == {"unstructured@0.5", "2:4"}
    assert "least-harm" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("allocation", [each for each in quality.ALLOCATIONS if each != quality.UNIFORM])
def test_an_allocation_has_the_share_of_zeros(allocation: str) -> None:
    task = Task(classifier(), images(20), images(30, seed=1))
    layers = [layer for layer in task.model.layers if layer.name in ("first", "grouped", "last")]
    harm = quality._harm(task, layers, threads=1, seed=0)
    assert {name: set(curve) for name, curve in harm.items()} == {
        layer.name: set(layer_database.RATIOS) for layer in layers
    }
    ((found, plan),) = quality._plans(task, layers, parse_choice("unstructured@0.6"), [allocation], lambda: harm)
    assert found == allocation
    ratios = {layer.name: plan.choice(layer.name).ratio for layer in layers}
    sizes = {layer.name: layer.outputs * layer.inputs for layer in layers}
    zeros = sum(ratios[name] * sizes[name] for name in sizes) / sum(sizes.values())
    assert zeros == pytest.approx(0.6, abs=2e-3)
    assert len(set(ratios.values())) > 1


def test_what_corruption_costs_stands_beside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = images(30, seed=1)
    faint, same = held_out.under("faint", {"x": held_out.inputs["x"] / 9}), held_out.under("same", held_out.inputs)
    task = Task(classifier(), images(20), held_out, lambda: iter((faint, same)))
    monkeypatch.setitem(TASKS, "kws", (lambda data, seed: task,))
    monkeypatch.setenv("COLUMNS", "200")
    asked = ("--methods", "magnitude", "wanda", "--patterns", "2:4", "--robustness")
    _, details = quality.run(parsed(*asked))
    found = details["classifier"]  # type: ignore[index]
    assert found["corruptions"] == ["images (faint)", "images (same)"]
    judged = [Evaluator(task.model, each, "held-out").evaluate({}).value for each in (faint, same)]
    assert found["dense_corrupted"][0] == pytest.approx(np.mean(judged))
    assert [row[:2] for row in found["dropped_corrupted"]] == [["magnitude", "2:4"], ["wanda", "2:4"]]
    assert all(low <= value <= high for _, _, value, low, high in found["dropped_corrupted"])
    said = " ".join(capsys.readouterr().out.split())
    assert "magnitude, corrupted" in said and "where they are corrupted" in said
    plain = Task(task.model, task.calibration, held_out)
    monkeypatch.setitem(TASKS, "kws", (lambda data, seed: plain,))
    with pytest.raises(InputError, match="task kws: its samples are neither images nor text"):
        quality.run(parsed(*asked))


def test_a_ratio_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "kws", (lambda data, seed: Task(classifier(), images(20), images(30)),))
    with pytest.raises(PatternError, match=r"ratio 1\.5 is not between 0 and 1"):
        quality.run(parsed("--ratios", "1.5"))


def test_without_data_there_is_no_task(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no task data: give --data DIR or set HWSPARSE_DATA"):
        given(None)
    with pytest.raises(DataError, match=r"no images train_00\.webp"):
        read_cifar(tmp_path, "train")


def test_cifar_images_are_corrupted_as_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, CIFAR_SIDE, CIFAR_SIDE, 3), np.uint8)
    Image.fromarray(pixels.reshape(-1, CIFAR_SIDE, 3)).save(tmp_path / "test_00.webp", lossless=True)
    np.save(tmp_path / "test_labels.npy", np.array([0, 1, 2], np.uint8))
    corruption = Corruption("contrast", 2)
    plain, found = (read_cifar(tmp_path, "test", corruption=each) for each in (None, corruption))
    np.testing.assert_array_equal(found.labels, plain.labels)
    expected = np.stack([corruption.of_pixels(image) for image in pixels])
    for images_, of in ((plain, pixels), (found, expected)):
        normalised = (of / 255 - CIFAR_MEAN) / CIFAR_DEVIATION
        np.testing.assert_allclose(images_.inputs["image"].transpose(0, 2, 3, 1), normalised, atol=1e-6)
