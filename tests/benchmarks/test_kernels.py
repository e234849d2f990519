"""The layers' own benchmark, on a small network."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean, median

import pytest

from benchmarks import kernels
from benchmarks.__main__ import main
from benchmarks.limits import Measured, build_limit
from benchmarks.networks import NETWORKS, Network
from hwsparse.target import load_target
from tests.sparsify.networks import classifier


@pytest.mark.parametrize("loads", [False, True])
@pytest.mark.parametrize("target", ["x86-local", "x86-avx2"])
def test_a_limit_is_what_its_sums_say(tmp_path: Path, target: str, loads: bool) -> None:
    chosen = load_target(target).with_threads(1)
    flops = build_limit(chosen, tmp_path, loads=loads)
    limit = Measured.load(tmp_path, 1)
    assert limit.check() == pytest.approx(0, abs=1e-6)
    assert len(limit.time(2, 1)) == 2
    assert flops % (2 * chosen.vector_bits // 32) == 0


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    small = Network(lambda batch: classifier(), "every", NETWORKS["resnet50"].draw)
    monkeypatch.setattr(kernels, "NETWORKS", {"small": small})

    def run(*options: str) -> int:
        given = ["benchmarks", "kernels", "--threads", "1", "--json", str(tmp_path / "f.json"), *options]
        monkeypatch.setattr(sys, "argv", given)
        return main()

    return run


def test_every_layer_is_measured_dense_and_sparse(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--pattern", "block4x1", "--sparsity", "0.5") == 0
    figures = dict(pair.split("=") for pair in capsys.readouterr().out.splitlines()[-1].split())
    means = {"gflops_mean", "share_of_limit_mean"}
    assert set(figures) == {"limit_gflops", "peak_gflops"} | means | {f"sparse_{key}" for key in means}
    assert all(float(value) > 0 for value in figures.values())
    details = json.loads((tmp_path / "f.json").read_text())["details"]
    layers = {layer.signature: 2 * layer.macs for layer in classifier().layers}
    dense = {key.split(" dense ")[0]: body["flops"] for key, body in details.items() if " dense " in key}
    assert dense == layers
    sparse = {key.split(" block4x1@0.5 ")[0] for key in details if " block4x1@0.5 " in key}
    assert len(sparse) == len(layers) - 1  # not the depthwise one


@pytest.mark.parametrize("target", ["x86-local", "x86-avx2"])
def test_layers_of_another_type_are_timed_beside_those_of_floats(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    asked = ("--pattern", "block4x4", "--sparsity", "0.5", "--dtype", "int8", "--target", target)
    assert command(*asked) == 0
    figures = dict(pair.split("=") for pair in capsys.readouterr().out.splitlines()[-1].split())
    details = json.loads((tmp_path / "f.json").read_text())["details"]
    gflops = {}
    for key, body in details.items():
        layer, _, kernel = key.partition(" block4x4@0.5")
        if kernel:
            gflops.setdefault((layer, "/int8" in kernel), []).append(body["flops"] / median(body["samples_s"]))
    layers = {layer for layer, in_bytes in gflops if in_bytes}
    ratios = [max(gflops[layer, True]) / max(gflops[layer, False]) for layer in layers]
    assert len(layers) > 1
    assert float(figures["typed_over_sparse"]) == pytest.approx(geometric_mean(ratios), rel=1e-3)


def test_half_a_choice_is_refused(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--pattern", "block4x1") == 1
    assert "--pattern and --sparsity go together" in capsys.readouterr().err
    assert command("--dtype", "int8") == 1
    assert "--dtype is of the sparse layers" in capsys.readouterr().err
