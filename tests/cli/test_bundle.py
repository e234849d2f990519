"""`hwsparse bundle`: a folder for a device, made of an artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsparse.artifact import write_artifact
from hwsparse.codegen import build_layer
from hwsparse.plan import Choice
from tests.cli.test_cli import run
from tests.codegen.layers import CPU, conv
from tests.example_artifact import example_artifact, example_manifest


def test_an_artifact_becomes_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = tmp_path / "built"
    built.mkdir()
    build_layer(conv(1, 4, (5, 5), 4, (1, 1)), Choice(), CPU, built)
    names = ("library.so", "library.json", "weights.safetensors")
    write_artifact(tmp_path / "artifact", {name: built / name for name in names}, example_manifest())
    words = ("bundle", str(tmp_path / "artifact"), "--out", str(tmp_path / "board"))
    code, out, _ = run(monkeypatch, capsys, *words)
    assert code == 0 and "README.txt tells how to run it" in " ".join(out.split())
    assert {"run.py", "run.cc", "libtvm_runtime.so", *names} <= {path.name for path in (tmp_path / "board").iterdir()}
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 1 and "something is there already" in err


def test_what_cannot_be_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = str(example_artifact(tmp_path / "artifact").directory)
    for words, code, said in (
        ((artifact,), 1, "library.so: not a 64-bit ELF library"),
        ((artifact, "--wheels", str(tmp_path / "none")), 2, "none: not a folder"),
        ((str(tmp_path / "nowhere"),), 1, "manifest.json: No such file"),
    ):
        found, _, err = run(monkeypatch, capsys, "bundle", *words, "--out", str(tmp_path / "board"))
        assert found == code and said in err and err.count("\n") == 1
        assert not (tmp_path / "board").exists()
