"""What is left of checkpoints by processes that are killed, beside those that live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hwsparse.errors import StorageError
from hwsparse.tuning.checkpoint import Position, load_checkpoint, save_checkpoint, writing_checkpoints

ROOT = Path(__file__).parents[2]
WHOLE = Position(1, 0.5, ())
WRITER = """
import os, sys
from pathlib import Path
import torch
from hwsparse.tuning.checkpoint import Position, save_checkpoint, writing_checkpoints

replace = os.replace

def wait_and_replace(*given):
    print("in mid-write", flush=True)
    sys.stdin.readline()
    replace(*given)

os.replace = wait_and_replace
path = Path(sys.argv[1])
with writing_checkpoints(path.parent):
    save_checkpoint(path, {}, Position(1, 0.5, ()), {"x": torch.zeros(8)})
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has written a checkpoint, but for giving it its name."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "training-1.safetensors")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == "in mid-write\n"
        yield process
        process.kill()


def write(path: Path) -> None:
    with writing_checkpoints(path.parent):
        save_checkpoint(path, {}, WHOLE, {"x": torch.ones(3)})


def names(directory: Path) -> set[str]:
    return {item.name for item in directory.iterdir()}


def test_what_a_killed_process_left_is_removed(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    other = tmp_path / ".kept.tmp"
    other.touch()
    os.kill(writer.pid, signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    write(tmp_path / "training-2.safetensors")
    assert names(tmp_path) == {"training-2.safetensors", other.name}


def test_what_a_living_process_writes_stays(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    write(tmp_path / "training-2.safetensors")
    assert len(names(tmp_path)) == 2
    writer.communicate("go on\n")
    assert writer.returncode == 0
    assert names(tmp_path) == {"training-1.safetensors", "training-2.safetensors"}
    position, tensors = load_checkpoint(tmp_path / "training-1.safetensors", {})
    assert position == WHOLE and torch.equal(tensors["x"], torch.zeros(8))


def test_trainings_of_one_process_leave_each_other_alone(tmp_path: Path) -> None:
    abandoned = tmp_path / ".training-1.safetensors.a1.tmp"
    with writing_checkpoints(tmp_path):
        abandoned.mkdir()
        with writing_checkpoints(tmp_path):
            assert abandoned.exists()
    with writing_checkpoints(tmp_path):
        assert not abandoned.exists()


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no directory for checkpoints"):
        write(tmp_path / "nowhere" / "training.safetensors")
