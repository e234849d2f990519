"""The layers' own benchmark, on a small network."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

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


def test_half_a_choice_is_refused(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--pattern", "block4x1") == 1
    assert "--pattern and --sparsity go together" in capsys.readouterr().err
