"""The comparison of runtimes on a small network, with stubs for those that live elsewhere."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import environments, x86
from benchmarks.__main__ import main
from benchmarks.environments import Environment, Runtime
from benchmarks.networks import NETWORKS, Network
from benchmarks.turns import Contender, Result, Timing, time_in_turns
from hwsparse.latency import MeasureFailure
from hwsparse.model import Model
from hwsparse.plan import Plan
from tests.sparsify.networks import classifier

KEYS = {
    "ort_over_ours", "ort_over_ours_dense", "ort_int8_over_ours", "deepsparse_over_ours", "deepsparse_int8_over_ours",
    "openvino_f32_over_ours", "openvino_bf16_over_ours", "openvino_int8_over_ours", "openvino_int8_over_ours_dense",
    "scaling_2_threads", "scaling_2_threads_reference", "compile_s", "weights_ratio", "max_rel_err",
}  # fmt: skip
Command = Callable[..., int]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one command measures of the layers, all others find."""
    return tmp_path_factory.mktemp("records") / "records.sqlite"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: Path) -> Command:
    """Runs the benchmark on `classifier`, with other peers: (name, class among the stubs)."""
    small = Network(lambda batch: classifier(), "inner", NETWORKS["resnet50"].draw)
    monkeypatch.setattr(x86, "NETWORKS", {"small": small})
    monkeypatch.setattr(x86, "time_in_turns", partial(time_in_turns, warmup_s=0.0))

    def run(*options: str, peers: tuple[tuple[str, str], ...] = ()) -> int:
        runtimes = tuple(Runtime(name, f"tests.benchmarks.stub_peers:{stub}", "sparse", 1e-4) for name, stub in peers)
        found = {"stubs": Environment("HWSPARSE_STUBS", ("numpy",), runtimes)} if runtimes else {}
        for module in (x86, environments):
            monkeypatch.setattr(module, "ENVIRONMENTS", found)
        given = ["--pattern", "block4x1", "--sparsity", "0.5", "--threads", "1", "--json", str(tmp_path / "f.json")]
        given += ["--records", str(records)]
        python = ["--stubs", sys.executable] if runtimes else []
        monkeypatch.setattr(sys, "argv", ["benchmarks", "x86", "--model", "small", *given, *python, *options])
        return main()

    return run


def test_everybody_is_compared_and_a_crash_is_named(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(peers=(("deepsparse", "Honest"), ("deepsparse int8", "Honest"), ("openvino f32", "Crashing"))) == 0
    output = capsys.readouterr().out
    figures = dict(pair.split("=") for pair in output.splitlines()[-1].split())
    assert set(figures) == KEYS
    assert "openvino f32 is left out: ended with exit status 3; it printed: no such instruction" in output
    missing = {key for key in KEYS if figures[key] == "nan"}
    assert {"openvino_f32_over_ours", "openvino_bf16_over_ours", "openvino_int8_over_ours"} <= missing
    assert not missing & {
        "ort_over_ours",
        "ort_over_ours_dense",
        "deepsparse_over_ours",
        "deepsparse_int8_over_ours",
        "compile_s",
    }
    assert float(figures["max_rel_err"]) <= 1e-4 and float(figures["weights_ratio"]) > 0
    kept = json.loads((tmp_path / "f.json").read_text())
    assert kept["figures"]["openvino_f32_over_ours"] is None
    assert kept["figures"]["ort_over_ours"] == pytest.approx(float(figures["ort_over_ours"]), rel=1e-4)
    last = kept["details"]["runs"][-1]
    assert sum(map(len, last["ours, sparse"]["samples_s"])) >= 30
    assert "no such instruction" in last["openvino f32"]["reason"]
    assert set(kept["details"]["versions"]) == {"numpy"} and kept["seed"] == 0


def test_int8_networks_are_compared(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--dtype", "int8", "--pattern", "block4x4", "--layers", "every") == 0
    figures = dict(pair.split("=") for pair in capsys.readouterr().out.splitlines()[-1].split())
    assert float(figures["ort_int8_over_ours"]) > 0 and 0 <= float(figures["max_rel_err"]) <= 0.05
    plan = json.loads((tmp_path / "f.json").read_text())["details"]["plan"]
    assert "block4x4@0.5/int8" in plan


@pytest.mark.parametrize("dense", [True, False])
def test_int8_networks_of_other_weights_are_refused(
    dense: bool, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers 1.3 times what they should be are within what bytes may lose, and not onnxruntime's on the same bytes."""
    honest = x86.build_model

    def off(model: Model, plan: Plan, weights: Mapping[str, np.ndarray], *rest: object) -> object:
        if all(choice.is_dense for _, choice in plan.choices) == dense:
            last = model.layers[-1].name
            weights = {**weights, last: weights.get(last, model.weight(last)) * np.float32(1.3)}
        return honest(model, plan, weights, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(x86, "build_model", off)
    assert command("--dtype", "int8", "--pattern", "block4x4", "--layers", "every") == 1
    who = "ours, dense" if dense else "ours, sparse"
    assert re.search(f"error: {who}.*: outputs differ from onnxruntime's", capsys.readouterr().err)


def test_wrong_outputs_are_refused(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(peers=(("deepsparse", "Wrong"),)) == 1
    assert "error: deepsparse: outputs differ from onnxruntime's" in capsys.readouterr().err
    assert not (tmp_path / "f.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sparsity", "1"), "sparsity is a share between 0 and 1"),
        (("--pattern", "diagonal"), "'diagonal' is not a pattern"),
        (("--pattern", "block3x1"), "cannot run block3x1"),
        (("--batch", "0"), "at least 1 sample"),
        (("--layers", "pointwise"), "none can be block4x1@0.5"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_line(
    command: Command, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert command(*options) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and said in errors and len(errors.splitlines()) == 1


def timings(contenders: tuple[Contender, ...], reference: tuple[float, ...]) -> dict[str, Result]:
    turns = tuple((seconds,) * 5 for seconds in reference)
    return {each.name: Timing(0, turns if each.name == "reference" else ((1e-3,) * 5,) * 3) for each in contenders}


def test_a_run_whose_reference_drifts_is_repeated_once(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for second, said in (((1.0, 1.0, 1.05), 1), ((1.0, 1.0, 1.3), 2)):
        paces = iter([(1.0, 1.2, 1.0), second])
        monkeypatch.setattr(x86, "time_in_turns", lambda contenders, paces=paces: timings(contenders, next(paces)))
        assert command() == 0
        assert capsys.readouterr().out.count("the reference drifted by") == said
        assert len(json.loads((tmp_path / "f.json").read_text())["details"]["runs"]) == 2


def test_without_one_of_ours_there_is_nothing_to_tell(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(contenders: tuple[Contender, ...]) -> dict[str, Result]:
        return timings(contenders, (1.0,) * 3) | {"ours, dense": MeasureFailure("ours, dense", "run", "it fell over")}

    monkeypatch.setattr(x86, "time_in_turns", fail)
    assert command() == 1
    assert "ours, dense could not be timed (run): it fell over" in capsys.readouterr().err
