"""Whole models through lowering, compilation and loading, against onnxruntime on the same weights."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper

from hwsparse.codegen import (
    Library,
    build_layer,
    build_model,
    kernels_for,
    library,
    lowering,
    random_inputs,
    relative_error,
    require_compilable,
)
from hwsparse.codegen.build import export, write_parameters
from hwsparse.codegen.chains import find_chains
from hwsparse.codegen.link import _driver, link
from hwsparse.codegen.lowering import _import, _simplified, lower
from hwsparse.errors import ArtifactError, CompileError, InputError, ModelError, StorageError, UnsupportedError
from hwsparse.model import Model, import_onnx
from hwsparse.pattern import parse_pattern
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.probe import ALLOWED_CPUS
from hwsparse.sparsify import apply_plan, pruned_proto
from tests.codegen.layers import CPU, conv, product
from tests.disk import small_files


def network() -> Model:
    """Stem, depthwise, residual, clip, pooling, attention-like product, layer norm, softmax, head."""
    rng = np.random.default_rng(0)
    stored = []

    def weight(name: str, *shape: int) -> str:
        stored.append(numpy_helper.from_array((rng.standard_normal(shape) * 0.3).astype(np.float32), name))
        return name

    def ints(name: str, *values: int) -> str:
        stored.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def scalar(name: str, value: float) -> str:
        stored.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    node = helper.make_node
    nodes = [
        node(
            "Conv",
            ["x", weight("w0", 16, 3, 3, 3), weight("b0", 16)],
            ["c0"],
            "stem",
            strides=[2, 2],
            pads=[1, 1, 1, 1],
        ),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", weight("w1", 16, 1, 3, 3), weight("b1", 16)], ["c1"], "depth", group=16, pads=[1, 1, 1, 1]),
        node("Clip", ["c1", scalar("low", 0.0), scalar("high", 6.0)], ["r1"]),
        node("Conv", ["r1", weight("w2", 16, 16, 1, 1), weight("b2", 16)], ["c2"], "point"),
        node("Add", ["c2", "r0"], ["a2"]),
        node("Relu", ["a2"], ["r2"]),
        node("Reshape", ["r2", ints("flat", 1, 16, 64)], ["f2"]),
        node("Transpose", ["f2"], ["t2"], perm=[0, 2, 1]),
        node("MatMul", ["t2", weight("w3", 16, 24)], ["m3"], "query"),
        node("Add", ["m3", weight("b3", 24)], ["q3"]),
        node("Transpose", ["q3"], ["k3"], perm=[0, 2, 1]),
        node("MatMul", ["q3", "k3"], ["s3"]),
        node("Softmax", ["s3"], ["p3"], axis=-1),
        node("MatMul", ["p3", "q3"], ["o3"]),
        node("LayerNormalization", ["o3", weight("g4", 24), weight("b4", 24)], ["n4"], axis=-1),
        node("Erf", ["n4"], ["e4"]),
        node("Tanh", ["e4"], ["h4"]),
        node("ReduceMean", ["h4", ints("axes", 1)], ["v4"], keepdims=0),
        node("Gemm", ["v4", weight("w5", 10, 24), weight("b5", 10)], ["y"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        stored,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return import_onnx(proto.SerializeToString(), name="network")


@pytest.fixture(scope="module")
def model() -> Model:
    return network()


PLANS = ("dense", "unstructured@0.8", "block4x1@0.75", "block8x1@0.5", "2:4", "1:4", "channel@0.5")


@pytest.mark.parametrize("text", PLANS)
def test_a_model_computes_what_onnxruntime_does_on_the_pruned_weights(model: Model, text: str, tmp_path: Path) -> None:
    choice = parse_choice(text)
    layers = [model.layer(name) for name in ("point", "query")]
    plan = Plan.uniform(model.digest, layers, choice)
    weights = apply_plan(model, plan)
    library = build_model(model, plan, weights, CPU, tmp_path)
    inputs = random_inputs(model.inputs, seed=1)
    session = onnxruntime.InferenceSession(pruned_proto(model, weights), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, inputs)
    assert relative_error(library.run(inputs)["y"], expected) < 1e-4
    again = Library.load(tmp_path, 1)
    assert relative_error(again.run(inputs)["y"], expected) < 1e-4
    assert set(library.kernels) == {"stem", "depth", "point", "query", "head"}
    assert library.kernels["depth"] == "depthwise"


def test_biases_may_be_new_as_well(model: Model, tmp_path: Path) -> None:
    rng, weights = np.random.default_rng(0), {}
    for layer in model.layers:
        assert layer.bias is not None
        own = model.constant(layer.bias)
        weights[layer.bias] = rng.standard_normal(own.shape).astype(np.float32)
    inputs = random_inputs(model.inputs, seed=1)
    library = build_model(model, Plan(model.digest), weights, CPU, tmp_path)
    session = onnxruntime.InferenceSession(pruned_proto(model, weights), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, inputs)
    assert relative_error(library.run(inputs)["y"], expected) < 1e-4
    assert relative_error(onnxruntime.InferenceSession(model.proto).run(None, inputs)[0], expected) > 0.1


def test_kernels_take_over_bias_residual_and_clip(model: Model) -> None:
    names = {layer.name: f"weight_{index}" for index, layer in enumerate(model.layers)}
    main = _simplified(_import(model, names, {})[0])["main"]
    chains = {c.layer.name: c for c in find_chains(main, {names[layer.name]: layer for layer in model.layers})}
    assert set(chains) == {layer.name for layer in model.layers}
    assert all(chain.bias is not None for chain in chains.values())
    assert (chains["stem"].low, chains["stem"].high) == (0.0, float("inf"))
    assert (chains["depth"].low, chains["depth"].high) == (0.0, 6.0)
    assert chains["point"].residual is not None and chains["point"].low == 0.0
    assert chains["query"].residual is None


@pytest.mark.parametrize("text", ["dense", "unstructured@0.9", "block16x1@0.6", "2:4x4"])
@pytest.mark.parametrize("layer", [conv(1, 8, (9, 9), 32, (3, 3)), product((1, 20), 16, 32)], ids=["conv", "product"])
def test_a_layer_alone_agrees_with_onnxruntime(layer, text: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    build_layer(layer, parse_choice(text), CPU, tmp_path)
    library = Library.load(tmp_path, CPU.threads)
    error = library.check()
    assert error is not None and error < 1e-4
    assert all(seconds > 0 for seconds in library.time(3, 2))


WIDE = conv(1, 32, (20, 20), 32, (3, 3), pads=((1, 1), (1, 1)))


@pytest.mark.parametrize("text", ["dense", "unstructured@0.9", "block4x1@0.5"])
def test_a_layer_alone_agrees_with_onnxruntime_by_every_kernel_that_serves_it(text: str, tmp_path: Path) -> None:
    choice = parse_choice(text)
    kernels = kernels_for(WIDE, choice, CPU)
    assert len(set(kernels)) == len(kernels) > 1
    for kernel in kernels:
        directory = tmp_path / kernel
        directory.mkdir()
        build_layer(WIDE, choice, CPU, directory, kernel)
        library = Library.load(directory, CPU.threads)
        assert library.kernels == {"layer": kernel}
        error = library.check()
        assert error is not None and error < 1e-4


def test_ratios_share_kernels_and_dense_layers_have_some_of_their_own() -> None:
    sparse, more, dense = (
        set(kernels_for(WIDE, parse_choice(text), CPU)) for text in ("block4x1@0.5", "block4x1@0.9", "dense")
    )
    assert sparse == more
    assert dense - sparse == {"winograd_f4x3", "winograd_f2x3"}


def test_a_kernel_that_does_not_serve_a_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CompileError, match=r"layer as block4x1@0\.5 on test-cpu: no kernel 'winograd_f4x3'; shared_index_r4"
    ):
        build_layer(WIDE, parse_choice("block4x1@0.5"), CPU, tmp_path, "winograd_f4x3")
    assert not list(tmp_path.iterdir())


def test_a_network_is_built_of_the_kernels_asked_for(model: Model, tmp_path: Path) -> None:
    asked = {layer.name: kernels_for(layer, Choice(), CPU)[-1] for layer in model.layers}
    library = build_model(model, Plan(model.digest), {}, CPU, tmp_path, asked)
    assert library.kernels == asked


def test_a_wrong_answer_is_noticed(tmp_path: Path) -> None:
    build_layer(product((1, 20), 16, 32), Choice(), CPU, tmp_path)
    library = Library.load(tmp_path, CPU.threads)
    library._parameters[-1] = tvm.runtime.tensor(np.full(32, 100, np.float32))  # another bias
    error = library.check()
    assert error is not None and error > 0.1


def test_inputs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    build_layer(product((1, 20), 16, 32), Choice(), CPU, tmp_path)
    library = Library.load(tmp_path, CPU.threads)
    with pytest.raises(InputError, match="inputs are x; got none"):
        library.run({})
    with pytest.raises(InputError, match=r"float32 \(1, 20, 16\); got float64"):
        library.run({"x": np.zeros((1, 20, 16))})
    with pytest.raises(InputError, match="got float32"):
        library.run({"x": np.zeros((1, 20, 17), np.float32)})


def test_what_is_not_a_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a compiled library"):
        Library.load(tmp_path, 1)
    built, broken = tmp_path / "built", tmp_path / "broken"
    built.mkdir()
    build_layer(product((1, 20), 16, 32), Choice(), CPU, built)
    shutil.copytree(built, broken)  # the code of a loaded library must not change under it
    (broken / "library.so").write_bytes(b"\x7fELF and nothing more")
    with pytest.raises(ArtifactError, match="not a compiled library"):
        Library.load(broken, 1)


def with_node(operator: str, **attributes: object) -> Model:
    """Two products with one operator between them."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((8, 8)).astype(np.float32), name) for name in ("w", "v")]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node(operator, ["a"], ["b"], "odd", **attributes),
        helper.make_node("MatMul", ["b", "v"], ["y"], "second"),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", ports[:1], ports[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return import_onnx(proto.SerializeToString(), name="network")


def test_an_operator_that_tvm_lacks_is_named_with_its_node(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    require_compilable(model)
    require_compilable(with_node("Relu"))
    with pytest.raises(ModelError, match=r"TVM cannot import node 'odd' \(LpNormalization\) of network: .*not supp"):
        require_compilable(with_node("LpNormalization", p=2))
    converters = lowering.from_onnx.__globals__["_get_convert_map"]()
    monkeypatch.setattr(converters["Tanh"], "get_converter", lambda opset: 1 // 0)
    with pytest.raises(ModelError, match=r"node 'odd' \(Tanh\) of network: integer division or modulo by zero"):
        require_compilable(with_node("Tanh"))


def test_other_devices_are_refused(model: Model, tmp_path: Path) -> None:
    gpu = replace(CPU, name="some-gpu", kind="gpu")
    with pytest.raises(UnsupportedError, match="some-gpu"):
        build_model(model, Plan(model.digest), {}, gpu, tmp_path)


def test_without_a_compiler_ziglang_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert _driver("")[1:4] == ["-m", "ziglang", "cc"]
    assert _driver("aarch64-linux-gnu")[-1] == "aarch64-linux-gnu"


def test_a_linker_that_refuses_is_a_compile_error(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"linking .*out\.so failed: .*missing\.o.*") as caught:
        link(str(tmp_path / "out.so"), [str(tmp_path / "missing.o")], "")
    assert "[" not in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_linker_without_room_says_so(tmp_path: Path) -> None:
    source, found = tmp_path / "a.c", tmp_path / "a.o"
    source.write_text("char zeros[1 << 20] = {1};")
    subprocess.run([*_driver(""), "-c", "-fPIC", "-o", str(found), str(source)], check=True)
    with (
        small_files(40_000),
        pytest.raises(StorageError, match=r"cannot write .*out\.so: File too large; free room") as caught,
    ):
        link(str(tmp_path / "out.so"), [str(found)], "")
    assert not isinstance(caught.value, InputError)


def test_a_library_without_room_says_so(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = lower(model, Plan(model.digest), {}, CPU)
    with small_files(4_000), pytest.raises(StorageError, match=r"cannot write .*weights\.safetensors: File too large"):
        write_parameters(lowered, model, CPU, tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match=r"less than 16 MiB are free in .*TMPDIR"):
        export(None, tmp_path / "library.so", "")


def test_pattern_names_the_kernel(tmp_path: Path) -> None:
    layer = conv(1, 16, (8, 8), 32, (1, 1))
    build_layer(layer, Choice(parse_pattern("block8x1"), 0.5), CPU, tmp_path)
    library = Library.load(tmp_path, CPU.threads)
    assert library.kernels["layer"].startswith("shared_index_r8")


def test_equal_constants_are_kept_once() -> None:
    table = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["first"]),
        helper.make_node("Gather", ["again", "ids"], ["second"]),
        helper.make_node("Add", ["first", "second"], ["sum"]),
        helper.make_node("MatMul", ["sum", "weight"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "look-ups",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, (1, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 8))],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(table, "again"),
            numpy_helper.from_array(np.eye(8, dtype=np.float32), "weight"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    model = import_onnx(proto.SerializeToString(), name="look-ups")
    parameters = lower(model, Plan(model.digest), {}, CPU).parameters
    assert [array.shape for array in parameters.values()].count(table.shape) == 1


@pytest.mark.skipif(len(ALLOWED_CPUS) < 2, reason="takes two CPUs")
def test_caches_of_every_core_are_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[set[int]] = []
    monkeypatch.setattr(library, "_stream", lambda: where.append(os.sched_getaffinity(0)))
    library.evict()
    assert where == [{cpu} for cpu in os.sched_getaffinity(0)]
    assert os.sched_getaffinity(0) == set(ALLOWED_CPUS)
