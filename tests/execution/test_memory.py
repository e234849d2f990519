from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hwsparse.execution.memory import available_memory, held_memory

# In a process of its own: what others have left behind, memory may be taken from.
PROGRAM = """
from hwsparse.execution.memory import held_memory
held_memory()
block = bytearray(b"x" * (64 << 20))
held, most = held_memory()
assert most >= held > len(block)
del block
held_memory()
assert held_memory()[1] < most
"""


def test_what_a_process_held_at_most_is_told_since_it_was_last_asked() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_is_left_is_what_the_system_calls_available(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       8000 kB\nMemFree:  1 kB\nMemAvailable:       2000 kB\n")
    assert available_memory(tmp_path) == 2000 << 10
    (tmp_path / "meminfo").write_text("MemTotal: 8000 kB\n")
    assert available_memory(tmp_path) is None
    assert available_memory(tmp_path / "none") is None


def test_a_system_that_does_not_tell_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="does not tell how much memory a process holds"):
        held_memory(tmp_path)
