"""Settling, building and packaging, on small networks with hand-made latencies."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from safetensors.numpy import load_file

from hwsparse import compiler
from hwsparse.artifact import Artifact
from hwsparse.codegen import Library, random_inputs, relative_error
from hwsparse.codegen.exact import float64_answers
from hwsparse.codegen.library import REFERENCE
from hwsparse.compiler import Figures, Refusal, build, checked, onnxruntime_answers, package, settle
from hwsparse.errors import ArtifactError, CompileError, MeasureError
from hwsparse.latency import CostModel, Measurement, Workload
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.quantise import split_weights
from hwsparse.sparsify import QualityReport, apply_plan, pruned_proto
from tests.codegen.building import Network
from tests.codegen.layers import CPU
from tests.codegen.test_int8_networks import in_bytes
from tests.latency.examples import NOON, measurement
from tests.model.graphs import model_proto, node, run, stored, value, weight
from tests.sparsify.test_quality import classifier

TARGET = replace(CPU, threads=1)
BLOCK, HALF = parse_choice("block4x1@0.9"), parse_choice("unstructured@0.5")


@pytest.fixture(scope="module")
def model() -> Model:
    return classifier(16)


@pytest.fixture(scope="module")
def plan(model: Model) -> Plan:
    return Plan.of(model.digest, {"conv": BLOCK, "head": HALF})


def costs_of(model: Model, times: dict[tuple[str, Choice], tuple[float, ...]]) -> CostModel:
    """A cost model of hand-made samples, in seconds, by layer and choice."""
    table: dict[Workload, Measurement] = {}
    for (name, choice), samples_s in times.items():
        workload = Workload.of(model.layer(name), choice, TARGET)
        table[workload] = measurement(workload, *samples_s)
    return CostModel.fit(table)


@pytest.fixture(scope="module")
def costs(model: Model) -> CostModel:
    """Sparsity pays for the convolution and not for the head."""
    dense = Choice()
    return costs_of(
        model, {("conv", dense): (4e-3,), ("conv", BLOCK): (1e-3,), ("head", dense): (1e-5,), ("head", HALF): (3e-5,)}
    )


@pytest.fixture(scope="module")
def settled(model: Model, plan: Plan, costs: CostModel) -> tuple[Plan, dict[str, Refusal]]:
    return settle(model, plan, TARGET, costs)


@pytest.fixture(scope="module")
def library(
    model: Model, settled: tuple[Plan, dict[str, Refusal]], tmp_path_factory: pytest.TempPathFactory
) -> Library:
    directory = tmp_path_factory.mktemp("library")
    return build(model, settled[0], apply_plan(model, settled[0]), TARGET, {}, random_inputs(model.inputs), directory)


def test_a_layer_that_does_not_pay_stays_dense_and_it_is_said(
    model: Model, settled: tuple[Plan, dict[str, Refusal]]
) -> None:
    shipped, refused = settled
    assert shipped == Plan.of(model.digest, {"conv": BLOCK})
    assert set(refused) == {"head"} and refused["head"].asked == HALF
    assert refused["head"].reason == (
        "not faster on test-cpu beyond noise: dense 0.01 ms (0.0098 to 0.0102), "
        "unstructured@0.5 0.03 ms (0.0294 to 0.0306)"
    )


@pytest.mark.parametrize("sparse", [(4e-3,), (3.5e-3, 5e-3, 5e-3)], ids=["equal", "within noise"])
def test_what_is_not_faster_beyond_noise_is_refused(model: Model, sparse: tuple[float, ...]) -> None:
    costs = costs_of(model, {("conv", Choice()): (4e-3,), ("conv", BLOCK): sparse})
    shipped, refused = settle(model, Plan.of(model.digest, {"conv": BLOCK}), TARGET, costs)
    assert not shipped.choices and "not faster on test-cpu" in refused["conv"].reason


def test_what_others_are_held_to_ships_whether_or_not_it_pays(model: Model) -> None:
    costs = costs_of(model, {("conv", Choice()): (4e-3,), ("conv", BLOCK): (5e-3,)})
    plan = Plan.of(model.digest, {"conv": BLOCK})
    assert settle(model, plan, TARGET, costs, baseline=BLOCK) == (plan, {})
    assert settle(model, plan, TARGET, costs, baseline=HALF)[0] == Plan(model.digest)


def test_a_choice_without_a_kernel_is_refused_without_being_measured(model: Model, costs: CostModel) -> None:
    half = parse_choice("block4x1@0.9/float8")
    shipped, refused = settle(model, Plan.of(model.digest, {"conv": half}), TARGET, costs)
    assert not shipped.choices
    assert refused["conv"] == Refusal(half, "no CPU kernel for float8 weights; float32, float16, bfloat16, int8 only")


def test_a_layer_that_was_never_measured_cannot_be_settled(model: Model, costs: CostModel) -> None:
    with pytest.raises(MeasureError, match="never measured"):
        settle(model, Plan.of(model.digest, {"conv": parse_choice("2:4")}), TARGET, costs)


def test_a_built_library_equals_onnxruntime_and_keeps_its_reference(
    model: Model, settled: tuple[Plan, dict[str, Refusal]], library: Library
) -> None:
    weights = apply_plan(model, settled[0])
    assert (weights["conv"] == 0).mean() == pytest.approx(0.9, abs=0.02)
    for seed in range(3):
        inputs = random_inputs(model.inputs, seed)
        expected = onnxruntime_answers(model, weights, inputs)
        assert relative_error(library.run(inputs)["y"], expected["y"]) < 1e-4
    reference = load_file(library.directory / "reference.safetensors")
    assert set(reference) == {"in/x", "out/y"}
    np.testing.assert_array_equal(reference["in/x"], random_inputs(model.inputs)["x"])
    error = library.check()
    assert error is not None and error < 1e-6


def test_a_residual_network_of_convolutions_and_products(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w", "wb"], ["a"], "first", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "v"], ["b"], "second", pads=[1, 1, 1, 1], strides=[1, 1]),
        node("Add", ["b", "x"], ["s"]),
        node("GlobalAveragePool", ["s"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "g", "gb"], ["y"], "head", transB=1),
    ]
    weights = [weight("w", 16, 8, 3, 3), weight("wb", 16), weight("v", 8, 16, 3, 3), weight("g", 5, 8), weight("gb", 5)]
    shape = (1, 8, 9, 9)
    proto = model_proto(nodes, [value("x", shape)], [value("y", (1, 5))], weights)
    model = import_onnx(proto.SerializeToString(), name="residual")
    plan = Plan.of(model.digest, {"first": BLOCK, "second": parse_choice("2:4"), "head": HALF})
    pruned = apply_plan(model, plan)
    library = build(model, plan, pruned, TARGET, {}, random_inputs(model.inputs), tmp_path)
    inputs = random_inputs(model.inputs, 7)
    expected = run(pruned_proto(model, pruned), inputs)[0]
    assert relative_error(library.run(inputs)["y"], expected) < 1e-4
    assert set(library.kernels) == {"first", "second", "head"}


@pytest.fixture
def compiled(library: Library, tmp_path: Path) -> Path:
    """What `library` was compiled to, and was not checked yet."""
    return shutil.copytree(library.directory, tmp_path / "compiled", ignore=shutil.ignore_patterns(REFERENCE))


@pytest.mark.parametrize("wrong", [lambda y: y * 1.01, lambda y: np.full_like(y, np.nan)], ids=["off", "nan"])
def test_a_library_that_computes_something_else_is_an_error(
    model: Model,
    settled: tuple[Plan, dict[str, Refusal]],
    compiled: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[[np.ndarray], np.ndarray],
) -> None:
    right, plan = Library.run, settled[0]
    monkeypatch.setattr(
        Library, "run", lambda self, inputs: {name: wrong(y) for name, y in right(self, inputs).items()}
    )
    with pytest.raises(CompileError, match=r"classifier compiled for test-cpu: output 'y' differs"):
        checked(model, plan, apply_plan(model, plan), TARGET, random_inputs(model.inputs), compiled)
    assert not (compiled / REFERENCE).exists()


def test_code_of_another_machine_is_run_there_and_checked_from_here(
    compiled: Path,
    model: Model,
    library: Library,
    settled: tuple[Plan, dict[str, Refusal]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, inputs = apply_plan(model, settled[0]), random_inputs(model.inputs, 1)
    right, asked = library.run(inputs), list[Path]()

    def answer(directory: Path, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        asked.append(directory)
        assert given is inputs
        return {name: value + (len(asked) > 1) for name, value in right.items()}

    monkeypatch.setattr(Library, "load", None)  # it could not be
    found = checked(model, settled[0], weights, TARGET, inputs, compiled, answer)
    assert (found.directory, found.kernels) == (compiled, library.kernels)
    np.testing.assert_array_equal(load_file(compiled / REFERENCE)["out/y"], right["y"])
    with pytest.raises(CompileError, match="output 'y' differs"):
        checked(model, settled[0], weights, TARGET, inputs, compiled, answer)
    assert asked[:2] == [compiled, compiled]


def test_where_rounding_decides_being_as_near_to_float64_as_onnxruntime_is_enough(
    model: Model,
    settled: tuple[Plan, dict[str, Refusal]],
    compiled: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs, weights = random_inputs(model.inputs), apply_plan(model, settled[0])
    exact = float64_answers(pruned_proto(model, weights), inputs)["y"]
    monkeypatch.setattr(compiler, "onnxruntime_answers", lambda *_: {"y": (exact * 1.01).astype(np.float32)})
    assert checked(model, settled[0], weights, TARGET, inputs, compiled).directory == compiled


def test_a_byte_that_tips_may_move_the_answers_of_a_deep_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Network(5)
    at = net.node("Relu", net.conv("x", 8, 8, 3))
    for _ in range(30):
        inner = net.node("Relu", net.conv(at, 8, 8, 3))
        at = net.node("Relu", net.node("Add", net.conv(inner, 8, 8, 3), at))
    model = net.model((1, 8, 6, 6), (at, (1, 8, 6, 6)))
    plan, weights = in_bytes(model, "dense")
    inputs = random_inputs(model.inputs, 11)
    expected = onnxruntime_answers(model, weights, inputs)[at]
    floats = onnxruntime_answers(model, split_weights(weights).plain, inputs)[at]
    # Weights that float32 can hardly tell from these make other programs that are right, and in some a byte tips over:
    # in which of them, sums in the order of this machine decide.
    own = {name: value for name, value in weights.items() if name in dict(plan.choices)}

    def near(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        others = {
            name: (value * (1 + 2e-7 * rng.standard_normal(value.shape))).astype(np.float32)
            for name, value in own.items()
        }
        return onnxruntime_answers(model, {**weights, **others}, inputs)[at]

    right = max((near(seed) for seed in range(12)), key=lambda answers: relative_error(answers, expected))
    assert relative_error(right, expected) > max(compiler.TOLERANCE, relative_error(floats, expected) / 2)
    wrong = right + 0.06 * np.abs(right).max() * np.sign(np.random.default_rng(0).standard_normal(right.shape))
    build(model, plan, weights, TARGET, {}, inputs, tmp_path)

    def check(outputs: np.ndarray) -> None:
        monkeypatch.setattr(Library, "run", lambda *_: {at: outputs.astype(np.float32)})
        checked(model, plan, weights, TARGET, inputs, tmp_path)

    check(right)
    with pytest.raises(CompileError, match=r"on the same rounded values by 0\.0\d+ .*; 0\.0\d+ could come of rounding"):
        check(wrong)
    # Beyond a tenth nothing is excused, whatever rounding does.
    with pytest.raises(CompileError, match=r"by 0\.[23]\d* "):
        check(right + np.float32(0.25) * np.abs(right).max())


def test_what_is_no_weight_is_not_disturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors of a Resize, for one, must stay what they are."""
    net = Network(6)
    inner = net.conv(net.node("Relu", net.conv("x", 8, 8, 3)), 8, 8, 1)
    larger = net.node("Resize", inner, "", net.array(np.array([1, 1, 2, 2], np.float32)))
    y, shape = net.conv(net.node("Relu", larger), 8, 8, 3), (1, 8, 12, 12)
    model = net.model((1, 8, 6, 6), (larger, shape), (y, shape))
    plan, weights = in_bytes(model, "dense")
    inputs = random_inputs(model.inputs, 3)
    directory = build(model, plan, weights, TARGET, {}, inputs, tmp_path).directory
    expected = onnxruntime_answers(model, weights, inputs)
    off = {y: expected[y] + np.float32(0.09) * np.abs(expected[y]).max()}
    monkeypatch.setattr(Library, "run", lambda *_: expected | off)
    with pytest.raises(CompileError, match=f"output '{y}' differs .* could come of rounding"):
        checked(model, plan, weights, TARGET, inputs, directory)


def test_a_network_that_makes_much_of_rounding_gets_plain_kernels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((16, 16, 3, 3)).astype(np.float32)
    second = (first * (1 + 1e-3 * rng.standard_normal(first.shape))).astype(np.float32)
    nodes = [
        node("Conv", ["x", "v"], ["a"], "first", pads=[1, 1, 1, 1]),
        node("Conv", ["x", "w"], ["b"], "second", pads=[1, 1, 1, 1]),
        node("Sub", ["a", "b"], ["y"]),
    ]
    shape = (1, 16, 20, 20)
    proto = model_proto(nodes, [value("x", shape)], [value("y", shape)], [stored("v", first), stored("w", second)])
    model = import_onnx(proto.SerializeToString(), name="difference")
    inputs, plan = random_inputs(model.inputs), Plan(model.digest)
    fast = dict.fromkeys(("first", "second"), "winograd_f4x3")
    library = build(model, plan, {}, TARGET, fast, inputs, tmp_path)
    assert all(kernel.startswith("shared_index_r4") for kernel in library.kernels.values())
    assert relative_error(library.run(inputs)["y"], float64_answers(model.proto, inputs)["y"]) < 1e-3
    # Times of the kernels that were to be are no proof of those that are.
    workload = Workload.of(model.layer("first"), Choice(), TARGET)
    time = measurement(workload, 1e-3, kernel="winograd_f4x3")
    costs, figures = CostModel.fit({workload: time}), Figures(time, time, time, None, None)
    packed = package(model, plan, {}, library, TARGET, costs, figures, tmp_path / "artifact", NOON)
    assert [proof.dense_s for proof in packed.manifest.layers] == [None, None]


def test_float64_answers_are_exact() -> None:
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((6, 4)).astype(np.float32), rng.standard_normal(4).astype(np.float32)
    nodes = [node("MatMul", ["x", "w"], ["p"], "fc"), node("Add", ["p", "b"], ["q"]), node("Tanh", ["q"], ["y"])]
    proto = model_proto(
        nodes, [value("x", (2, 6))], [value("y", (2, 4)), value("q", (2, 4))], [stored("w", w), stored("b", b)]
    )
    x = rng.standard_normal((2, 6)).astype(np.float32)
    answers = float64_answers(proto.SerializeToString(), {"x": x})
    sums = x.astype(np.float64) @ w.astype(np.float64) + b
    assert answers["y"].dtype == np.float64
    np.testing.assert_allclose(answers["q"], sums, rtol=1e-14)
    np.testing.assert_allclose(answers["y"], np.tanh(sums), rtol=1e-6)


def test_float64_answers_agree_with_onnxruntime_on_a_network(model: Model) -> None:
    inputs = random_inputs(model.inputs, 3)
    exact = float64_answers(model.proto, inputs)["y"]
    assert relative_error(onnxruntime_answers(model, {}, inputs)["y"], exact) < 1e-5


def test_what_has_no_float64_form_is_a_compile_error() -> None:
    graph = helper.make_graph([node("Gobble", ["x"], ["y"])], "g", [value("x", (1, 2))], [value("y", (1, 2))])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(CompileError, match="cannot be computed in float64"):
        float64_answers(proto.SerializeToString(), {"x": np.zeros((1, 2), np.float32)})


@pytest.fixture
def artifact(
    model: Model, settled: tuple[Plan, dict[str, Refusal]], library: Library, costs: CostModel, tmp_path: Path
) -> Artifact:
    workload = Workload.of(model.layer("conv"), Choice(), TARGET)
    sparse, dense, other = (measurement(workload, time) for time in (2e-3, 5e-3, 6e-3))
    quality = QualityReport("top1", 0.75, (0.7, 0.8), 0.05, (0.0, 0.1), 0.02, 20, "own", "held-out")
    figures = Figures(sparse, dense, other, quality, None)
    return package(model, *settled, library, TARGET, costs, figures, tmp_path / "artifact", NOON)


def test_an_artifact_tells_of_every_layer(
    artifact: Artifact, model: Model, settled: tuple[Plan, dict[str, Refusal]]
) -> None:
    manifest = Artifact.load(artifact.directory).manifest
    assert manifest == artifact.manifest
    assert (manifest.model.name, manifest.model.digest, manifest.plan) == ("classifier", model.digest, settled[0])
    assert (manifest.target.name, manifest.target.threads) == ("test-cpu", 1)
    assert [(spec.name, spec.shape, spec.dtype) for spec in manifest.inputs] == [("x", (1, 16, 12, 12), "float32")]
    conv, head = sorted(manifest.layers, key=lambda proof: proof.name)
    assert (conv.name, conv.asked, conv.shipped, conv.refused) == ("conv", "block4x1@0.9", "block4x1@0.9", None)
    assert conv.kernel.startswith("shared_index_r4")
    assert (conv.dense_s, conv.sparse_s) == (4e-3, 1e-3)
    assert (head.asked, head.shipped, head.dense_s, head.sparse_s) == ("unstructured@0.5", "dense", 1e-5, 3e-5)
    assert head.refused is not None and head.refused.startswith("not faster on test-cpu")
    assert head.kernel
    assert manifest.latency is not None and manifest.dense_latency is not None
    assert (manifest.latency.median_s, manifest.dense_latency.median_s) == (2e-3, 5e-3)
    assert manifest.latency.source == "measured"
    assert manifest.quality is not None and (manifest.quality.value, manifest.quality.split) == (0.75, "held-out")
    assert manifest.dense_quality is None
    assert {"apache-tvm", "kernels", "python"} <= dict(manifest.toolchain).keys()
    assert manifest.created_at == "2026-01-01T12:00:00Z"


def test_an_artifact_runs_as_the_library_did(artifact: Artifact, model: Model, library: Library) -> None:
    inputs = random_inputs(model.inputs, 5)
    again = Library.load(artifact.directory, 1).run(inputs)["y"]
    np.testing.assert_array_equal(again, library.run(inputs)["y"])


def test_a_choice_that_was_never_measured_has_no_time(
    model: Model, library: Library, costs: CostModel, tmp_path: Path
) -> None:
    half = parse_choice("block4x1@0.9/float16")
    refused = {"conv": Refusal(half, "no CPU kernel")}
    time = measurement(Workload.of(model.layer("conv"), Choice(), TARGET), 1e-3)
    figures = Figures(time, time, time, None, None)
    packed = package(model, Plan(model.digest), refused, library, TARGET, costs, figures, tmp_path / "a", NOON)
    proof = next(proof for proof in packed.manifest.layers if proof.name == "conv")
    assert (proof.asked, proof.shipped, proof.dense_s, proof.sparse_s) == (str(half), "dense", 4e-3, None)


def test_a_changed_byte_in_any_file_is_an_error(artifact: Artifact) -> None:
    names = sorted(path.name for path in artifact.directory.iterdir())
    assert names == ["library.json", "library.so", "manifest.json", "weights.safetensors"]
    for name in names:
        path = artifact.directory / name
        before = path.read_bytes()
        for place in (0, len(before) // 2, len(before) - 1):
            path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
            with pytest.raises(ArtifactError, match=re.escape(name)):
                Artifact.load(artifact.directory)
        path.write_bytes(before)
    assert Artifact.load(artifact.directory) == artifact


def test_nothing_is_packaged_over_another_artifact(
    artifact: Artifact, model: Model, settled: tuple[Plan, dict[str, Refusal]], library: Library, costs: CostModel
) -> None:
    time = measurement(Workload.of(model.layer("conv"), Choice(), TARGET), 1e-3)
    with pytest.raises(ArtifactError, match="something is there already"):
        package(
            model, *settled, library, TARGET, costs, Figures(time, time, time, None, None), artifact.directory, NOON
        )
    assert Artifact.load(artifact.directory) == artifact
