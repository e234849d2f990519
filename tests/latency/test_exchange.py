from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hwsparse.errors import InputError
from hwsparse.latency import Measurement, Workload, exchange
from hwsparse.latency.exchange import count_lines, read_lines, write_lines
from hwsparse.pattern import Block
from hwsparse.plan import Choice
from tests.latency.examples import TARGET, matmul, measurement, measurements, workloads

HALF = Workload.of(matmul(), Choice(Block(4), 0.5), TARGET)


def fitting(workload: Workload, taken: Measurement) -> tuple[Workload, Measurement]:
    threads = replace(taken.settings, threads=workload.threads)
    return workload, replace(taken, key=workload.key, settings=threads, imported=False)


@given(st.lists(st.builds(fitting, workloads, measurements), max_size=4))
@hypothesis_settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_again(taken: list[tuple[Workload, Measurement]]) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "records.jsonl"
        with open(path, "wb") as file:
            assert write_lines(taken, file) == len(taken)
        assert list(read_lines(path)) == taken


def test_lines_of_before_there_were_boards_are_read(tmp_path: Path) -> None:
    old = json.loads(line(format=2))
    del old["device"]["used"]
    (tmp_path / "r.jsonl").write_text(json.dumps(old))
    assert list(read_lines(tmp_path / "r.jsonl")) == [(HALF, measurement(HALF, 1.0))]


def line(**changed: Any) -> str:
    file = io.BytesIO()
    write_lines([(HALF, measurement(HALF, 1.0))], file)
    return json.dumps({**json.loads(file.getvalue()), **changed})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"format": 1}, "has the format 1; this hwsparse reads 3"),
        ({"samples_s": [1.0] * 5}, "5 samples; at least 6"),
        ({"samples_s": [1.0] * 5 + [-1.0]}, "not a positive number"),
        ({"samples_s": "fast"}, "samples_s"),
        ({"choice": "block4x1@2"}, "not between 0 and 1"),
        ({"choice": "no pattern"}, "pattern"),
        ({"threads": 2}, "measured with 1 threads, said to be of 2"),
        ({"threads": 0}, "at least 1 is needed"),
        ({"taken_at": "yesterday"}, "yesterday"),
        ({"taken_at": "2026-01-01T00:00:00"}, "lacks its time zone"),
        ({"taken_at": "0001-01-01T00:00:00+23:59"}, "out of range"),
        ({"signature": "anything"}, "is no layer's signature"),
        ({"source": "assumed"}, "source"),
        ({"device": {"machine": "x"}}, "device"),
        ({"target": "a\x1b]0;b"}, "characters that cannot be printed"),
        ({"kernel": "a\nb"}, "characters that cannot be printed"),
        ({"samples_s": [5e-324] * 6}, "not a positive number"),
        ({"reference_s": 1e300}, "no number of seconds"),
        ({"reference_s": -1.0}, "no number of seconds"),
        ({"cpu_share": 7.0}, "share"),
        ({"surprise": 1}, "surprise"),
        ({"signature": "x" * (1 << 20)}, "more than measurements take"),
    ],
)
def test_a_line_that_is_no_measurement_is_said(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(line() + "\n\n" + line(**changed) + "\n")
    with pytest.raises(InputError, match=r"r\.jsonl, line 3") as raised:
        list(read_lines(path))
    assert reason in str(raised.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": 1, "format": 1}', b"NaN", b"7"])
def test_what_is_no_json_object_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"r\.jsonl, line 1: "):
        list(read_lines(tmp_path / "r.jsonl"))


def test_a_file_may_not_go_on_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_LINES", 2)
    (tmp_path / "r.jsonl").write_text((line() + "\n") * 2)
    assert len(list(read_lines(tmp_path / "r.jsonl"))) == 2
    (tmp_path / "r.jsonl").write_text((line() + "\n") * 3)
    with pytest.raises(InputError, match="2 lines a file"):
        list(read_lines(tmp_path / "r.jsonl"))


def test_a_file_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        list(read_lines(tmp_path / "none.jsonl"))


def test_a_file_is_looked_at_whole_before_it_is_taken_in(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(line() + "\n\n" + line() + "\n")
    assert count_lines(path) == 2
    path.write_text(line() + "\n{}\n")
    with pytest.raises(InputError, match=r"r\.jsonl, line 2: "):
        count_lines(path)


def test_what_cannot_be_read_twice_is_said_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(InputError, match="is read twice"):
            count_lines(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        count_lines(tmp_path / "none.jsonl")
