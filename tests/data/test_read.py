"""The reader is picked by what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwsparse.data import read_dataset
from hwsparse.errors import DataError
from tests.data.test_images import CROP, picture


def test_arrays_and_folders(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.zeros((2, 3)), y=np.array([0, 1]))
    assert len(read_dataset(tmp_path / "set.npz")) == 2
    picture(tmp_path / "images" / "a" / "1.png")
    assert len(read_dataset(tmp_path / "images", preprocess=CROP)) == 1
    (tmp_path / "images" / "some.csv").write_text("file,class_index\na/1.png,0\n")
    assert len(read_dataset(tmp_path / "images" / "some.csv", preprocess=CROP)) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "sentence1,sentence2,score\na,b,1\n", "give the network's tokenizer.json"),
        ("x.csv", "file,class_index\na,1\n", "say how they are prepared"),
        ("x.csv", "a,b\n1,2\n", "has columns a,b; use file,class_index for images"),
        ("x.csv", "", "has columns ; use"),
        ("x.parquet", "PAR1", "is not a .npz file, a .csv file or a directory"),
        ("x.npz", "", "not a sound .npz file"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path / name)
    assert said in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_dataset(tmp_path / "none")
    with pytest.raises(DataError, match="cannot read"):
        read_dataset(tmp_path / "none.csv")
    with pytest.raises(DataError, match="say how they are prepared"):
        read_dataset(tmp_path)
    with pytest.raises(DataError, match="the data set is empty"):
        read_dataset(tmp_path, preprocess=CROP)
