"""Peers' environments: who can take part, and why others cannot."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.environments import ENVIRONMENTS, find_peers, options

PEERS = {runtime.name for environment in ENVIRONMENTS.values() for runtime in environment.runtimes}


def python(path: Path, prints: str) -> str:
    """Something that answers as a Python would that is asked for versions."""
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return str(path)


def test_without_pythons_every_peer_is_named_with_what_to_do(tmp_path: Path) -> None:
    peers = find_peers({"openvino": None}, tmp_path, 1)
    assert not peers.contenders and not peers.versions
    reasons = {failure.key: failure.reason for failure in peers.absent}
    assert set(reasons) == PEERS == {"openvino f32", "openvino bf16", "openvino int8", "deepsparse", "deepsparse int8"}
    assert reasons["deepsparse"].endswith("give --deepsparse PYTHON or set HWSPARSE_DEEPSPARSE")


def test_a_peer_runs_in_the_python_that_has_it_on_its_case(tmp_path: Path) -> None:
    pythons = {
        "openvino": python(tmp_path / "a", "this is no version"),
        "deepsparse": python(tmp_path / "b", '{"deepsparse": "1.8.0"}'),
    }
    peers = find_peers(pythons, tmp_path / "cases", 3)
    assert dict(peers.versions) == {"deepsparse": "1.8.0"}
    assert {failure.key for failure in peers.absent} == {name for name in PEERS if name.startswith("openvino")}
    assert all("is no Python that has openvino and nncf" in failure.reason for failure in peers.absent)
    assert [contender.name for contender in peers.contenders] == ["deepsparse", "deepsparse int8"]
    assert {(each.threads, each.directory) for each in peers.contenders} == {(3, tmp_path / "cases/sparse")}
    deepsparse = peers.contenders[0]
    assert deepsparse.interpreter is not None and deepsparse.interpreter.executable == pythons["deepsparse"]
    (modules,) = deepsparse.interpreter.path
    assert (Path(modules) / "benchmarks/peers/deepsparse.py").exists() and (Path(modules) / "hwsparse").is_dir()


def test_a_python_is_named_by_option_or_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWSPARSE_OPENVINO", "from-variable")
    monkeypatch.delenv("HWSPARSE_DEEPSPARSE", raising=False)
    parser = argparse.ArgumentParser()
    options(parser)
    assert vars(parser.parse_args([])) == {"openvino": "from-variable", "deepsparse": None}
    assert parser.parse_args(["--openvino", "given"]).openvino == "given"


def test_only_unrounded_float32_is_held_to_onnxruntime() -> None:
    tolerances = {runtime.name: runtime.tolerance for each in ENVIRONMENTS.values() for runtime in each.runtimes}
    lossy = {name for name, tolerance in tolerances.items() if tolerance > 1e-4}
    assert lossy == {"openvino bf16", "openvino int8", "deepsparse int8"}
