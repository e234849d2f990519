"""`hwsparse tune` on the user's own code: from a function's name to an artifact, and what can be wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hwsparse.artifact import Artifact
from hwsparse.cli.torch_code import example_inputs, load_module
from hwsparse.data import write_npz
from hwsparse.errors import InputError
from hwsparse.report import read_report
from tests.cli.test_cli import pictures as image_files
from tests.cli.test_cli import run
from tests.pipeline.benches import times_by_weight
from tests.tuning.modules import Embedder, pictures, wide

CODE = """
import torch
from torch import nn
from tests.tuning import modules

def wide():
    return modules.Wide()

def colours():
    torch.manual_seed(0)
    module = modules.wide()  # trained: of untrained norms all constants are the same
    module.first = nn.Conv2d(3, 96, 3, padding=1, bias=False)
    return module

def number():
    return 3

def broken():
    raise RuntimeError("no such dataset")
"""


@pytest.fixture(scope="module", autouse=True)
def times() -> Iterator[None]:
    with times_by_weight():
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command runs: code, weights and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    (tmp_path / "nets.py").write_text(CODE)
    save_file(wide().state_dict(), tmp_path / "wide.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "pickled.safetensors").write_bytes(b"\x80\x04N.")
    write_npz(pictures(80, 1), tmp_path / "data.npz")
    write_npz(pictures(64, 2), tmp_path / "training.npz")
    return tmp_path


def test_without_labels_the_dense_network_is_agreed_with(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(home / "bare.npz", image=pictures(80, 3).inputs["image"])
    command = (
        "tune nets:wide --weights wide.safetensors --data bare.npz --limit 60 --choice block4x1@0.9 --gradual "
        "--epochs 1 --batch 32 --threads 1 --out bare --records records.sqlite --no-rivals"
    )
    code, out, err = run(monkeypatch, capsys, *command.split())
    assert (code, err) == (0, "") and "validation agreement" in out
    report = read_report(home / "bare" / "front.json")
    assert report.metric == "agreement"
    tuned = next(point for point in report.points if point.label == "tuned")
    assert tuned.method is not None and (tuned.method.when, tuned.method.mask) == ("during", "dynamic")


def test_images_are_judged_under_corruption_too(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "sorted").mkdir()
    for side, kind in ((8, "small"), (9, "large")):
        image_files(home / "sorted" / kind, 60, side)
    command = (
        "tune nets:colours --data sorted --image 8,mean=127,std=64 --choice block4x1@0.9 --gradual --epochs 1 "
        "--batch 16 --threads 1 --out seen --records records.sqlite --no-rivals --robustness"
    )
    code, out, err = run(monkeypatch, capsys, *command.split())
    assert (code, err) == (0, "") and "Robust" in out
    report = read_report(home / "seen" / "front.json")
    assert all(point.robustness is not None and 0 <= point.robustness <= 1 for point in report.points)
    assert any(note.startswith("Robustness") and "sorted (contrast 3)" in note for note in report.notes)


def test_from_a_functions_name_to_an_artifact(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (
        "tune nets:wide --weights wide.safetensors --data data.npz --training training.npz --choice block4x1@0.9 "
        "--epochs 1 --batch 32 --threads 1 --out out --records records.sqlite"
    )
    code, out, err = run(monkeypatch, capsys, *command.split())
    assert (code, err) == (0, "")
    assert "epoch 0: validation top1" in out and "epoch 1: loss " in out
    report = read_report(home / "out" / "front.json")
    tuned = next(point for point in report.points if point.label == "tuned")
    assert tuned.artifact is not None and report.model == "wide"
    manifest = Artifact.load(home / "out" / tuned.artifact.directory).manifest
    assert manifest.plan.choices and manifest.quality is not None and manifest.quality.samples == 40


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nets --choice 2:4", "as package.module:function"),
        ("nothing:wide --choice 2:4", "ModuleNotFoundError: No module named 'nothing'"),
        ("nets:narrow --choice 2:4", "AttributeError: module 'nets' has no attribute 'narrow'"),
        ("nets:broken --choice 2:4", "RuntimeError: no such dataset"),
        ("nets:number --choice 2:4", "makes a int, not a torch.nn.Module"),
        ("nets:wide", "either --choice or --plan"),
        ("nets:wide --choice 2:4 --weights other.safetensors", "does not hold the weights of 'nets:wide'"),
        ("nets:wide --choice 2:4 --weights pickled.safetensors", "does not hold the weights of 'nets:wide'"),
        ("nets:wide --choice 2:4 --weights nothing.safetensors", "does not hold the weights of 'nets:wide'"),
        ("nets:wide --choice 2:4 --epochs 0", "epochs: at least 1"),
        ("nets:wide --choice 2:4 --optimizer lbfgs", "optimizer: sgd or adamw"),
        ("nets:wide --choice 2:4 --training nothing.npz", "nothing.npz"),
        ("nets:wide --choice 2:4 --ranges best", "ranges: 'best' is no way to find them"),
        ("nets:wide --choice 2:4 --ranges mse", "no layer is to be int8"),
        ("nets:wide --choice 2:4 --robustness", "data.npz holds arrays: only images and text can be corrupted"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: str, said: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(monkeypatch, capsys, "tune", *arguments.split(), "--data", "data.npz", "--out", "out")
    assert code == 2 and said in err and err.startswith("error: ") and err.count("\n") == 1
    assert not (home / "out").exists()


def test_weights_are_those_of_the_file(home: Path) -> None:
    module = load_module("nets:wide", home / "wide.safetensors")
    assert torch.equal(module.get_parameter("second.weight"), wide().second.weight)
    assert not module.training


class TwoInputs(torch.nn.Module):
    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return first + second


def test_samples_are_given_by_the_names_of_arguments() -> None:
    arrays = {"second": np.ones((4, 2), np.float32), "first": np.zeros((4, 2), np.float32)}
    first, second = example_inputs(TwoInputs(), arrays)
    assert first.tolist() == [[0, 0]] and second.tolist() == [[1, 1]]
    (only,) = example_inputs(Embedder(), {"x": np.ones((4, 6), np.int64)})
    assert only.shape == (1, 6)
    arrays["third"] = arrays.pop("second")
    with pytest.raises(InputError, match="the data have inputs first, third, but the network takes first"):
        example_inputs(TwoInputs(), arrays)
