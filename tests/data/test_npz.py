"""Arrays from outside."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

import hwsparse.data.npz
from hwsparse.data import Dataset, read_npz, write_npz
from hwsparse.errors import DataError, StorageError
from hwsparse.metric import METRICS

X = np.arange(12, dtype=np.float32).reshape(3, 4)
Y = np.array([0, 1, 1])


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name + ".npy", data)
    return path


@pytest.mark.parametrize("labels", ["labels", "y"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_numpy_writes(tmp_path: Path, labels: str, save: object) -> None:
    save(tmp_path / "set.npz", **{"ids": X, "mask": np.asfortranarray(X), labels: Y})  # type: ignore[operator]
    found = read_npz(tmp_path / "set.npz")
    assert (found.name, found.metric, sorted(found.inputs)) == ("set", "top1", ["ids", "mask"])
    np.testing.assert_array_equal(found.inputs["mask"], X)
    np.testing.assert_array_equal(found.labels, Y)


def test_pairs(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=X[:2], labels=np.array([0.5]))
    found = read_npz(tmp_path / "set.npz")
    assert (len(found), found.metric) == (1, "spearman")


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_written_is_read(tmp_path: Path, metric: str) -> None:
    labels, rows = (Y, X) if METRICS[metric].kind == "classes" else (np.array([0.5]), X[:2])
    whole = Dataset("set", {"file": rows, "jax/bytes:0": rows.astype(np.int32)}, labels, metric)
    write_npz(whole, tmp_path / "set.npz")
    found = read_npz(tmp_path / "set.npz")
    assert (found.digest, found.metric) == (whole.digest, metric)
    assert [item.name for item in tmp_path.iterdir()] == ["set.npz"]


def test_the_metric_of_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=X, labels=Y, metric="f1")
    assert read_npz(tmp_path / "set.npz").metric == "f1"
    np.savez(tmp_path / "set.npz", x=X, metric=X, labels=Y)  # numbers are an input
    assert sorted(read_npz(tmp_path / "set.npz").inputs) == ["metric", "x"]
    np.savez(tmp_path / "set.npz", x=X, labels=Y, metric="nonsense")
    with pytest.raises(DataError, match="metric 'nonsense' does not fit data set 'set': use top1 or f1"):
        read_npz(tmp_path / "set.npz")
    np.savez(tmp_path / "set.npz", x=X[:1], labels=np.array([0.5]), metric="top1")
    with pytest.raises(DataError, match="top1 needs class indices"):
        read_npz(tmp_path / "set.npz")
    np.savez(tmp_path / "set.npz", x=X[:2], labels=np.array([1]), metric="pearson")  # scores that are whole numbers
    assert read_npz(tmp_path / "set.npz").rows_per_label == 2


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"an input called 'y', which in a \.npz file means labels"):
        write_npz(Dataset("set", {"y": X}, Y), tmp_path / "set.npz")
    with pytest.raises(DataError, match=r"an input called 'metric', which in a \.npz file means the metric"):
        write_npz(Dataset("set", {"metric": X}, Y), tmp_path / "set.npz")
    with pytest.raises(StorageError, match="cannot write"):
        write_npz(Dataset("set", {"x": X}, Y), tmp_path / "none" / "set.npz")
    (tmp_path / "taken.npz").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        write_npz(Dataset("set", {"x": X}, Y), tmp_path / "taken.npz")
    assert [item.name for item in tmp_path.iterdir()] == ["taken.npz"]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X}, "has no labels: labels are then a model's own answers, so name the model"),
        ({"x": X, "y": Y, "labels": Y}, "needs one array called labels or y; it has both"),
        ({"y": Y}, "holds no array for an input"),
        ({"x": X, "y": Y, "metric": np.array(["top1"])}, "the array metric holds one text"),
        ({"x": X[:0], "y": Y[:0]}, "is empty"),
        ({"x": X[:2], "y": Y}, "3 labels need 3 rows"),
        ({"x": X, "y": Y.astype(float)}, "3 labels need 6 rows"),
    ],
)
def test_arrays_that_do_not_go_together(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=said):
        read_npz(tmp_path / "set.npz")


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.array([{}, {}], dtype=object), y=Y[:2])
    with pytest.raises(DataError, match="'x' holds Python objects"):
        read_npz(tmp_path / "set.npz")


def test_a_bomb_is_seen_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "set.npz", x=npy(np.zeros(10**6, np.uint8)), y=npy(Y))
    monkeypatch.setattr(hwsparse.data.npz, "MAX_DATA_BYTES", 10**5)
    with pytest.raises(DataError, match="unpacks to more than 100000 bytes"):
        read_npz(path)


def test_a_header_that_claims_too_much(tmp_path: Path) -> None:
    claimed = npy(X).replace(b"(3, 4)", b"(9, 9)")
    with pytest.raises(DataError, match="'x' has not the size that its header says"):
        read_npz(archive(tmp_path / "set.npz", x=claimed, y=npy(Y)))


@pytest.mark.parametrize("cut", range(0, 400, 37))
def test_truncated_files(tmp_path: Path, cut: int) -> None:
    np.savez(tmp_path / "whole.npz", x=X, y=Y)
    path = tmp_path / "set.npz"
    path.write_bytes((tmp_path / "whole.npz").read_bytes()[:cut])
    with pytest.raises(DataError, match=r"not a sound \.npz file"):
        read_npz(path)


def test_flipped_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", x=X, y=Y)
    whole = (tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "set.npz"
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x5A
        path.write_bytes(changed)
        try:
            found = read_npz(path)
        except DataError:
            continue
        # What is read in spite of it is what was written: the flip was in a date, an attribute, or an input's name.
        (array,) = found.inputs.values()
        np.testing.assert_array_equal(array, X)
        np.testing.assert_array_equal(found.labels, Y)


def test_other_members_and_files(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("run.py", "print()")
    with pytest.raises(DataError, match=r"'run\.py', which is not an array"):
        read_npz(path)
    archive(path, x=b"not an array", y=npy(Y))
    with pytest.raises(DataError, match="not a sound"):
        read_npz(path)
    with pytest.raises(DataError, match=r"cannot read .*: No such file"):
        read_npz(tmp_path / "missing.npz")
