"""The commands that a simulated accelerator answers: compile, simulate, measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwsparse.report.roofline import NetworkRun
from hwsparse.target import load_target
from tests.cli.test_cli import home, model, run  # noqa: F401
from tests.example_artifact import example_artifact

ON_CPU = "compile model.onnx --choice 2:4 --records r.sqlite"
COMPILE = "compile model.onnx --data data.npz --choice unstructured@0.8/int8 --target fpga-sim --records r.sqlite"


def test_an_artifact_is_compiled_simulated_and_measured(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(monkeypatch, capsys, *COMPILE.split(), "--out", "out")
    assert code == 0 and "simulated" in out and "run by the host, not by the accelerator: no layer" in out
    (artifact,) = (home / "out" / "artifacts").iterdir()
    code, out, _ = run(monkeypatch, capsys, "simulate", str(artifact), "--roofline", "roof.png")
    assert code == 0 and "Bound by" in out and "drawn: roof.png" in out
    assert (home / "roof.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = run(monkeypatch, capsys, "simulate", str(artifact), "--json")
    told = json.loads(out)
    assert code == 0 and all(layer["timing"]["cycles"] > 0 and layer["bound_by"] for layer in told["layers"])
    assert told["latency_cycles"] == sum(layer["timing"]["cycles"] for layer in told["layers"])
    code, out, _ = run(monkeypatch, capsys, "measure", str(artifact), "model.onnx", "--json")
    networks = json.loads(out)["networks"]
    assert code == 0 and [each["source"] for each in networks] == ["simulated", "measured"]
    cycles = sum(layer["timing"]["cycles"] for layer in told["layers"])
    assert networks[0]["median_s"] >= cycles / told["accelerator"]["clock_hz"]
    assert networks[0]["peak_memory_bytes"] is None
    code, _, err = run(monkeypatch, capsys, "bundle", str(artifact))
    assert code == 1 and "compiled for a simulated accelerator" in err


def test_what_cannot_be_simulated_is_told(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = run(monkeypatch, capsys, *COMPILE.replace("fpga-sim", "x86-local").split(), "--out", "other")
    assert code == 1 and "unstructured in int8" in err
    code, _, err = run(monkeypatch, capsys, *f"{ON_CPU} --out cpu".split())
    assert code == 0
    (artifact,) = (home / "cpu" / "artifacts").iterdir()
    code, _, err = run(monkeypatch, capsys, "simulate", str(artifact))
    assert code == 2 and "which has no simulated accelerator; `hwsparse measure` times it" in err
    code, _, err = run(monkeypatch, capsys, "simulate", str(artifact), "--roofline", "roof.jpg")
    assert code == 2 and "pictures are PNGs" in err
    code, _, err = run(monkeypatch, capsys, "simulate", "nowhere")
    assert code == 1 and "nowhere" in err
    code, _, err = run(monkeypatch, capsys, *["compile", "model.onnx", "--choice", "2:4", "--target", "fpga-sim"])
    assert code == 1 and "target fpga-sim cannot run 2:4 in float32; in float32 it can run dense" in err


def test_layers_of_a_pipeline_have_no_roofline(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = load_target("fpga-sim").accelerator
    assert machine is not None
    monkeypatch.setattr("hwsparse.cli.simulate._run", lambda artifact: NetworkRun("net", machine, (), (), True, 9, 5))
    example_artifact(home / "artifact")
    code, _, err = run(monkeypatch, capsys, "simulate", "artifact", "--roofline", "roof.png")
    assert code == 2 and "those of a pipeline stay on the chip" in err and not (home / "roof.png").exists()
