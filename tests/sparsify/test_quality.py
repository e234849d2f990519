"""Quality against plain references, and that pruned weights really are the ones that are evaluated."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwsparse.data import Dataset, answers
from hwsparse.errors import DataError, ModelError, PlanError
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import Evaluator, apply_plan, pruned_proto, quality
from tests.model.graphs import model_proto, node, run, value, weight
from tests.sparsify.networks import embedder, product, sentences
from tests.sparsify.test_scores import midranks, pearson_of


def classifier(channels: int = 32) -> Model:
    """A convolution that onnxruntime's layout optimiser takes, pooling, and four classes."""
    rng = np.random.default_rng(0)
    stored = {
        "w": rng.standard_normal((channels, 16, 3, 3)) * 0.1,
        "v": rng.standard_normal((channels, 4)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return import_onnx(proto.SerializeToString(), name="classifier")


@pytest.fixture(scope="module")
def model() -> Model:
    return classifier()


@pytest.fixture(scope="module")
def data(model: Model) -> Dataset:
    """Labels are the dense model's own answers."""
    x = np.random.default_rng(1).standard_normal((24, 16, 12, 12)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.proto, providers=["CPUExecutionProvider"])
    return Dataset("own", {"x": x}, np.array([session.run(None, {"x": row[None]})[0].argmax() for row in x]))


def test_pruned_weights_are_the_ones_evaluated(model: Model, data: Dataset) -> None:
    evaluator = Evaluator(model, data, "calibration", threads=2)
    dense = evaluator.evaluate({})
    assert (dense.value, dense.samples, dense.metric) == (1.0, 24, "top1")
    for layer in model.layers:
        gone = evaluator.evaluate({layer.name: np.zeros(layer.weight_shape, np.float32)})
        assert gone.value == np.mean(data.labels == 0)  # all outputs are equal, and the first is taken


def test_top1_is_what_onnxruntime_gives_on_the_pruned_file(model: Model, data: Dataset) -> None:
    weights = apply_plan(model, Plan.of(model.digest, {"conv": parse_choice("block4x1@0.9")}))
    session = onnxruntime.InferenceSession(pruned_proto(model, weights), providers=["CPUExecutionProvider"])
    answers = [session.run(None, {"x": row[None]})[0].argmax() for row in data.inputs["x"]]
    report = Evaluator(model, data, "held-out", seed=3).evaluate(weights)
    assert report.value == np.mean(np.array(answers) == data.labels)
    assert report.interval[0] <= report.value <= report.interval[1]
    assert report == Evaluator(model, data, "held-out", seed=3).evaluate(weights)


def test_another_network_is_judged_on_the_same_samples_against_this_one(model: Model, data: Dataset) -> None:
    weights = apply_plan(model, Plan.of(model.digest, {"conv": parse_choice("block4x1@0.9")}))
    evaluator = Evaluator(model, data, "held-out", seed=3)
    other = import_onnx(pruned_proto(model, weights), name="other")
    assert evaluator.evaluate_other(other) == evaluator.evaluate(weights)
    assert evaluator.evaluate_other(model).drop_interval == (0, 0)


def test_data_that_do_not_fit_are_refused(model: Model) -> None:
    x = np.zeros((4, 16, 12, 12), np.float32)
    with pytest.raises(DataError, match="label 7"):
        Evaluator(model, Dataset("bad", {"x": x}, np.array([0, 1, 2, 7])), "calibration")
    with pytest.raises(DataError, match="has inputs z"):
        Evaluator(model, Dataset("bad", {"z": x}, np.array([0, 1, 2, 3])), "calibration")


def test_plans_that_do_not_fit_are_refused(model: Model) -> None:
    choice = parse_choice("unstructured@0.5")
    with pytest.raises(PlanError, match="not for classifier"):
        apply_plan(model, Plan.of("0" * 64, {"conv": choice}))
    with pytest.raises(PlanError, match=r"'nope', which classifier does not have"):
        apply_plan(model, Plan.of(model.digest, {"nope": choice}))
    with pytest.raises(PlanError, match="layer 'head' cannot be block8x1"):
        apply_plan(model, Plan.of(model.digest, {"head": parse_choice("block8x1@0.5")}))
    with pytest.raises(ModelError, match="shape"):
        pruned_proto(model, {"head": np.zeros((4, 4), np.float32)})


def test_spearman_of_cosines() -> None:
    model, data = embedder(), sentences(25)
    vectors = np.stack([run(model.proto, {"ids": data.inputs["ids"][i : i + 1]})[0][0] for i in range(50)])
    vectors = vectors.astype(np.float64)
    cosines = np.array([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(vectors[::2], vectors[1::2], strict=True)])
    report = Evaluator(model, data, "calibration").evaluate({})
    assert report.metric == "spearman" and report.samples == 25
    assert report.value == pytest.approx(pearson_of(midranks(cosines), midranks(data.labels)), abs=1e-9)
    perfect = Dataset("sentences", data.inputs, np.exp(cosines), "spearman")
    assert Evaluator(model, perfect, "calibration").evaluate({}).value == pytest.approx(1)


def test_embeddings_that_are_all_the_same_correlate_with_nothing() -> None:
    model = embedder()
    nothing = {name: np.zeros((8, 12), np.float32) for name in ("left", "right")}
    report = Evaluator(model, sentences(), "calibration").evaluate(nothing)
    assert report.value == 0 and report.interval == (0, 0)


def test_the_interval_is_that_of_the_bootstrap() -> None:
    """Of a share p of n, near the normal approximation; narrower with more samples; the value lies within."""
    rng = np.random.default_rng(0)
    for samples in (100, 400):
        x = rng.standard_normal((samples, 2)).astype(np.float32)
        labels = np.where(np.arange(samples) % 5 == 0, x.argmin(axis=1), x.argmax(axis=1))
        data = Dataset("rows", {"x": x}, labels)
        report = Evaluator(product(np.eye(2, dtype=np.float32)), data, "held-out").evaluate({})
        low, high = report.interval
        assert report.value == pytest.approx(0.8)
        assert low <= report.value <= high
        assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.8 * 0.2 / samples), rel=0.2)


def test_a_drop_is_as_sure_as_the_answers_that_changed_are_few() -> None:
    """Its error is that of the mean of the samples' differences; the values' intervals are far wider."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 2)).astype(np.float32)
    labels = np.where(np.arange(400) % 5 == 0, x.argmin(axis=1), x.argmax(axis=1))
    model = product(np.eye(2, dtype=np.float32))
    evaluator = Evaluator(model, Dataset("rows", {"x": x}, labels), "held-out")
    turned = np.array([[1, 0.05], [-0.05, 1]], np.float32)
    dense, report = evaluator.evaluate({}), evaluator.evaluate({model.layers[0].name: turned.T})
    assert (dense.drop, dense.drop_interval, dense.drop_error) == (0, (0, 0), 0)
    lost = (x.argmax(axis=1) == labels).astype(float) - ((x @ turned).argmax(axis=1) == labels)
    assert 3 < np.count_nonzero(lost) < 40
    assert report.drop == pytest.approx(lost.mean())
    assert report.drop_error == pytest.approx(lost.std() / np.sqrt(400), rel=0.1)
    low, high = report.drop_interval
    assert low <= report.drop <= high
    assert high - low == pytest.approx(2 * 1.96 * report.drop_error, rel=0.25)
    assert high - low < (report.interval[1] - report.interval[0]) / 2


def test_resamples_are_the_same_however_many_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = embedder(), sentences()
    report = Evaluator(model, data, "calibration", seed=1).evaluate({})
    assert report != Evaluator(model, data, "calibration", seed=2).evaluate({})
    monkeypatch.setattr(quality, "_COUNTS_AT_ONCE", 7 * len(data))
    assert report.interval == pytest.approx(Evaluator(model, data, "calibration", seed=1).evaluate({}).interval)
    monkeypatch.setattr(quality, "_COUNTS_AT_ONCE", 1)
    assert report.interval == pytest.approx(Evaluator(model, data, "calibration", seed=1).evaluate({}).interval)


def test_scores_per_position_are_no_scores_per_class() -> None:
    proto = model_proto(
        [node("MatMul", ["x", "w"], ["y"], name="only")], [value("x", [1, 3, 4])], weights=[weight("w", 4, 5)]
    )
    data = Dataset("rows", {"x": np.ones((4, 3, 4), np.float32)}, np.arange(4))
    with pytest.raises(DataError, match=r"one score per class.*\[1, 3, 5\]"):
        Evaluator(import_onnx(proto.SerializeToString()), data, "calibration")


def test_a_sample_that_cannot_be_run_is_an_error() -> None:
    data = sentences()
    ids = np.array(data.inputs["ids"])
    ids[7, 0] = 50  # the table has 50 rows
    evaluator = Evaluator(embedder(), Dataset("sentences", {"ids": ids}, data.labels, "spearman"), "calibration", 2)
    with pytest.raises(DataError, match="cannot run sample 7 of sentences") as error:
        evaluator.evaluate({})
    assert "\n" not in str(error.value)


def test_answers_that_are_not_finite_are_an_error() -> None:
    x = np.array([[1, 2], [3, 4], [3e38, 3e38]], np.float32)
    evaluator = Evaluator(
        product(np.ones((2, 2), np.float32)), Dataset("rows", {"x": x}, np.array([0, 1, 0])), "calibration"
    )
    with pytest.raises(DataError, match="not finite on sample 2 of rows"):
        evaluator.evaluate({})


@pytest.fixture(scope="module")
def many(model: Model) -> Dataset:
    """Enough labels for a part of them to tell something."""
    x = np.random.default_rng(2).standard_normal((160, 16, 12, 12)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.proto, providers=["CPUExecutionProvider"])
    return Dataset("many", {"x": x}, np.array([session.run(None, {"x": row[None]})[0].argmax() for row in x]))


def test_what_is_hopeless_is_told_by_a_part_of_the_samples(
    model: Model, many: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    run_one = answers.run

    def counted(session: object, outputs: object, feeds: object, what: str) -> object:
        asked.append(int(what.split()[1]))
        return run_one(session, outputs, feeds, what)

    monkeypatch.setattr(answers, "run", counted)
    evaluator = Evaluator(model, many, "calibration", seed=5)
    evaluator.evaluate({})
    asked.clear()
    gone = {"conv": np.zeros(model.layer("conv").weight_shape, np.float32)}
    report = evaluator.evaluate(gone, at_least=0.9)
    assert report.samples == len(asked) == len(set(asked)) == 40
    alone = Evaluator(model, many.subset(sorted(asked)), "calibration", seed=5).evaluate(gone)
    assert report == alone


def test_what_may_be_good_enough_is_told_by_all_samples(model: Model, many: Dataset) -> None:
    weights = apply_plan(model, Plan.of(model.digest, {"conv": parse_choice("block4x1@0.5")}))
    evaluator = Evaluator(model, many, "calibration", seed=5, threads=2)
    whole = evaluator.evaluate(weights)
    assert whole.samples == 160
    assert evaluator.evaluate(weights, at_least=whole.value) == whole
    assert evaluator.evaluate({}, at_least=2.0).samples == 160


def test_few_samples_tell_nothing_by_a_part(model: Model, data: Dataset) -> None:
    gone = {"conv": np.zeros(model.layer("conv").weight_shape, np.float32)}
    assert Evaluator(model, data, "calibration").evaluate(gone, at_least=0.99).samples == 24


def test_pairs_stay_together_in_a_part() -> None:
    model = embedder()
    pairs = sentences(120)
    evaluator = Evaluator(model, pairs, "calibration", seed=1)
    layer = model.layers[0]
    noise = np.random.default_rng(0).standard_normal(layer.weight_shape).astype(np.float32)
    report = evaluator.evaluate({layer.name: noise}, at_least=10.0)
    places = np.sort(np.random.default_rng(1).permutation(120)[:30])
    assert report == Evaluator(model, pairs.subset(places), "calibration", seed=1).evaluate({layer.name: noise})
