"""The benchmarks' command line; what the benchmarks measure is theirs to show, not a test's."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, main


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
