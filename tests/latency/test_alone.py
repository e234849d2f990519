"""Who times waits for whom."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hwsparse.latency.alone import alone, timing_lock


def test_one_waits_until_the_other_is_done_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    order, started = list[str](), threading.Event()

    def second() -> None:
        started.set()
        with alone(tmp_path / "new" / "lock"):
            order.append("second")

    for _ in range(2):
        started.clear()
        other = threading.Thread(target=second)
        with alone(tmp_path / "new" / "lock"):
            other.start()
            started.wait()
            other.join(0.2)  # it has all the time it needs, if it does not wait
            order.append("first")
        other.join()
    assert order == ["first", "second"] * 2
    (said,) = caplog.messages
    assert "another process of hwsparse is timing" in said and str(tmp_path / "new" / "lock") in said


def test_an_error_gives_way_to_others(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), alone(tmp_path / "lock"):
        raise RuntimeError
    with alone(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()


def test_where_there_is_no_place_for_it_nobody_waits(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with alone(tmp_path / "file" / "lock"), alone(tmp_path / "file" / "lock"), alone(None):
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_it_lies_where_measurements_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = timing_lock()
    assert found is not None and found.is_relative_to(tmp_path)
