"""What samples are judged by, and labels that are the dense model's own answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwsparse.data import Corruption, Dataset, ImagePreprocess, read_corrupted, read_dataset, read_image_folder
from hwsparse.data.answers import pair_cosines
from hwsparse.data.corruptions import PIXELS
from hwsparse.data.samples import Samples
from hwsparse.errors import DataError
from hwsparse.metric import METRICS
from hwsparse.model import Model, import_onnx
from tests.data.test_images import picture
from tests.data.test_read import encoder
from tests.data.test_text_pairs import write
from tests.model.graphs import model_proto, node, run, value, weight

X = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
CROP = ImagePreprocess(size=(8, 8), mean=(127.0,) * 3, std=(64.0,) * 3)
PAIRS = [("a cat", "a cat sat"), ("sat sat", "a"), ("cat", "cat"), ("a a cat", "sat on"), ("on cat", "sat a cat")]


def network(classes: int = 3, inputs: str = "x") -> Model:
    proto = model_proto(
        [node("MatMul", [inputs, "w"], ["y"])], [value(inputs, [1, 4])], weights=[weight("w", 4, classes)]
    )
    return import_onnx(proto.SerializeToString(), name="net")


def images_network() -> Model:
    nodes = [
        node("Conv", ["pixels", "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("MatMul", ["f", "v"], ["y"]),
    ]
    weights = [weight("w", 16, 3, 3, 3), weight("v", 16, 5)]
    proto = model_proto(nodes, [value("pixels", [1, 3, 8, 8])], weights=weights)
    return import_onnx(proto.SerializeToString(), name="net")


def outputs(model: Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    count = len(next(iter(inputs.values())))
    rows = [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(count)]
    return np.stack([run(model.proto, row)[0].reshape(-1) for row in rows])


@pytest.mark.parametrize(
    ("labels", "kinds", "metrics"),
    [
        (np.zeros(12, np.int64), ("classes",), ["top1", "f1", "neg_log_loss", "agreement"]),
        (np.zeros(6), ("pairs",), ["spearman", "pearson", "pair_agreement"]),
        (None, ("classes",), ["agreement"]),
        (None, ("pairs",), ["pair_agreement"]),
        (None, ("classes", "pairs"), ["agreement", "pair_agreement"]),
    ],
)
def test_metrics_that_fit(labels: np.ndarray | None, kinds: tuple[str, ...], metrics: list[str]) -> None:
    samples = Samples("set", {"x": X}, labels, kinds)  # type: ignore[arg-type]
    assert list(samples.metrics) == metrics
    assert samples.judged(model=network()).metric == metrics[0]
    digests = {samples.judged(metric, network()).digest for metric in metrics}
    assert len(digests) == len(metrics)
    for metric in {*METRICS, "accuracy"} - set(metrics):
        said = f"metric '{metric}' does not fit data set 'set'.*: use {' or '.join(metrics)}$"
        with pytest.raises(DataError, match=said):
            samples.judged(metric, network())


@pytest.mark.parametrize(("metric", "step"), [(None, 1), ("top1", 1), ("spearman", 2), ("pair_agreement", 2)])
def test_some_are_drawn_with_their_labels(metric: str | None, step: int) -> None:
    own = metric is not None and METRICS[metric].own
    labels = None if own else np.arange(12 // step)
    drawn = Samples("s", {"x": X}, labels, ("classes", "pairs")).drawn(4, 3, metric)
    chosen = np.random.default_rng(3).choice(12 // step, 4, replace=False)
    chosen.sort()
    rows = np.concatenate([np.arange(place * step, (place + 1) * step) for place in chosen])
    np.testing.assert_array_equal(drawn.inputs["x"], X[rows])
    assert drawn.labels is None if own else np.array_equal(drawn.labels, chosen)


@pytest.mark.parametrize(
    ("arrays", "labels", "said"),
    [
        ({"x": X}, np.zeros(11, np.int64), "11 labels need 11 rows"),
        ({"x": X}, np.zeros((12, 1), np.int64), "labels of shape"),
        ({"x": X, "y": X[:5]}, np.zeros(12, np.int64), "input 'y' has 5"),
        ({"x": np.float32(3)}, np.zeros(12, np.int64), "has no"),
    ],
)
def test_what_does_not_go_together_is_said_of_the_whole(
    arrays: dict[str, np.ndarray], labels: np.ndarray, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        Samples("s", arrays, labels, ("classes",)).drawn(4, 0).judged()


def test_labels_are_what_the_model_answers() -> None:
    found = Samples("set", {"rows": X}, None, ("classes",)).judged(model=network())
    assert (found.metric, list(found.inputs)) == ("agreement", ["x"])
    np.testing.assert_array_equal(found.labels, outputs(network(), {"x": X}).argmax(axis=1))
    pairs = Samples("set", {"x": X}, None, ("pairs",)).judged(model=network())
    vectors = outputs(network(), {"x": X}).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (pairs.metric, len(pairs)) == ("pair_agreement", 6)
    np.testing.assert_allclose(pairs.labels, (vectors[::2] * vectors[1::2]).sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(pair_cosines(np.zeros((2, 3))), [0])


def test_labels_that_are_given_can_be_left_aside() -> None:
    samples = Samples("set", {"x": X}, np.zeros(12, np.int64), ("classes",))
    own = samples.judged("agreement", network())
    assert own.digest == Samples("set", {"x": X}, None, ("classes",)).judged(model=network()).digest
    # Those of a file that says so itself are answers already, which nobody needs to give again.
    written = Samples("set", {"x": X}, own.labels, ("classes",), "agreement")
    assert written.judged().digest == own.digest
    with pytest.raises(DataError, match="'top1' does not fit data set 'set', which has no labels: use agreement"):
        written.judged("top1")


@pytest.mark.parametrize(
    ("inputs", "metric", "model", "said"),
    [
        ({"x": X}, None, None, "'set' has no labels: labels are then a model's own answers, so name the model"),
        ({"x": X[:, :3]}, None, network(), "a sample of 'x' is float32[1, 3], but model 'net' takes float32[1, 4]"),
        ({"x": X, "z": X}, None, network(), "data set 'set' has inputs x, z, but model 'net' takes x"),
        ({"x": X, "z": X[:3]}, None, network(), "3 labels need 3 rows, but input 'x' has 12"),
        ({"x": X[:5]}, "pair_agreement", network(), "2 labels need 4 rows, but input 'x' has 5"),
        ({"x": X[:0]}, None, network(), "is empty"),
        ({}, None, network(), "holds no array for an input"),
        ({"x": np.float32(1)}, None, network(), "is empty"),
        ({"x": X * np.float32(np.nan)}, None, network(), "not finite"),
    ],
)
def test_samples_that_cannot_be_answered(
    inputs: dict[str, np.ndarray], metric: str | None, model: Model | None, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        Samples("set", inputs, None, ("classes", "pairs")).judged(metric, model)
    assert said in str(caught.value)


def test_arrays_without_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=X)
    found = read_dataset(tmp_path / "set.npz", model=network())
    assert (found.metric, len(found)) == ("agreement", 12)
    some = read_dataset(tmp_path / "set.npz", model=network(), limit=4, seed=1)
    assert len(some) == 4
    pairs = read_dataset(tmp_path / "set.npz", model=network(), metric="pair_agreement")
    assert len(pairs) == 6
    with pytest.raises(DataError, match="so name the model"):
        read_dataset(tmp_path / "set.npz")


def test_images_without_labels(tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / "plain" / f"{index}.png", seed=index)
    model = images_network()
    found = read_dataset(tmp_path / "plain", model=model, preprocess=CROP)
    assert (found.name, found.metric, len(found), list(found.inputs)) == ("plain", "agreement", 4, ["pixels"])
    np.testing.assert_array_equal(found.labels, outputs(model, dict(found.inputs)).argmax(axis=1))
    (tmp_path / "plain" / "labels.csv").write_text("file\n2.png\n0.png\n")
    listed = read_dataset(tmp_path / "plain", model=model, preprocess=CROP)
    np.testing.assert_array_equal(listed.labels, found.labels[[2, 0]])
    with pytest.raises(DataError, match="metric 'f1' does not fit data set 'plain', which has no labels: use agree"):
        read_dataset(tmp_path / "plain", model=model, preprocess=CROP, metric="f1")
    with pytest.raises(DataError, match="so name the model"):
        read_image_folder(tmp_path / "plain", CROP)
    # A label under another name is not silently left aside.
    (tmp_path / "plain" / "labels.csv").write_text("file,label\n2.png,1\n")
    with pytest.raises(DataError, match="no column 'class_index'; it needs file,class_index"):
        read_dataset(tmp_path / "plain", model=model, preprocess=CROP)
    # Images that lie beside folders of classes are none of theirs.
    picture(tmp_path / "plain" / "cats" / "1.png")
    (tmp_path / "plain" / "labels.csv").unlink()
    assert len(read_dataset(tmp_path / "plain", model=model, preprocess=CROP)) == 1


def test_pairs_without_scores(tmp_path: Path, tokenizer: Path) -> None:
    path = write(tmp_path / "pairs.csv", list(PAIRS), ("sentence1", "sentence2"))
    model = encoder("input_ids", "attention_mask")
    found = read_dataset(path, model=model, tokenizer=tokenizer)
    assert (found.metric, len(found), found.rows) == ("pair_agreement", 5, 10)
    np.testing.assert_allclose(found.labels, pair_cosines(outputs(model, dict(found.inputs))), atol=1e-6)
    write(tmp_path / "pairs.csv", [(*pair, "1") for pair in PAIRS], ("sentence1", "sentence2", "similarity"))
    with pytest.raises(DataError, match="no column 'score'"):
        read_dataset(path, model=model, tokenizer=tokenizer)


def test_corrupted_images_are_the_same_ones(tmp_path: Path) -> None:
    for index in range(6):
        picture(tmp_path / "ab"[index % 2] / f"{index}.png", seed=index)
    options = {"model": images_network(), "preprocess": CROP, "limit": 4, "seed": 3}
    clean = read_dataset(tmp_path, **options).for_model(images_network())  # type: ignore[arg-type]
    found = list(read_corrupted(clean, tmp_path, **options))  # type: ignore[arg-type]
    assert [each.name for each in found] == [f"{tmp_path.name} ({name} 3)" for name in PIXELS]
    for each, name in zip(found, PIXELS, strict=True):
        np.testing.assert_array_equal(each.labels, clean.labels)
        assert (each.metric, list(each.inputs)) == ("top1", ["pixels"])
        pixels = np.rint(clean.inputs["pixels"] * 64 + 127).astype(np.uint8).transpose(0, 2, 3, 1)
        expected = np.stack([Corruption(name, seed=3).of_pixels(np.ascontiguousarray(image)) for image in pixels])
        np.testing.assert_allclose(each.inputs["pixels"].transpose(0, 2, 3, 1), (expected - 127.0) / 64, atol=1e-5)
    parts = [part.inputs["pixels"] for part in clean.split(0.5, 3)]
    apart = [part.inputs["pixels"] for part in clean.under("nothing", clean.inputs).split(0.5, 3)]
    for part, other in zip(parts, apart, strict=True):
        np.testing.assert_array_equal(part, other)


def test_own_answers_are_those_to_what_is_not_corrupted(tmp_path: Path) -> None:
    for index in range(8):
        picture(tmp_path / f"{index}.png", seed=index)
    model = images_network()
    clean = read_dataset(tmp_path, model=model, preprocess=CROP)
    for each in read_corrupted(clean, tmp_path, model=model, preprocess=CROP):
        np.testing.assert_array_equal(each.labels, clean.labels)
        assert not np.array_equal(each.inputs["pixels"], clean.inputs["pixels"])


def test_corrupted_sentences(tmp_path: Path, tokenizer: Path) -> None:
    path = write(tmp_path / "pairs.csv", [(*pair, str(i)) for i, pair in enumerate(PAIRS * 4)])
    clean = read_dataset(path, tokenizer=tokenizer)
    (found,) = read_corrupted(clean, path, tokenizer=tokenizer)
    assert (found.name, found.metric, len(found)) == ("pairs (typos 3)", "spearman", 20)
    np.testing.assert_array_equal(found.labels, clean.labels)
    changed = (found.inputs["input_ids"] != clean.inputs["input_ids"]).any(axis=1)
    assert 0 < changed.sum() < len(changed)


def test_arrays_cannot_be_corrupted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set\.npz holds arrays: only images and text can be corrupted") as caught:
        read_corrupted(Dataset("set", {"x": X}, np.arange(12)), tmp_path / "set.npz")
    assert "\n" not in str(caught.value)


def test_an_image_of_one_colour_survives_what_only_moves_colours(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (9, 9), (40, 80, 120)).save(tmp_path / "a" / "x.png")
    plain = read_image_folder(tmp_path, CROP).inputs["x"]
    for name in ("gaussian_blur", "contrast"):
        corrupted = read_image_folder(tmp_path, CROP, corruption=Corruption(name, 5)).inputs["x"]
        np.testing.assert_array_equal(corrupted, plain)
