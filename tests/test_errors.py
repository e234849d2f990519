"""Errors of other packages, put into one line, and those of the disk, told from the rest."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hwsparse.errors import StorageError, one_line, writing
from tests.disk import small_files


def test_an_error_of_onnxruntime_loses_its_paths_and_codes() -> None:
    error = RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Load model from /tmp/x/m.onnx failed:Node (a)\n  broke")
    assert one_line(error) == "Node (a) broke"
    assert len(one_line(RuntimeError("x" * 5000))) == 400
    assert one_line(KeyError()) == "KeyError"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_is_full_or_fixed_is_named(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(StorageError, match=f"cannot write .*/a: {os.strerror(code)}; free room"),
        writing(tmp_path / "a"),
    ):
        raise RuntimeError(f"ld: {os.strerror(code)}")


def test_a_disk_is_blamed_only_if_it_is_at_fault(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(RuntimeError, match="of another kind"), writing(path):
        raise RuntimeError("of another kind")
    assert not path.exists()
    with pytest.raises(StorageError, match="File too large"), small_files(1000), writing(path):
        raise RuntimeError("says nothing of why")
    with pytest.raises(StorageError, match="Is a directory"), writing(tmp_path):
        raise RuntimeError("says nothing of why")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_without_room() -> None:
    with pytest.raises(StorageError, match="/dev/full: No space left on device"), writing(Path("/dev/full")):
        Path("/dev/full").write_bytes(b"x")
