"""The benchmarks' command line; what the benchmarks measure is theirs to show, not a test's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, Benchmark, main


def test_a_benchmark_that_measured_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    arguments = ["benchmarks", "quickstart", "--work", str(tmp_path), "--json", str(figures), "--models"]
    monkeypatch.setattr("sys.argv", [*arguments, "resnet"])
    assert main() == 1
    assert "no network is called resnet; there are magika" in capsys.readouterr().err
    monkeypatch.delenv("HWSPARSE_DATA", raising=False)
    monkeypatch.setattr("sys.argv", [*arguments, "minilm"])
    assert main() == 1
    output = capsys.readouterr()
    assert "minilm is left out: " in output.out and "no network could be run" in output.err
    assert not figures.exists()


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing" / "figures.json"
    monkeypatch.setattr("sys.argv", ["benchmarks", "quickstart", "--json", str(missing), "--models", "resnet"])
    assert main() == 1
    assert f"there is no directory {missing.parent}" in capsys.readouterr().err


def test_what_was_measured_is_kept_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"a_over_b": 2.0, "missing": float("nan")}
    benchmark = Benchmark("made up", lambda arguments: (figures, [1, 2]), lambda parser: None)
    monkeypatch.setitem(BENCHMARKS, "kernels", benchmark)
    monkeypatch.setattr("sys.argv", ["benchmarks", "kernels", "--json", str(tmp_path / "found.json"), "--seed", "3"])
    assert main() == 0
    assert capsys.readouterr().out == "a_over_b=2 missing=nan\n"
    body = json.loads((tmp_path / "found.json").read_text())
    assert (body["figures"], body["details"], body["seed"]) == ({"a_over_b": 2.0, "missing": None}, [1, 2], 3)
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_says_what_it_is(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--list"])
    assert main() == 0
    assert f"{name} " in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["benchmarks", name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "--threads" in capsys.readouterr().out
