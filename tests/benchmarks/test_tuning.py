"""The tuning benchmark on a handful of images, and the figures of its last line by hand."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import tuning
from benchmarks.models.resnet_cifar import ResNet, narrower
from hwsparse.errors import InputError
from hwsparse.model import import_torch
from hwsparse.plan import parse_choice
from hwsparse.sparsify import QualityReport


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    tuning.options(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """As much of a CIFAR-10 directory as the benchmark takes, with images and weights at random."""
    source, rng = tmp_path / "cifar10", np.random.default_rng(0)
    source.mkdir()
    for part, count in (("train", 140), ("test_a", 40)):
        pixels = rng.integers(0, 256, (count * 32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(source / f"{part}_00.webp", lossless=True)
        np.save(source / f"{part}_labels.npy", (np.arange(count) % 10).astype(np.uint8))
    torch.manual_seed(0)
    save_file(ResNet(3).state_dict(), source / "resnet20.safetensors")
    return tmp_path


def test_every_seed_is_pruned_and_trained(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "FITTING", 20)
    figures, details = tuning.run(parsed("--data", str(data), "--seeds", "1", "--epochs", "1", "--threads", "1"))
    assert isinstance(details, dict)
    (run,) = details["runs"]
    dense = details["dense"]["value"]
    assert figures["drop_mean"] == 100 * (dense - run["tuned"]["quality"]["value"])
    assert figures["drop_small_dense"] == 100 * (dense - run["small_dense"]["quality"]["value"])
    assert [epoch["ratio"] for epoch in run["tuned"]["epochs"]] == 2 * [pytest.approx(0.8, abs=1e-3)]
    assert run["small_dense"]["epochs"][1]["ratio"] == 0 and run["pruned"]["samples"] == 40


def test_zeros_are_shared_out_by_shape() -> None:
    module = ResNet(3).eval()
    model = import_torch(module, tuning.EXAMPLE, name="resnet-20")
    layers, choice = model.layers[1:-1], parse_choice("unstructured@0.8")
    plan = tuning._plan(model, layers, choice, "erk")
    sizes = {layer.name: layer.outputs * layer.inputs for layer in layers}
    zeros = sum(plan.choice(name).ratio * size for name, size in sizes.items())
    assert zeros / sum(sizes.values()) == pytest.approx(0.8, abs=1e-3)
    assert plan.choice("layer1.0.conv1").ratio < 0.8 < plan.choice("layer3.2.conv2").ratio
    with pytest.raises(InputError, match="for unstructured pruning only, not for 2:4"):
        tuning._plan(model, layers, parse_choice("2:4"), "erk")


def quality(value: float) -> QualityReport:
    return QualityReport("top1", value, (value, value), 0.0, (0.0, 0.0), 0.0, 100, "test", "held-out")


def test_figures_are_means_over_seeds() -> None:
    def run(seed: int, pruned: float, tuned: float, small: float | None) -> tuning.Run:
        beside = None if small is None else tuning.Trained(quality(small), (), 30.0)
        return tuning.Run(seed, quality(pruned), tuning.Trained(quality(tuned), (), 60.0 * (seed + 1)), beside)

    figures = tuning._figures(quality(0.9), [run(0, 0.8, 0.89, 0.85), run(1, 0.7, 0.87, None)])
    assert figures == pytest.approx(
        {
            "drop_mean": 2.0,
            "drop_deviation": math.sqrt(2),
            "drop_one_shot": 15.0,
            "drop_small_dense": 5.0,
            "minutes_max": 2.0,
            "seeds": 2.0,
        }
    )
    alone = tuning._figures(quality(0.9), [run(0, 0.8, 0.89, None)])
    assert math.isnan(alone["drop_deviation"]) and math.isnan(alone["drop_small_dense"])


def test_a_narrower_network_without_dead_channels_is_the_network() -> None:
    torch.manual_seed(0)
    wide = ResNet(1).eval()
    with torch.no_grad():
        for name, parameter in wide.named_parameters():
            if name.endswith(("conv1.weight", "bn1.bias")) and "layer" in name:
                parameter[::2] = 0  # these channels hand on nothing
    narrow = narrower(wide, 0.5)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(narrow(x), wide(x))
    assert narrow.layer3[0].conv1.out_channels == 32
