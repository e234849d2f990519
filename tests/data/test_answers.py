from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwsparse.data.answers import Respondent, fewer_tokens
from hwsparse.data.dataset import ATTENTION_MASK, Dataset
from hwsparse.data.runs import session_of
from hwsparse.model import Model, import_onnx

TOKENS, WIDTH = 32, 24


def sentence_model(*, masked: bool = True, width: int = WIDTH) -> Model:
    """Embeddings with places, one attention, and the mean of the tokens; without a mask padding counts as well."""
    rng = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 4, name)

    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("Add", ["words", "places"], ["x"]),
        helper.make_node("Cast", [ATTENTION_MASK], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["mask", "one"], ["minus"]),
        helper.make_node("Mul", ["minus", "large" if masked else "zero"], ["hidden"]),
        helper.make_node("MatMul", ["x", "w"], ["keys"]),
        helper.make_node("Transpose", ["keys"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "turned"], ["scores"]),
        helper.make_node("Reshape", ["hidden", "row"], ["row_of_hidden"]),
        helper.make_node("Add", ["scores", "row_of_hidden"], ["seen"]),
        helper.make_node("Softmax", ["seen"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "x"], ["read"]),
        helper.make_node("MatMul", ["read", "v"], ["read_as"]),
        helper.make_node("Reshape", ["mask", "column"], ["real"]),
        helper.make_node("Mul", ["read_as", "real"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis"], ["y"], keepdims=0),
    ]
    shapes = {"row": [1, 1, TOKENS], "column": [1, TOKENS, 1], "axis": [1]}
    scalars = {"one": 1.0, "large": 1e9, "zero": 0.0}
    graph = helper.make_graph(
        nodes,
        "sentence",
        [helper.make_tensor_value_info(name, TensorProto.INT64, [1, TOKENS]) for name in ("ids", ATTENTION_MASK)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width])],
        [
            constant("table", TOKENS, width),
            constant("places", TOKENS, width),
            constant("w", width, width),
            constant("v", width, width),
            *(numpy_helper.from_array(np.array(value, np.int64), name) for name, value in shapes.items()),
            *(numpy_helper.from_array(np.array(value, np.float32), name) for name, value in scalars.items()),
        ],
    )
    return import_onnx(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString(),
        name="sentences",
    )


def sentences(lengths: list[int]) -> Dataset:
    rng = np.random.default_rng(1)
    mask = (np.arange(TOKENS) < np.array(lengths)[:, None]).astype(np.int64)
    scores = np.linspace(0, 5, len(lengths) // 2)
    return Dataset(
        "pairs", {"ids": rng.integers(1, TOKENS, mask.shape) * mask, ATTENTION_MASK: mask}, scores, "spearman"
    )


LENGTHS = [3, 4, 5, 8, 9, 16, 17, 32, 1, 2, 12, 30]


def test_a_sentence_is_answered_over_no_more_than_holds_it() -> None:
    model, data = sentence_model(), sentences(LENGTHS)
    fewer = fewer_tokens(model, data)
    assert fewer == (16, 8, 4)
    found = Respondent(model.apart, model.name, 2, fewer).answers(data)
    whole = session_of(model.proto)
    for row, answer in enumerate(found):
        (expected,) = whole.run(None, {name: values[row : row + 1] for name, values in data.inputs.items()})
        np.testing.assert_allclose(answer, expected.ravel(), rtol=1e-5, atol=1e-6)
    some = [7, 0, 10]
    np.testing.assert_array_equal(Respondent(model.apart, model.name, 1, fewer).answers(data, some), found[some])


def test_where_padding_counts_nothing_is_cut() -> None:
    model = sentence_model(masked=False)
    assert fewer_tokens(model, sentences(LENGTHS)) == ()


def test_a_network_as_wide_as_it_is_long_is_answered_whole() -> None:
    model = sentence_model(width=TOKENS)  # nothing tells tokens from channels
    assert fewer_tokens(model, sentences(LENGTHS)) == ()


@pytest.mark.parametrize(
    ("lengths", "fewer"), [([32, 31, 20, 17], ()), ([16, 16, 9, 20], (16,)), ([5, 6, 30, 9], (16, 8))]
)
def test_lengths_that_no_sentence_has_are_not_tried(lengths: list[int], fewer: tuple[int, ...]) -> None:
    model = sentence_model()
    assert fewer_tokens(model, sentences(lengths)) == fewer


def test_what_is_no_sentence_is_answered_whole() -> None:
    data = Dataset("vectors", {"x": np.zeros((4, 3), np.float32)}, np.array([0, 1, 0, 1]))
    assert data.tokens == 0
    assert not data.lengths().any()
    assert data.sample(2, 0)["x"].shape == (1, 3)
    assert fewer_tokens(sentence_model(), data) == ()


def test_a_mask_that_hides_all_leaves_a_row_whole() -> None:
    data = sentences([4, 0])
    assert data.lengths().tolist() == [4, TOKENS]
