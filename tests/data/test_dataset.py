"""Evaluation sets: what is refused, and splits that keep calibration and held-out samples apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.data import Dataset
from hwsparse.errors import DataError
from hwsparse.model import Model, import_onnx
from tests.model.graphs import model_proto, node, stored, value, weight


def numbered(labels: list[int] | np.ndarray, metric: str = "top1") -> Dataset:
    """Every row holds its own number, so that rows can be told apart."""
    rows = np.arange(len(labels) * (2 if metric == "spearman" else 1), dtype=np.float32)
    return Dataset("set", {"x": np.repeat(rows[:, None], 4, axis=1)}, np.asarray(labels), metric)


def network(batch: int = 1, classes: int = 3) -> Model:
    proto = model_proto(
        [node("MatMul", ["x", "w"], ["y"])], [value("x", [batch, 4])], weights=[weight("w", 4, classes)]
    )
    return import_onnx(proto.SerializeToString(), name="net")


labels_lists = st.lists(st.integers(0, 4), min_size=2, max_size=80)
fractions = st.floats(0.01, 0.99)


@given(labels=labels_lists, fraction=fractions, seed=st.integers(0, 10))
def test_a_split_is_disjoint_complete_stratified_and_repeatable(labels: list[int], fraction: float, seed: int) -> None:
    whole = numbered(labels)
    parts = whole.split(fraction, seed)
    numbers = [part.inputs["x"][:, 0].astype(int) for part in parts]
    assert sorted(np.concatenate(numbers)) == list(range(len(labels)))
    for part, rows in zip(parts, numbers, strict=True):
        assert len(part) >= 1
        np.testing.assert_array_equal(part.labels, whole.labels[rows])
    assert len(parts[0]) == min(max(round(fraction * len(labels)), 1), len(labels) - 1)
    share = len(parts[0]) / len(labels)
    for label in set(labels):
        assert abs(np.sum(parts[0].labels == label) - share * labels.count(label)) < 2
    again = whole.split(fraction, seed)
    np.testing.assert_array_equal(parts[0].inputs["x"], again[0].inputs["x"])


@given(count=st.integers(2, 40), fraction=fractions, seed=st.integers(0, 5))
def test_pairs_stay_together(count: int, fraction: float, seed: int) -> None:
    scores = np.random.default_rng(0).random(count)
    for part in numbered(scores, "spearman").split(fraction, seed):
        rows = part.inputs["x"][:, 0].astype(int)
        assert (len(rows), part.rows_per_label) == (part.rows, 2)
        np.testing.assert_array_equal(rows[1::2], rows[::2] + 1)
        np.testing.assert_array_equal(part.labels, scores[rows[::2] // 2])


@given(values=st.lists(st.integers(0, 9), min_size=2, max_size=40), fraction=fractions, seed=st.integers(0, 5))
def test_equal_samples_are_in_one_part(values: list[int], fraction: float, seed: int) -> None:
    whole = Dataset("repeated", {"x": np.array(values, np.float32)[:, None]}, np.arange(len(values)) % 3)
    if len(set(values)) == 1:
        with pytest.raises(DataError, match="all samples are the same"):
            whole.split(fraction, seed)
        return
    first, second = whole.parted(fraction, seed)
    assert sorted([*first, *second]) == list(range(len(values)))
    parts = [set(whole.inputs["x"][places, 0]) for places in (first, second)]
    assert all(parts) and not parts[0] & parts[1]


def test_contents_tell_samples_apart_and_not_labels() -> None:
    ids = np.array([[1, 2], [3, 4], [1, 2], [3, 5], [1, 2], [3, 4]])
    pairs = Dataset("pairs", {"a": ids, "b": ids + 1}, np.array([0.1, 0.2, 0.3]), "spearman").contents()
    assert pairs[0] == pairs[2] != pairs[1]
    assert len(set(numbered([0, 0, 0]).contents())) == 3


def test_another_seed_splits_otherwise() -> None:
    whole = numbered(np.arange(60) % 3)
    assert not np.array_equal(whole.split(0.5, 0)[0].inputs["x"], whole.split(0.5, 1)[0].inputs["x"])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fractions_that_leave_nothing(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        numbered([0, 1]).split(fraction, 0)


def test_one_label_cannot_be_split() -> None:
    with pytest.raises(DataError, match="one label"):
        numbered([0]).split(0.5, 0)


def test_subset_keeps_the_order_given() -> None:
    part = numbered([0, 1, 2, 1]).subset([3, 0])
    np.testing.assert_array_equal(part.labels, [1, 0])
    np.testing.assert_array_equal(part.inputs["x"][:, 0], [3, 0])


ROWS = np.zeros((2, 4), np.float32)


@pytest.mark.parametrize(
    ("inputs", "labels", "metric", "said"),
    [
        ({"x": ROWS}, [], "top1", "is empty"),
        ({}, [0, 1], "top1", "holds no array for an input"),
        ({"x": ROWS}, [0.5] * len(ROWS), "spearman", "labels of classes are integers"),
        ({"x": ROWS}, [[0], [1]], "top1", "labels of shape"),
        ({"x": ROWS}, [0, 1, 2], "top1", "3 labels need 3 rows, but input 'x' has 2"),
        ({"x": ROWS}, [0.0, 1.0], "spearman", "2 labels need 4 rows, but input 'x' has 2"),
        ({"x": np.float32(1)}, [0, 1], "top1", "has no"),
        ({"x": np.array(["a", "b"])}, [0, 1], "top1", "not numbers"),
        ({"x": np.array([0, np.nan])}, [0, 1], "top1", "not finite"),
        ({"x": ROWS}, [0.0, 1.0], "top1", "class indices"),
        ({"x": ROWS}, [0, -1], "top1", "class indices"),
        ({"x": ROWS}, [0.0, np.inf], "top1", "finite"),
        ({"x": ROWS}, ["a", "b"], "top1", "numbers"),
        ({"x": ROWS}, [np.nan], "spearman", "finite"),
        ({"x": ROWS}, [0, 1], "accuracy", "metric 'accuracy' is not one of top1, f1, "),
    ],
)
def test_sets_that_are_refused(inputs: dict[str, np.ndarray], labels: object, metric: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Dataset("set", {key: np.asarray(array) for key, array in inputs.items()}, np.array(labels), metric)


def test_samples_cannot_be_changed() -> None:
    whole = numbered([0, 1])
    for array in (whole.labels, whole.inputs["x"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_the_name_of_a_single_input_is_taken_from_the_model() -> None:
    fitted = Dataset("set", {"pixels": ROWS}, np.array([0, 1])).for_model(network())
    assert list(fitted.inputs) == ["x"]


@pytest.mark.parametrize(
    ("inputs", "labels", "said"),
    [
        ({"z": ROWS}, [0, 1], "data set 'set' has inputs z, but model 'net' takes x"),
        ({"x": ROWS[:, :3]}, [0, 1], "a sample of 'x' is float32[1, 3], but model 'net' takes float32[1, 4]"),
        ({"x": ROWS.astype(np.float64)}, [0, 1], "is float64[1, 4], but model 'net' takes float32[1, 4]"),
        ({"x": ROWS}, [0, 3], "has label 3, but output 'y' of model 'net' has 3 classes, 0 to 2"),
        ({"x": ROWS}, [1, 1], "all labels are 1"),
    ],
)
def test_sets_that_do_not_fit(inputs: dict[str, np.ndarray], labels: list[int], said: str) -> None:
    with pytest.raises(DataError) as caught:
        Dataset("set", inputs, np.array(labels)).check_fits(network())
    assert said in str(caught.value)


def test_a_model_of_many_samples_at_once_is_refused() -> None:
    with pytest.raises(DataError, match="one sample at a time"):
        numbered([0, 1]).check_fits(network(batch=8))


def test_pairs_need_no_classes() -> None:
    numbered(np.array([0.5, 4.5]), "spearman").check_fits(network(classes=2))


@pytest.mark.parametrize(
    ("shape", "top1", "spearman"),
    [
        ((1, 4), True, True),
        ((1, 4, 1, 1), True, False),
        ((4,), True, False),
        ((1, 2, 2), False, False),
        ((1, 1, 4), True, False),
    ],
)
def test_what_a_metric_can_judge(shape: tuple[int, ...], top1: bool, spearman: bool) -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Reshape", ["a", "shape"], ["y"])]
    weights = [weight("w", 4, 4), stored("shape", np.array(shape))]
    model = import_onnx(model_proto(nodes, [value("x", [1, 4])], weights=weights).SerializeToString(), name="net")
    for data, fits in ((numbered([0, 3]), top1), (numbered(np.array([0.5, 4.5]), "spearman"), spearman)):
        if fits:
            data.check_fits(model)
            continue
        with pytest.raises(DataError, match=f"{data.metric} needs one .* output 'y' of model 'net' has shape"):
            data.check_fits(model)
