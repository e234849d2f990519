"""Sentence pairs through a tokenizer."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.data import read_text_pairs
from hwsparse.data.table import read_rows
from hwsparse.errors import DataError

ROWS = [("a cat", "a cat sat", "4.5"), ('a, "quoted" cat', "line\nbreak", "0"), ("", "sat " * 20, "1e0")]


def write(
    path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("sentence1", "sentence2", "score")
) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_ids_mask_and_scores(tmp_path: Path, tokenizer: Path) -> None:
    found = read_text_pairs(write(tmp_path / "dev.csv", ROWS), tokenizer, max_tokens=6)
    assert (found.name, found.metric, len(found), found.rows) == ("dev", "spearman", 3, 6)
    np.testing.assert_array_equal(found.labels, [4.5, 0, 1])
    ids, mask = found.inputs["input_ids"], found.inputs["attention_mask"]
    assert (ids.dtype, ids.shape, mask.dtype, mask.shape) == (np.int64, (6, 6), np.int64, (6, 6))
    np.testing.assert_array_equal(ids[:2], [[1, 4, 5, 2, 3, 3], [1, 4, 5, 6, 2, 3]])
    np.testing.assert_array_equal(mask[:2], [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(ids[4:], [[1, 2, 3, 3, 3, 3], [1, 6, 6, 6, 6, 2]])


def test_inputs_by_name_and_limit(tmp_path: Path, tokenizer: Path) -> None:
    path = write(tmp_path / "dev.csv", ROWS)
    found = read_text_pairs(path, tokenizer, inputs={"token_type_ids": "int32", "input_ids": "int64"}, limit=2, seed=1)
    assert {name: array.dtype.name for name, array in found.inputs.items()} == {
        "token_type_ids": "int32",
        "input_ids": "int64",
    }
    assert not found.inputs["token_type_ids"].any()
    assert len(found) == 2
    with pytest.raises(DataError, match="input 'pixels' is not one that a tokenizer makes"):
        read_text_pairs(path, tokenizer, inputs={"pixels": "float32"})


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        ([("a", "b", "x")], ("sentence1", "sentence2", "score"), "line 2: score 'x' is not a finite number"),
        ([("a", "b", "nan")], ("sentence1", "sentence2", "score"), "score 'nan' is not"),
        ([("a", "b", "")], ("sentence1", "sentence2", "score"), "score '' is not"),
        ([("a", "b")], ("sentence1", "sentence2", "score"), "line 2: the row has not as many cells"),
        ([], ("sentence1", "sentence2", "score"), "the data set is empty"),
        ([("a", "b", "1")], ("s1", "s2", "score"), "no column 'sentence1'"),
    ],
)
def test_rows_that_do_not_do(
    tmp_path: Path, tokenizer: Path, rows: list[tuple[str, ...]], header: tuple[str, ...], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read_text_pairs(write(tmp_path / "dev.csv", rows, header), tokenizer)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "Nothing"}}'])
def test_tokenizers_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match="not a tokenizer"):
        read_text_pairs(write(tmp_path / "dev.csv", ROWS), tmp_path / "tokenizer.json")


def test_tokenizers_that_are_missing_and_too_few_tokens(tmp_path: Path, tokenizer: Path) -> None:
    path = write(tmp_path / "dev.csv", ROWS)
    with pytest.raises(DataError, match=r"cannot read .*none\.json"):
        read_text_pairs(path, tmp_path / "none.json")
    with pytest.raises(DataError, match="1 to 65536"):
        read_text_pairs(path, tokenizer, max_tokens=0)
    with pytest.raises(DataError, match="too few"):
        read_text_pairs(path, tokenizer, max_tokens=1)


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=30)


@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_any_text_survives_the_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = write(tmp_path_factory.mktemp("csv") / "t.csv", list(rows), ("one", "two"))
    assert [tuple(row.values()) for _, row in read_rows(path, ("one", "two"))] == rows


@given(data=st.binary(max_size=60))
def test_any_bytes_are_rows_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(b"one,two\n" + data)
    try:
        rows = read_rows(path, ("one", "two"))
    except DataError:
        return
    assert rows
