"""The reader is picked by what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from hwsparse.data import read_dataset
from hwsparse.errors import DataError
from hwsparse.model import Model, import_onnx
from tests.data.test_images import CROP, picture
from tests.model.graphs import model_proto, node, value, weight


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


def test_a_limit_draws_from_arrays_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.arange(40), y=np.arange(40))
    np.savez(tmp_path / "pairs.npz", x=np.arange(80), y=np.arange(40) / 2)
    found = read_dataset(tmp_path / "set.npz", limit=7, seed=1)
    np.testing.assert_array_equal(found.inputs["x"], found.labels)
    assert len(found) == 7 and found.labels.tolist() != list(range(7))
    assert found.digest == read_dataset(tmp_path / "set.npz", limit=7, seed=1).digest
    assert found.digest != read_dataset(tmp_path / "set.npz", limit=7, seed=2).digest
    pairs = read_dataset(tmp_path / "pairs.npz", limit=7)
    np.testing.assert_array_equal(pairs.inputs["x"][::2], pairs.labels * 4)
    assert len(read_dataset(tmp_path / "set.npz", limit=400)) == 40


def test_what_does_not_apply_is_refused(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    np.savez(tmp_path / "set.npz", x=np.zeros((2, 3)), y=np.array([0, 1]))
    with pytest.raises(DataError, match=r"holds arrays: the preparation of images \(--image\) and a tokenizer"):
        read_dataset(tmp_path / "set.npz", preprocess=CROP, tokenizer=tokenizer)
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2,score\na,b,1\n")
    with pytest.raises(DataError, match=r"holds sentence pairs: the preparation of images \(--image\) cannot apply"):
        read_dataset(tmp_path / "pairs.csv", preprocess=CROP, tokenizer=tokenizer)
    picture(tmp_path / "images" / "a" / "1.png")
    with pytest.raises(DataError, match=r"holds images: a tokenizer \(--tokenizer\) cannot apply"):
        read_dataset(tmp_path / "images", preprocess=CROP, tokenizer=tokenizer)


def encoder(*names: str, kind: int = TensorProto.INT32, shape: tuple[int, ...] = (1, 6)) -> Model:
    """Sums its inputs into an embedding."""
    nodes = [
        node("Sum", [f"{name}_f" for name in names], ["s"]),
        node("MatMul", ["s", "w"], ["y"]),
        *(node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT) for name in names),
    ]
    proto = model_proto(
        [*nodes[2:], *nodes[:2]], [value(name, shape, kind) for name in names], weights=[weight("w", shape[-1], 4)]
    )
    return import_onnx(proto.SerializeToString(), name="encoder")


def test_a_network_of_sentences_says_what_it_takes(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2,score\na cat,a,1\na,a,2\n")
    model = encoder("input_ids", "attention_mask", "token_type_ids")
    found = read_dataset(tmp_path / "pairs.csv", model=model, tokenizer=tokenizer).for_model(model)
    assert list(found.inputs) == ["input_ids", "attention_mask", "token_type_ids"]
    assert all((array.dtype.name, array.shape) == ("int32", (4, 6)) for array in found.inputs.values())
    assert not found.inputs["token_type_ids"].any()
    with pytest.raises(DataError, match="'pixels' is not one that a tokenizer makes"):
        read_dataset(tmp_path / "pairs.csv", model=encoder("pixels"), tokenizer=tokenizer)
    with pytest.raises(DataError, match=r"takes input_ids \[1, 2, 6\], not \(1, tokens\)"):
        read_dataset(tmp_path / "pairs.csv", model=encoder("input_ids", shape=(1, 2, 6)), tokenizer=tokenizer)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_dataset(tmp_path / "none")
    with pytest.raises(DataError, match="cannot read"):
        read_dataset(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"is empty; images, or a labels\.csv, belong there"):
        read_dataset(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="say how they are prepared"):
        read_dataset(tmp_path)
    with pytest.raises(DataError, match="the data set is empty"):
        read_dataset(tmp_path, preprocess=CROP)
