"""`hwsparse serve`, `request` and `download`: what is wrong is said at once, and nothing that was made is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hwsparse.artifact import Artifact
from hwsparse.data import Dataset, write_npz
from hwsparse.report import read_report
from hwsparse.serve.client import Client
from hwsparse.serve.operation import OperationState
from hwsparse.serve.server import Server, ServerSettings
from tests.cli.test_cli import network, run
from tests.serve.conftest import COMMAND, TARGETS
from tests.serve.fake_worker import REPORT

HWSPARSE = (sys.executable, "-m", "hwsparse")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands run; models whose names tell the fake worker what to do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("good", "wait", "late-crash"):
        (tmp_path / f"{name}.onnx").write_bytes(name.encode())
    (tmp_path / "plain.onnx").write_bytes(network("Relu", [1, 4]))
    write_npz(Dataset("d", {"x": np.eye(4, dtype=np.float32)}, np.arange(4)), tmp_path / "data.npz")
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2,score\na,b,1\n")
    return tmp_path


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    with Server(ServerSettings(home / "state", COMMAND, TARGETS, port=0, grace_s=5.0)) as running:
        yield running


def asked(server: Server) -> int:
    """How many jobs a server was asked for."""
    with Client(server.address) as client:
        return len(list(client.operations()))


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--choice dense --out /proc/x", 2, "/proc/x: cannot be written: No such file or directory"),
        ("--choice dense --out good.onnx/x", 2, "good.onnx/x: cannot be written: Not a directory"),
        ("--choice dense --out state", 2, "state: something is there already"),
        ("--data none.npz", 2, "none.npz: no such file or directory"),
        ("--data none.csv", 2, "none.csv: no such file or directory"),
        ("--data some/where", 2, "some/where: no such file or directory"),
        ("--data nothing", 2, "no data set 'nothing' on this server"),
        ("--data nothing --limit 3", 2, "prepare data that is here"),
        ("--data data.npz --image 224", 2, "data.npz"),
        ("--choice dense --dtype int8", 2, "--dtype is of a search"),
        ("--data data.npz --dtype int4", 1, "target tiny supports nothing in int4"),
        ("--choice dense --threads 3", 2, "target tiny has 2 cores; 3 threads"),
        ("--choice dense --threads 0", 2, "0 threads"),
        ("--choice 2:4 --device small", 1, "small is timed by the runner 'cuda'"),
    ],
)
def test_a_request_that_cannot_be_is_no_job(
    line: str,
    code: int,
    said: str,
    home: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (home / "good.onnx").write_bytes((home / "plain.onnx").read_bytes())
    before = sorted(home.iterdir())
    arguments = ["request", "good.onnx", "--server", server.address, "--device", "tiny", *line.split()]
    found, _, errors = run(monkeypatch, capsys, *arguments)
    assert found == code
    assert said in errors and len(errors.strip().splitlines()) == 1
    assert asked(server) == 0
    assert sorted(home.iterdir()) == before


def test_an_artifact_that_could_not_be_written_is_downloaded_later(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hwsparse.cli.service.require_writable", lambda out: None)
    common = ["--server", server.address]
    code, _, errors = run(
        monkeypatch, capsys, "request", "good.onnx", *common, "--device", "tiny", "--choice", "2:4", "--out", "/proc/x"
    )
    assert code == 1 and "/proc/x: No such file or directory" in errors
    digest = errors.split("hwsparse download ")[1].split()[0]
    code, out, _ = run(monkeypatch, capsys, "download", digest, *common, "--out", "later/got")
    assert code == 0 and digest in out
    assert Artifact.load(home / "later" / "got").digest == digest
    code, _, errors = run(monkeypatch, capsys, "download", "0" * 64, *common, "--out", "other")
    assert code == 2 and "no artifact '000" in errors and not (home / "other").exists()


def test_a_search_ends_with_its_front(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "good.onnx").write_bytes((home / "plain.onnx").read_bytes())
    request = ["request", "good.onnx", "--server", server.address, "--device", "tiny"]
    code, out, errors = run(monkeypatch, capsys, *request, "--data", "data.npz", "--front", "front", "--out", "got")
    assert code == 0, errors
    assert REPORT.title in out
    assert read_report(home / "front" / "front.json") == REPORT
    assert {path.name for path in (home / "front").iterdir()} == {"front.json", "front.html", "front.png"}
    assert Artifact.load(home / "got")
    code, _, errors = run(monkeypatch, capsys, *request, "--choice", "2:4", "--front", "other", "--out", "more")
    assert code == 2 and "--front is of a search" in errors and not (home / "other").exists()
    code, _, errors = run(monkeypatch, capsys, *request, "--data", "data.npz", "--front", "new/in", "--out", "new")
    assert code == 2 and "new/in lies in new" in errors and not (home / "new").exists()


def test_data_of_any_kind_are_sent_as_arrays(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["request", "late-crash.onnx", "--server", server.address, "--device", "tiny", "--data"]
    (home / "late-crash.onnx").write_bytes((home / "plain.onnx").read_bytes())
    assert run(monkeypatch, capsys, *request, "data.npz")[0] == 1  # the fake worker gains nothing
    assert run(monkeypatch, capsys, *request, "data.npz", "--limit", "2")[0] == 1
    sent = sorted((len(np.load(path)["labels"]) for path in (home / "state" / "datasets").rglob("*.npz")), reverse=True)
    assert sent == [4, 2]
    assert run(monkeypatch, capsys, *request, "data.npz", "--metric", "f1")[0] == 1
    assert run(monkeypatch, capsys, *request, "data.npz", "--metric", "agreement")[0] == 1
    metrics = {str(np.load(path)["metric"]) for path in (home / "state" / "datasets").rglob("*.npz")}
    assert metrics == {"top1", "f1", "agreement"}
    code, _, errors = run(monkeypatch, capsys, *request, "pairs.csv")
    assert code == 2 and "tokenizer" in errors


def test_a_request_that_is_stopped_says_what_became_of_its_job(home: Path, server: Server) -> None:
    command = [*HWSPARSE, "request", "wait.onnx", "--server", server.address, "--device", "tiny", "--choice", "2:4"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        Client(server.address) as client,
    ):
        while not (found := list(client.operations())) or client.get(found[0].name).progress.stage != "waiting":
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        last = list(client.watch(found[0].name))[-1]
    assert process.returncode == 130
    assert errors == f"job {found[0].name} is cancelled\nstopped\n"
    assert last.state is OperationState.CANCELLED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_stopped_ends_well(home: Path, number: signal.Signals) -> None:
    command = [*HWSPARSE, "serve", "--port", "0", "--state", str(home / "state")]
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        with Client(line.split()[2].rstrip(";")) as client:
            assert client.target("x86-local")
        process.send_signal(number)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "", "stopping\n")
