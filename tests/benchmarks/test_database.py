"""The benchmark of the database of pruned layers, on a small network."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import database
from hwsparse.plan import parse_choice
from hwsparse.sparsify import applicable
from tests.sparsify.networks import classifier, images


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    database.options(parser)
    return parser.parse_args(["--model", "minilm", *arguments])


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MODELS", {"minilm": lambda data, seed: (classifier(), images(12))})
    monkeypatch.setattr(database, "RATIOS", (0.5, 0.9))


def test_every_layer_in_every_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, details = database.run(parsed("--directory", str(tmp_path / "kept")))
    assert isinstance(details, dict)
    choices = [parse_choice(text) for text in details["choices"]]
    ways = sum(applicable(layer, choice.pattern) is None for layer in classifier().layers for choice in choices)
    assert figures["entries"] == ways > 20
    assert figures["assemble_s"] > 0 and figures["resume_s"] > 0
    size = sum(path.stat().st_size for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert figures["size_mb"] == pytest.approx(size / 1e6)
    assert "at that rate" not in capsys.readouterr().out
    monkeypatch.setattr("hwsparse.sparsify.layer_database._prune", None)  # nothing is pruned again
    again, _ = database.run(parsed("--directory", str(tmp_path / "kept")))
    assert again["entries"] == ways


def test_a_few_layers_tell_what_all_would_take(capsys: pytest.CaptureFixture[str]) -> None:
    figures, details = database.run(parsed("--layers", "2"))
    assert isinstance(details, dict)
    assert details["layers"] == ["first", "last"]
    assert figures["entries"] > 0
    assert "all layers at that rate" in capsys.readouterr().out
