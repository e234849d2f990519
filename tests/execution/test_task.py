from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from hwsparse.errors import StorageError
from hwsparse.execution.task import ALIGNMENT, Shelf, pack, unpack


def test_what_is_packed_is_unpacked_as_it_was() -> None:
    value = {
        "text": "é",
        "bytes": bytes(range(7)),
        "odd": np.arange(3, dtype=np.int8),
        "floats": np.linspace(0, 1, 1001, dtype=np.float32),
        "columns": np.asfortranarray(np.arange(12).reshape(3, 4)),
        "strided": np.arange(20)[::3],
        "none": np.zeros((0, 3)),
    }
    found = unpack(memoryview(pack(value)))
    assert found.keys() == value.keys()
    assert (found["text"], found["bytes"]) == (value["text"], value["bytes"])
    for name in ("odd", "floats", "columns", "strided", "none"):
        np.testing.assert_array_equal(found[name], value[name])
        assert found[name].dtype == np.asarray(value[name]).dtype


def test_arrays_are_views_where_kernels_can_read_them(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(pack([np.ones(5, np.int8), np.ones(100)]))
    whole = np.memmap(tmp_path / "packed", np.uint8, "r")
    for array in unpack(memoryview(whole)):
        assert not array.flags.writeable and not array.flags.owndata
        assert (array.ctypes.data - whole.ctypes.data) % ALIGNMENT == 0


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"cannot write .*: No space left on device; free room there"):
        Shelf(tmp_path).put(1)
