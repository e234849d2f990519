"""The command line: every bad request is one line and an exit code that is not 0; nothing is half-written."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantFormat
from PIL import Image

from hwsparse.artifact import Artifact
from hwsparse.cli import main
from hwsparse.data import Dataset, write_npz
from hwsparse.data.corruptions import PIXELS
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Plan, parse_choice
from hwsparse.report import read_report, write_report
from hwsparse.report.export import front_csv
from tests.codegen.test_build import with_node
from tests.example_artifact import example_artifact
from tests.model.graphs import model_proto, node, value, weight
from tests.model.qdq import quantised, samples
from tests.report.sample import sample_report
from tests.sparsify.test_quality import classifier


@pytest.fixture(scope="module")
def model() -> Model:
    return classifier()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Model) -> Path:
    """A directory with a model and data, which is also where the command runs and keeps things."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "model.onnx").write_bytes(model.proto)
    rng = np.random.default_rng(0)
    x = rng.random((6, 16, 12, 12), np.float32)
    write_npz(Dataset("data", {"x": x}, np.array([0, 1, 2, 3, 0, 1])), tmp_path / "data.npz")
    write_npz(Dataset("wrong", {"x": x}, np.array([0, 1, 2, 3, 0, 9])), tmp_path / "wrong.npz")
    np.savez(tmp_path / "bare.npz", x=np.zeros_like(x))  # which all get the same answer
    np.savez(tmp_path / "empty.npz", x=x[:0], labels=np.zeros(0, np.int64))
    (tmp_path / "truncated.onnx").write_bytes(model.proto[:500])
    (tmp_path / "open.onnx").write_bytes(network("Relu", ["batch", "width"]))
    (tmp_path / "plain.onnx").write_bytes(network("Relu", [1, 4]))
    write_npz(Dataset("plain", {"x": rng.random((4, 4), np.float32)}, np.array([0, 1, 2, 3])), tmp_path / "plain.npz")
    (tmp_path / "other.json").write_text(Plan.of("0" * 64, {"conv": parse_choice("2:4")}).to_json())
    (tmp_path / "old.json").write_text('{"format": 2, "points": []}')
    (tmp_path / "refused.onnx").write_bytes(with_node("LpNormalization", p=2).proto)
    write_npz(Dataset("refused", {"x": rng.random((4, 8), np.float32)}, np.arange(4)), tmp_path / "refused.npz")
    (tmp_path / "odd.onnx").write_bytes(network("Gobble", [1, 4]))
    return tmp_path


def network(operator: str, shape: list[object]) -> bytes:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    domain = "" if operator == "Relu" else "com.example"
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], "it", domain=domain)], "g", ports[:1], ports[1:]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["hwsparse", *arguments])
    try:
        main()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


BAD = [
    ("optimize model.onnx --data data.npz --target x86-locl", 2, "did you mean x86-local?"),
    ("calibrate model.onnx --target arm-cortex-a76", 1, "arm-cortex-a76 is timed on a board"),
    (
        "optimize model.onnx --data data.npz --target arm-cortex-a76 --max-file-mb 1",
        2,
        "nothing is weighed without a device",
    ),
    ("optimize model.onnx --data data.npz --target ampere-a100", 1, "ampere-a100"),
    ("optimize nothing.onnx --data data.npz", 2, "nothing.onnx"),
    ("optimize truncated.onnx --data data.npz", 2, "truncated.onnx"),
    ("inspect open.onnx", 2, "'x' has open dimension"),
    ("inspect odd.onnx", 2, "Gobble"),
    ("inspect refused.onnx", 2, "node 'odd' (LpNormalization)"),
    ("optimize refused.onnx --data refused.npz", 2, "node 'odd' (LpNormalization)"),
    ("compile refused.onnx --choice unstructured@0.5", 2, "node 'odd' (LpNormalization)"),
    ("optimize model.onnx --data wrong.npz", 2, "has label 9"),
    ("optimize model.onnx --data empty.npz", 2, "is empty"),
    ("optimize model.onnx --data nothing.npz", 2, "nothing.npz"),
    ("optimize model.onnx --data data.npz --trials 0", 2, "at least 1"),
    ("optimize model.onnx --data data.npz --max-latency-ms 0", 2, "--max-latency-ms: a limit above 0, not 0"),
    ("optimize model.onnx --data data.npz --max-file-mb nan", 2, "--max-file-mb: a limit above 0, not nan"),
    ("optimize model.onnx --data data.npz --min-quality inf", 2, "--min-quality: a number, not inf"),
    ("optimize model.onnx --data data.npz --study-name ours", 2, "--study-name names a study of --study"),
    ("optimize model.onnx --data data.npz --study mysql://me:secret@there/that", 2, "postgresql:// can"),
    ("optimize model.onnx --data data.npz --sampler cmaes", 2, "'cmaes' is no sampler; use front"),
    ("optimize model.onnx --data data.npz --pattern blok", 2, "'blok' is not a pattern"),
    ("optimize model.onnx --data data.npz --threads 4096", 2, "4096 threads"),
    ("compile model.onnx", 2, "either --choice or --plan"),
    ("compile model.onnx --choice 2:4 --plan plan.json", 2, "either --choice or --plan"),
    ("compile model.onnx --choice block4x1", 2, "needs a ratio"),
    ("compile model.onnx --choice block4x1@0", 2, "shares of zeros lie between 0 and 1"),
    ("compile model.onnx --choice channel@1", 2, "shares of zeros lie between 0 and 1"),
    ("compile model.onnx --choice ", 2, "is not a pattern"),
    ("compile model.onnx --choice 2:4 --out data.npz", 1, "data.npz is a file; name a directory"),
    ("compile model.onnx --choice 2:4 --out data.npz/sub", 1, "data.npz is a file; name a directory"),
    ("optimize model.onnx --data data.npz --out data.npz", 1, "data.npz is a file; name a directory"),
    ("compile model.onnx --plan old.json", 2, "old.json: a plan has exactly the keys model and choices"),
    ("narrow plain.onnx --data plain.npz --out .", 2, "no file can be written there"),
    ("serve --data nowhere", 2, "nowhere: not a directory"),
    ("compile model.onnx --plan nothing.json", 2, "nothing.json"),
    ("compile model.onnx --plan data.npz", 2, "data.npz"),
    ("inspect model.onnx --shape x", 2, "NAME=1,3,224,224"),
    ("optimize model.onnx --data data.npz --image 224,men=1", 2, "'men' is none of"),
    ("narrow model.onnx --data data.npz --keep 1.5", 2, "see `hwsparse narrow --help`"),
    ("narrow model.onnx --data data.npz --keep 0", 2, "something has to be left"),
    ("narrow model.onnx --data data.npz --out model.onnx", 2, "model.onnx is the model itself"),
    ("narrow model.onnx --data data.npz --keep 1", 2, "--keep 1 removes nothing from model"),
    (
        "optimize model.onnx --data data.npz --max-drop 2",
        2,
        "quality drop: top1 is a fraction, of which 0.01 is one point, not 2",
    ),
    ("narrow model.onnx --data data.npz --out nowhere/b.onnx", 2, "nowhere"),
    ("narrow plain.onnx --data plain.npz", 2, "no channels that can be removed"),
    ("front model.onnx", 2, "model.onnx"),
    ("verify .", 1, "manifest.json"),
    ("targets show nothing.toml", 2, "nothing.toml"),
    ("request model.onnx --server 127.0.0.1:1 --choice 2:4", 1, "127.0.0.1:1"),
    # What is wrong with a request itself is said before a server is asked.
    ("request model.onnx --choice 2:4@0.9", 2, "2:4"),
    ("request model.onnx", 2, "needs --data"),
    ("request model.onnx --data data.npz --trials 0", 2, "trials"),
    ("request model.onnx --choice 2:4 --shape x=0", 2, "NAME=1,3,224,224"),
    ("request model.onnx --choice 2:4 --out data.npz", 2, "something is there already"),
    ("compile model.onnx --choice 2:4/float16", 1, "cannot run 2:4 in float16"),
    ("compile plain.onnx --choice 2:4", 2, "no prunable layers"),
    ("optimize plain.onnx --data plain.npz", 2, "no prunable layers"),
    ("compile model.onnx --plan other.json", 2, "not for model"),
    ("compile model.onnx --choice 2:4 --target x86-avx2 --threads 0", 2, "0 threads"),
    ("optimize model.onnx --data data.npz --pattern block3x1", 1, "cannot prune to block3x1"),
    ("optimize model.onnx --data data.npz --max-drop nan", 2, "quality drop: 0 or more"),
    ("optimize model.onnx --data data.npz --limit 0", 2, "limit"),
    ("optimize model.onnx --data data.npz --image 224", 2, "data.npz holds arrays"),
    ("optimize model.onnx --data data.npz --tokenizer other.json", 2, "data.npz holds arrays"),
    ("compile model.onnx --choice 2:4 --limit 3", 2, "--data"),
    ("compile model.onnx --choice 2:4 --metric f1", 2, "--data"),
    ("compile model.onnx --choice 2:4 --robustness", 2, "--data"),
    ("compile model.onnx --choice 2:4 --ranges mse", 2, "--data"),
    ("compile model.onnx --choice 2:4 --data data.npz --ranges best", 2, "ranges: 'best' is no way to find them"),
    ("compile model.onnx --choice 2:4 --data data.npz --ranges mse", 2, "no layer is to be int8"),
    ("optimize model.onnx --data data.npz --ranges mse", 2, "no layer is to be int8"),
    ("optimize model.onnx --data data.npz --ranges best", 2, "use averaged, minmax, percentile, entropy, mse"),
    ("compile model.onnx --choice 2:4 --data data.npz --robustness", 2, "data.npz holds arrays: only images and text"),
    ("optimize model.onnx --data data.npz --metric accuracy", 2, "use top1 or f1 or neg_log_loss or agreement"),
    ("optimize model.onnx --data data.npz --metric spearman", 2, "metric 'spearman' does not fit data set 'data'"),
    ("narrow model.onnx --data data.npz --metric pearson", 2, "metric 'pearson' does not fit data set 'data'"),
    ("compile model.onnx --choice 2:4 --data bare.npz --metric top1", 2, "which has no labels: use agreement"),
    ("optimize model.onnx --data bare.npz", 2, "all labels are 0"),
    ("optimize model.onnx --data bare.npz --metric pair_agreement", 2, "all labels are"),
    ("optimize model.onnx --data data.npz --robustness", 2, "data.npz holds arrays: only images and text"),
    ("request model.onnx --data data.npz --metric spearman --server 127.0.0.1:1", 1, "127.0.0.1:1"),
    ("request model.onnx --data server-set --metric f1", 2, "--metric prepare data that is here"),
    ("optimize model.onnx --data data.npz --seed -1", 2, "seed"),
    ("optimize model.onnx --data model.onnx", 2, "model.onnx"),
    ("optimize model.onnx --data data.npz --image 224,mean=1/2", 2, "mean and std"),
    ("optimize model.onnx --data data.npz --image wide", 2, "--image 'wide'"),
    ("optimize model.onnx --data data.npz --image 0", 2, "image size"),
    ("optimize model.onnx --data data.npz --ray nowhere", 1, "Ray cluster"),
    ("inspect open.onnx --shape y=1,4", 2, "'y'"),
    ("inspect model.onnx --shape x=1,-3,2,2", 2, "NAME=1,3,224,224"),
    ("inspect .", 2, "."),
    # Names that rich would take for markup.
    ("inspect [/b][red]:x:.onnx", 2, "[/b][red]:x:.onnx"),
    ("front nothing.json", 2, "nothing.json"),
    ("front other.json", 2, "other.json"),
    ("audit", 2, "Missing argument"),
    ("audit nothing.json", 2, "nothing.json"),
    ("audit other.json", 2, "not the report of a front"),
    ("audit old.json", 2, "has the format 2; this hwsparse reads 3"),
    ("audit model.onnx", 2, "model.onnx"),
    ("audit .", 2, "."),
    ("verify nowhere", 1, "nowhere"),
    ("targets show x86-avx3", 2, "did you mean x86-avx2?"),
    ("targets probe --name a/b", 2, "a/b"),
    ("targets probe --name a --out b.toml", 2, "NAME.toml"),
    ("targets probe --out nowhere/b.toml", 1, "nowhere"),
    ("serve --port 70000", 2, "70000"),
    # What typer finds.
    ("optimize", 2, "Missing argument"),
    ("optimize model.onnx --trials many", 2, "see `hwsparse optimize --help`"),
    ("optimise model.onnx", 2, "'optimise'"),
    ("targets list", 2, "see `hwsparse targets --help`"),
    ("compile model.onnx --chioce 2:4", 2, "--choice"),
]


@pytest.mark.parametrize(("line", "code", "said"), BAD, ids=[line for line, _, _ in BAD])
def test_a_bad_request_is_one_line(
    line: str, code: int, said: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(home.rglob("*"))
    found, _, errors = run(monkeypatch, capsys, *line.split(" "))
    assert found == code
    assert errors.startswith("error: ") and said in errors
    assert len(errors.strip().splitlines()) == 1
    assert sorted(home.rglob("*")) == before


def test_a_port_in_use_is_said(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, errors = run(monkeypatch, capsys, "serve", "--port", str(port), "--state", str(home / "state"))
    assert code == 1
    assert str(port) in errors and len(errors.strip().splitlines()) == 1


def test_of_a_quantised_model_it_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    floats = onnx.load(home / "model.onnx")
    onnx.save(quantised(floats, samples(shape=(1, 16, 12, 12))), home / "bytes.onnx")
    code, shown, _ = run(monkeypatch, capsys, "inspect", "bytes.onnx")
    assert code == 0 and "quantised: its file states the ranges of" in shown and "conv" in shown
    assert "quantised" not in run(monkeypatch, capsys, "inspect", "model.onnx")[1]
    onnx.save(
        quantised(floats, samples(shape=(1, 16, 12, 12)), quant_format=QuantFormat.QOperator), home / "other.onnx"
    )
    code, _, errors = run(monkeypatch, capsys, "inspect", "other.onnx")
    assert code == 2 and "export it in QDQ format" in errors and "Traceback" not in errors


def test_what_there_is_can_be_looked_at(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(monkeypatch, capsys, "inspect", "model.onnx")[1]
    assert "conv" in shown and "input x: float32, 1x16x12x12" in shown
    assert "arm-cortex-a76" in run(monkeypatch, capsys, "targets")[1]
    assert 'name = "x86-avx2"' in run(monkeypatch, capsys, "targets", "show", "x86-avx2")[1]
    assert run(monkeypatch, capsys, "--version")[:2] == (0, "hwsparse 0.1.0\n")
    assert run(monkeypatch, capsys, "targets", "probe", "--name", "mine")[0] == 0
    assert 'name = "mine"' in run(monkeypatch, capsys, "targets", "show", "mine.toml")[1]
    code, _, errors = run(monkeypatch, capsys, "targets", "probe", "--name", "mine")
    assert code == 2 and "--force" in errors
    assert run(monkeypatch, capsys, "targets", "probe", "--name", "mine", "--force")[0] == 0


def test_an_audit_names_what_lacks_and_says_so_to_the_shell(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fair = sample_report(12)
    assert fair.comparison is not None
    write_report(fair, home / "fair.json")
    assert run(monkeypatch, capsys, "audit", "fair.json") == (0, "nothing is lacking\n", "")
    names = []
    for seed in range(2):
        name = f"seed{seed}.json"
        names.append(name)
        write_report(replace(fair, comparison=replace(fair.comparison, seeds=(seed,))), home / name)
    code, out, errors = run(monkeypatch, capsys, "audit", *names)
    assert (code, errors) == (1, "")
    assert "seeds: " in out and "2 seeds (0, 1)" in out and "Blalock" in out and "repeat it with other seeds" in out
    assert "1 thing lacking" in out
    code, out, _ = run(monkeypatch, capsys, "audit", "--json", *names)
    found = json.loads(out)
    assert code == 1 and [finding["rule"] for finding in found["findings"]] == ["seeds"]
    assert found["reports"] == [fair.title] * 2
    code, out, _ = run(monkeypatch, capsys, "audit", "--json", "fair.json")
    assert code == 0 and json.loads(out)["findings"] == []


def test_a_front_is_shown_with_the_terms_of_its_comparison(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(sample_report(12), home / "fair.json")
    _, out, _ = run(monkeypatch, capsys, "front", "fair.json")
    for text in ("Checkpoint: ", "Budget: fitted on at most 128 samples", "Seeds: 0, 1, 2", "Small dense: 2.13 ms"):
        assert text in out
    code, _, errors = run(monkeypatch, capsys, "front", "fair.json", "--layers")
    assert code == 2 and "layers.json: cannot be read" in errors and "`hwsparse optimize` writes it" in errors


def test_a_front_is_asked_for_the_point_that_serves_best(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(sample_report(12), home / "fair.json")
    _, out, _ = run(monkeypatch, capsys, *["front", "fair.json", "--max-drop", "0.01"])
    assert out.startswith("search 3: 2.08 ms (measured), 2.31\u00d7 as fast as dense; Top-1 96.2 %")
    assert "artifact artifacts/3333333333333333" in out
    _, out, _ = run(monkeypatch, capsys, *["front", "fair.json", "--max-latency-ms", "2.0"])
    assert out.startswith("search 4: 1.72 ms")
    code, _, said = run(monkeypatch, capsys, *["front", "fair.json", "--max-latency-ms", "1.0"])
    assert code == 2 and "no such point takes less than 1.72 ms" in said


def test_a_front_is_written_for_other_programs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = sample_report(12)
    write_report(report, home / "fair.json")
    assert run(monkeypatch, capsys, *["front", "fair.json", "--csv", "front.csv"])[0] == 0
    assert (home / "front.csv").read_bytes().decode() == front_csv(report)
    code, _, said = run(monkeypatch, capsys, *["front", "fair.json", "--csv", "nowhere/front.csv"])
    assert code == 1 and "nowhere/front.csv: cannot be written" in said


def test_a_narrower_network_is_a_model_like_any_other(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Model
) -> None:
    command = "narrow model.onnx --data data.npz --keep 0.5 --out half.onnx"
    code, said, _ = run(monkeypatch, capsys, *command.split())
    assert code == 0
    assert "half.onnx: " in said and "held-out samples" in said
    narrow = import_onnx(home / "half.onnx")
    assert sum(layer.macs for layer in narrow.layers) < 0.8 * sum(layer.macs for layer in model.layers)


def pictures(folder: Path, count: int, side: int = 16) -> None:
    """Noise around a colour of each image's own."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        pixels = rng.integers(0, 256, 3) + rng.normal(0, 60, (side + 2, side, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:02}.png")


def images_network(side: int = 16) -> bytes:
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("MatMul", ["f", "v"], ["y"], name="head"),
    ]
    weights = [weight("w", 32, 3, 3, 3), weight("v", 32, 4)]
    return bytes(model_proto(nodes, [value("x", [1, 3, side, side])], weights=weights).SerializeToString())


def test_images_without_labels_are_judged_by_agreement(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "pictures.onnx").write_bytes(images_network())
    pictures(home / "unlabelled", 40)
    command = (
        "optimize pictures.onnx --data unlabelled --image 16,mean=127,std=64 --trials 3 --pattern unstructured "
        "--threads 1 --records records.sqlite --out out --robustness"
    )
    code, said, errors = run(monkeypatch, capsys, *command.split())
    assert code == 0, errors
    assert "Agreement" in said and "Robust" in said
    report = read_report(home / "out" / "front.json")
    timed = {point.label: point for point in report.points if point.latency_source == "measured"}
    assert (report.metric, timed["dense"].quality) == ("agreement", 1.0)
    for point in timed.values():
        assert point.robustness is not None and 0 < point.robustness <= 1
    note = next(note for note in report.notes if note.startswith("Robustness"))
    for name in PIXELS:
        assert f"unlabelled ({name} 3)" in note
    shown = run(monkeypatch, capsys, "front", "out/front.json", "--layers")[1]
    assert "pictures on x86-local: each layer pruned alone" in shown and "conv" in shown and "dense" in shown
    command = (
        "compile pictures.onnx --data unlabelled --image 16,mean=127,std=64 --choice unstructured@0.9 "
        "--threads 1 --records records.sqlite --out out --robustness"
    )
    code, said, errors = run(monkeypatch, capsys, *command.split())
    assert code == 0, errors
    said = " ".join(said.split())
    assert "Robustness: the mean quality over unlabelled (gaussian_noise 3)" in said and ", plan " in said
    page = (home / "out" / "front.html").read_text()
    assert "Robustness" in page and "Agreement with the dense model" in page


@pytest.mark.parametrize("metric", ["f1", "neg_log_loss"])
def test_another_metric_can_be_asked_for(
    metric: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"narrow model.onnx --data data.npz --keep 0.5 --out half.onnx --metric {metric}"
    code, said, errors = run(monkeypatch, capsys, *command.split())
    assert code == 0, errors
    assert f"{metric} on 3 held-out samples" in said


def test_a_server_that_finds_nothing_to_gain_is_not_a_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typer returns the code of typer.Exit, which must not be lost."""

    app = importlib.import_module("hwsparse.cli.main").app  # hwsparse.cli.main is the function

    @app.command()
    def gains_nothing(interrupted: bool = False) -> None:
        if interrupted:
            raise KeyboardInterrupt
        raise typer.Exit(1)

    try:
        assert run(monkeypatch, capsys, "gains-nothing") == (1, "", "")
        code, _, errors = run(monkeypatch, capsys, "gains-nothing", "--interrupted")
    finally:
        app.registered_commands.pop()
    assert (code, errors) == (130, "stopped\n")


@pytest.mark.parametrize("command", ["optimize model.onnx --data data.npz", "compile model.onnx --choice 2:4"])
def test_what_goes_on_where_it_was_says_so(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str, threads: int | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hwsparse.cli.options.device", interrupted)
    code, _, errors = run(monkeypatch, capsys, *command.split())
    assert code == 130
    assert errors == "stopped; what was measured and tried is kept: the same command goes on from there\n"


def test_a_changed_artifact_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = example_artifact(home / "artifact", "[/b]magika")
    code, out, _ = run(monkeypatch, capsys, "verify", "artifact")
    assert code == 0 and artifact.digest in out and "[/b]magika" in out
    for path in sorted(artifact.directory.iterdir()):
        before = path.read_bytes()
        path.write_bytes(b"?" + before[1:])
        code, _, errors = run(monkeypatch, capsys, "verify", "artifact")
        assert code == 1 and path.name in errors and len(errors.strip().splitlines()) == 1
        path.write_bytes(before)


def test_what_is_probed_can_be_read_back(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, capsys, "targets", "probe", "--out", "bench.toml")[0] == 0
    assert 'name = "bench"' in run(monkeypatch, capsys, "targets", "show", "bench.toml")[1]
    before = (home / "bench.toml").read_bytes()
    assert run(monkeypatch, capsys, "targets", "probe", "--out", "bench.toml")[0] == 2
    assert (home / "bench.toml").read_bytes() == before
    assert run(monkeypatch, capsys, "targets", "probe")[0] == 0
    assert (home / "my-machine.toml").exists() and not list(home.glob(".*"))


def test_an_artifact_comes_from_a_server(home: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-m", "hwsparse"]
    server = subprocess.Popen(
        [*command, "serve", "--port", "0", "--state", str(home / "state")],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[2].rstrip(";")
        asked = [*command, "request", "model.onnx", "--server", address, "--choice", "block4x1@0.9", "--out", "got"]
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        manifest = Artifact.load(home / "got").manifest
        assert manifest.model.name == "model"
        assert {proof.asked for proof in manifest.layers} == {"block4x1@0.9"}
        again = subprocess.run(
            [*command, "request", "model.onnx", "--server", address, "--device", "no-such-device", "--choice", "2:4"],
            env=environment, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert again.returncode == 2 and "no-such-device" in again.stderr
        assert len(again.stderr.strip().splitlines()) == 1
    finally:
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=60)
    assert server.returncode == 0, errors
