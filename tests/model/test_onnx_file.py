"""Files from outside: what is fixed, what is folded, and one clear error for each fault."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import hwsparse.model.external
import hwsparse.model.read
from hwsparse.errors import InputError, ModelError, StorageError
from hwsparse.model import import_onnx
from tests.disk import small_files
from tests.model.graphs import assert_same_results, model_proto, node, stored, value, weight

RELU = [node("Relu", ["x"], ["y"], "act")]
CONV = model_proto(
    [node("Conv", ["x", "w"], ["y"], "conv")], [value("x", [1, 3, 8, 8])], weights=[weight("w", 4, 3, 3, 3)]
)


def fault(proto: onnx.ModelProto | bytes, **arguments: object) -> str:
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    with pytest.raises(ModelError) as caught:
        import_onnx(data, **arguments)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- shapes


def test_open_batch_becomes_one() -> None:
    model = import_onnx(model_proto(RELU, [value("x", ["batch", 3])]).SerializeToString())
    assert model.inputs[0].shape == model.outputs[0].shape == (1, 3)


def test_a_size_shared_by_name_is_fixed_everywhere() -> None:
    inputs = [value("x", ["batch", "tokens"]), value("z", ["batch", "tokens"])]
    proto = model_proto([node("Add", ["x", "z"], ["y"])], inputs)
    model = import_onnx(proto.SerializeToString(), shapes={"z": (4, 7)})
    assert [spec.shape for spec in model.inputs] == [(4, 7), (4, 7)]


def test_a_given_batch_wins() -> None:
    model = import_onnx(model_proto(RELU, [value("x", [None, 3])]).SerializeToString(), shapes={"x": (8, 3)})
    assert model.inputs[0].shape == (8, 3)


def test_an_input_without_any_shape_can_be_given_one() -> None:
    proto = model_proto(RELU, [value("x", None)])
    assert import_onnx(proto.SerializeToString(), shapes={"x": (2, 5)}).outputs[0].shape == (2, 5)
    assert "input 'x' has no shape: give it, --shape x=" in fault(proto)


def test_a_stale_shape_inside_the_file_does_not_matter() -> None:
    proto = model_proto([*RELU[:0], node("Relu", ["x"], ["r"]), node("Neg", ["r"], ["y"])], [value("x", ["b", 3])])
    proto.graph.value_info.append(value("r", [5, 3]))
    assert import_onnx(proto.SerializeToString()).outputs[0].shape == (1, 3)


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        (["b", 3, "h", "w"], {}, "input 'x' has open dimension 'h' (axis 2): give its shape, --shape x=1,3,h,w"),
        ([1, None], {}, "input 'x' has open dimension (axis 1): give its shape, --shape x=1,?"),
        ([1, 3], {"z": (1, 3)}, "a shape was given for 'z', but the model's inputs are: x"),
        ([1, 3], {"x": (1, 4)}, "input 'x': axis 1 is 3 in the model, but 4 in the shape given"),
        ([1, "h", "h"], {"x": (1, 4, 5)}, "input 'x': axis 2 is 4 in the model, but 5 in the shape given"),
        (["b", 3], {"x": (1, 3, 3)}, "input 'x' has 2 axes (b,3), but the shape given is 1,3,3"),
        (["b", 3], {"x": (0, 3)}, "every size must be at least 1"),
        (["b", "h"], {"x": (1, 2**40)}, "more than"),
    ],
)
def test_shapes_that_do_not_do(shape: list[object], given: dict[str, tuple[int, ...]], said: str) -> None:
    assert said in fault(model_proto(RELU, [value("x", shape)]), shapes=given)  # type: ignore[arg-type]


# --- folding


def test_constants_are_folded_and_shapes_filled_in() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Concat", ["n", "minus"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["f"]),
        node("MatMul", ["f", "w"], ["y"], "mm"),
    ]
    weights = [stored("zero", np.array([0])), stored("minus", np.array([-1])), weight("w", 12, 2)]
    proto = model_proto(nodes, [value("x", ["b", 3, 4])], [value("y", ["b", 2])], weights)
    model = import_onnx(proto.SerializeToString())
    assert_same_results(proto, model)
    graph = onnx.load_from_string(model.proto).graph
    assert [item.op_type for item in graph.node] == ["Reshape", "MatMul"]
    assert [(v.name, [d.dim_value for d in v.type.tensor_type.shape.dim]) for v in graph.value_info] == [("f", [1, 12])]


def branch(name: str, kind: str) -> onnx.GraphProto:
    return helper.make_graph([node(kind, ["x"], [name])], name, [], [value(name, None)])


def test_a_choice_that_is_constant_is_folded_away() -> None:
    nodes = [
        node("If", ["c"], ["z"], "choice", then_branch=branch("a", "Neg"), else_branch=branch("b", "Abs")),
        node("Relu", ["z"], ["y"]),
    ]
    proto = model_proto(nodes, [value("x", [1, 4])], weights=[stored("c", np.array(True))])
    model = import_onnx(proto.SerializeToString())
    assert_same_results(proto, model)
    assert [item.op_type for item in onnx.load_from_string(model.proto).graph.node] == ["Neg", "Relu"]


def test_local_functions_are_inlined() -> None:
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    call = [node("Twice", ["x"], ["y"], domain="mine")]
    proto = model_proto(call, [value("x", [1, 4])], domains=["mine"], functions=[function])
    model = import_onnx(proto.SerializeToString())
    assert_same_results(proto, model)
    assert {item.domain for item in onnx.load_from_string(model.proto).opset_import} == {""}


def test_the_same_file_gives_the_same_digest_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = model_proto(
        [node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", "s", "o", "m", "v"], ["y"])],
        [value("x", ["b", 3, 8, 8])],
        weights=[weight("w", 4, 3, 3, 3), *(weight(n, 4) for n in "som"), stored("v", np.ones(4, np.float32))],
    )
    path.write_bytes(proto.SerializeToString())
    code = "import sys, pathlib, hwsparse.model as m; print(m.import_onnx(pathlib.Path(sys.argv[1])).digest)"
    other = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    model = import_onnx(path)
    assert model.digest == other.stdout.strip()
    assert model.name == "model"


def test_who_made_a_file_leaves_no_trace() -> None:
    plain = import_onnx(CONV.SerializeToString())
    marked = onnx.ModelProto()
    marked.CopyFrom(CONV)
    marked.producer_name, marked.doc_string, marked.graph.name = "someone", "remark", "other"
    marked.graph.node[0].doc_string = "File /home/someone/model.py"
    marked.metadata_props.add(key="path", value="/home/someone")
    assert import_onnx(marked.SerializeToString()).digest == plain.digest


@pytest.mark.parametrize("opset", [11, 13, 18, 21, 22])
def test_supported_opsets(opset: int) -> None:
    ir_version = 10 if opset > 20 else 8
    proto = model_proto(
        [node("Conv", ["x", "w"], ["y"])], [value("x", [1, 3, 8, 8])], weights=[weight("w", 4, 3, 3, 3)],
        opset=opset, ir_version=ir_version,
    )  # fmt: skip
    assert_same_results(proto, import_onnx(proto.SerializeToString()))


def test_an_operator_set_that_is_not_used_does_no_harm() -> None:
    assert import_onnx(model_proto(RELU, [value("x", [1])], domains=["ai.onnx.ml"]).SerializeToString())


# --- what cannot be taken


@pytest.mark.parametrize("opset", [1, 10, 23, 99])
def test_other_opsets(opset: int) -> None:
    text = fault(model_proto(RELU, [value("x", [1, 3])], opset=opset))
    assert f"the model has opset {opset}; 11 to 22 can be read" in text


def test_no_opset_at_all() -> None:
    proto = model_proto(RELU, [value("x", [1])])
    del proto.opset_import[:]
    assert "opset 0" in fault(proto)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (node("FusedGelu", ["x"], ["y"], "n1", domain="com.microsoft"), "node 'n1' (FusedGelu): operator com.micro"),
        (node("Scaler", ["x"], ["y"], "n1", domain="ai.onnx.ml"), "node 'n1' (Scaler): operator ai.onnx.ml.Scaler"),
        (node("Foo", ["x"], ["y"], "n1"), "node 'n1' (Foo): opset 17 of ONNX has no operator Foo"),
        (node("NonZero", ["x"], ["y"], "n1"), "node 'n1' (NonZero): the shape of its output 'y' depends on"),
        (node("SequenceConstruct", ["x"], ["y"], "n1"), "node 'n1' (SequenceConstruct): its output 'y' is not"),
        (node("MatMul", ["x", "w"], ["y"], "n1"), "onnxruntime cannot take the model: Node (n1) Op (MatMul)"),
        (node("Add", ["x", "i"], ["y"], "n1"), "(op_type:Add, node name: n1)"),
        (node("Relu", ["x", "x"], ["y"], "n1"), "not a valid ONNX model: "),
        (node("Relu", ["nothing"], ["y"], "n1"), "not a valid ONNX model: "),
        (node("Slice", ["x", "i", "i"], ["y"], "n1"), "'y': every size must be at least 1"),
    ],
)  # fmt: skip
def test_the_node_at_fault_is_named(bad: onnx.NodeProto, said: str) -> None:
    output = (
        helper.make_value_info("y", helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1, 4])))
        if bad.op_type == "SequenceConstruct"
        else value("y", None, TensorProto.INT64 if bad.op_type == "NonZero" else TensorProto.FLOAT)
    )
    domains = [bad.domain] if bad.domain else []
    weights = [weight("w", 5, 4), stored("i", np.array([0]))]
    assert said in fault(model_proto([bad], [value("x", [1, 4])], [output], weights, domains=domains))


def test_an_operator_that_onnxruntime_does_not_have() -> None:
    bad = node("ImageDecoder", ["x"], ["y"], "decode", pixel_format="RGB")
    proto = model_proto([bad], [value("x", [100], TensorProto.UINT8)], [value("y", None, TensorProto.UINT8)], opset=20)
    text = fault(proto)
    assert "onnxruntime cannot take the model" in text
    assert "ImageDecoder" in text
    assert "decode" in text


def test_control_flow_on_an_input() -> None:
    choice = node("If", ["c"], ["y"], "choice", then_branch=branch("a", "Neg"), else_branch=branch("b", "Abs"))
    proto = model_proto([choice], [value("x", [1, 4]), value("c", [], TensorProto.BOOL)])
    assert "node 'choice' (If): control flow" in fault(proto)


def test_a_custom_operator_inside_control_flow() -> None:
    inner = helper.make_graph([node("Odd", ["x"], ["a"], "deep", domain="acme")], "a", [], [value("a", None)])
    choice = node("If", ["c"], ["y"], "choice", then_branch=inner, else_branch=branch("b", "Abs"))
    proto = model_proto([choice], [value("x", [1, 4]), value("c", [], TensorProto.BOOL)], domains=["acme"])
    assert "node 'deep' (Odd): operator acme.Odd" in fault(proto)


def test_recursive_functions() -> None:
    function = helper.make_function(
        "mine", "F", ["a"], ["b"], [node("F", ["a"], ["b"], domain="mine")],
        [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)],
    )  # fmt: skip
    call = [node("F", ["x"], ["y"], domain="mine")]
    assert "functions cannot be inlined" in fault(
        model_proto(call, [value("x", [1])], domains=["mine"], functions=[function])
    )


@pytest.mark.parametrize("maker", ["ConstantOfShape", "Expand", "Range"])
def test_a_constant_that_no_memory_holds(maker: str) -> None:
    made = {
        "ConstantOfShape": node("ConstantOfShape", ["s"], ["c"]),
        "Expand": node("Expand", ["one", "s"], ["c"]),
        "Range": node("Range", ["zero", "far", "one"], ["c"]),
    }[maker]
    nodes = [made, node("ReduceSum", ["c"], ["r"], keepdims=0), node("Add", ["x", "r"], ["y"])]
    weights = [stored("s", np.array([100_000, 100_000, 100_000]))]
    weights += [stored(name, np.float32(number)) for name, number in (("zero", 0), ("one", 1), ("far", 1e12))]
    assert "'c' has shape" in fault(model_proto(nodes, [value("x", [1, 4])], weights=weights))


def test_sparse_weights() -> None:
    proto = model_proto([node("MatMul", ["x", "w"], ["y"])], [value("x", [1, 4])])
    values, indices = stored("w", np.ones(2, np.float32)), stored("", np.array([0, 5]))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    assert "weight 'w' is stored as a sparse tensor" in fault(proto)


def test_inputs_that_are_not_numbers() -> None:
    proto = model_proto([node("Identity", ["x"], ["y"])], [value("x", [1], TensorProto.STRING)])
    assert "input 'x' is not a tensor of numbers" in fault(proto)


def test_no_input_and_an_output_that_is_one() -> None:
    assert "takes no input" in fault(model_proto([node("Relu", ["w"], ["y"])], [], weights=[weight("w", 2)]))
    proto = model_proto([node("Relu", ["x"], ["z"])], [value("x", [1])], [value("x", [1])])
    assert "output 'x' is an input" in fault(proto)


@pytest.mark.parametrize("data", [b"", b"\x08\x07hello", b"PK\x03\x04 not a model", b"\x00" * 100])
def test_not_a_model(data: bytes) -> None:
    assert fault(data).startswith("not an ONNX model")


def test_names_that_are_not_text() -> None:
    data = CONV.SerializeToString().replace(b"Conv", b"Con\x90")
    assert "not UTF-8" in fault(data)


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, 10**6), changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4))
def test_damaged_files_give_an_error_or_a_sound_model(cut: int, changes: list[tuple[int, int]]) -> None:
    data = bytearray(CONV.SerializeToString())
    for place, byte in changes:
        data[place % len(data)] = byte
    if not changes:
        data = data[: cut % len(data)]
    try:
        model = import_onnx(bytes(data))
    except ModelError:
        return
    session = onnxruntime.InferenceSession(model.proto, providers=["CPUExecutionProvider"])
    answers = session.run(None, {spec.name: np.ones(spec.shape, spec.dtype) for spec in model.inputs})
    assert [(answer.shape, answer.dtype.name) for answer in answers] == [(s.shape, s.dtype) for s in model.outputs]
    for layer in model.layers:
        assert model.weight(layer.name).shape == layer.weight_shape


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*missing\.onnx: No such file"):
        import_onnx(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="cannot read"):
        import_onnx(tmp_path)


def test_files_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: takes no room
    with pytest.raises(ModelError, match="at most 2147483647"):
        import_onnx(path)
    monkeypatch.setattr(hwsparse.model.read, "MAX_MODEL_BYTES", 10)
    assert "at most 10" in fault(CONV)


def test_a_full_disk_is_not_the_models_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    proto = model_proto(
        [node("MatMul", ["x", "w"], ["y"])], [value("x", [1, 200])], weights=[weight("w", 200, 200)]
    ).SerializeToString()
    with small_files(100_000), pytest.raises(StorageError) as caught:
        import_onnx(proto)
    assert str(caught.value).startswith(f"cannot write {tmp_path}") and "set TMPDIR" in str(caught.value)
    assert not isinstance(caught.value, InputError) and not list(tmp_path.iterdir())
    import_onnx(proto)


# --- external data


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A model whose weight lies in `sub/weights.bin` beside it."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    onnx.save(
        onnx.ModelProto.FromString(CONV.SerializeToString()),
        folder / "m.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (folder / "weights.bin").rename(folder / "sub" / "weights.bin")
    return folder / "m.onnx"


def relocate(path: Path, **entries: str) -> None:
    proto = onnx.load(path, load_external_data=False)
    data = proto.graph.initializer[0].external_data
    kept = {entry.key: entry.value for entry in data} | entries
    del data[:]
    for key, text in kept.items():
        data.add(key=key, value=text)
    path.write_bytes(proto.SerializeToString())


def test_external_data_is_brought_in(split: Path) -> None:
    relocate(split, location="sub/weights.bin")
    assert import_onnx(split).digest == import_onnx(CONV.SerializeToString()).digest


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"location": "/etc/passwd"}, "'/etc/passwd' must be a path inside the model's own directory"),
        ({"location": "../secret.bin"}, "must be a path inside"),
        ({"location": "sub/../../secret.bin"}, "must be a path inside"),
        ({"location": "C:\\secret.bin"}, "must be a path inside"),
        ({"location": "..\\secret.bin"}, "must be a path inside"),
        ({"location": ""}, "must be a path inside"),
        ({"location": "link.bin"}, "leads out of the model's own directory"),
        ({"location": "none.bin"}, "external data file 'none.bin' is missing"),
        ({"location": "sub"}, "external data file 'sub' is missing"),
        ({"location": "sub/weights.bin", "offset": "4"}, "ends before offset 4"),
        ({"location": "sub/weights.bin", "offset": "-4"}, "at offset -4"),
        ({"location": "sub/weights.bin", "offset": "x"}, "must be numbers"),
        ({"location": "sub/weights.bin", "length": "999999999999"}, "says 999999999999 at offset 0"),
    ],
)
def test_external_data_stays_inside(split: Path, entries: dict[str, str], said: str) -> None:
    (split.parent.parent / "secret.bin").write_bytes(bytes(10**4))
    (split.parent / "link.bin").symlink_to(split.parent.parent / "secret.bin")
    relocate(split, **entries)
    with pytest.raises(ModelError) as caught:
        import_onnx(split)
    assert str(caught.value).startswith(f"{split}: tensor 'w'")
    assert said in str(caught.value)


def test_external_data_of_a_model_given_as_bytes(split: Path) -> None:
    assert "given as bytes must hold all its data" in fault(split.read_bytes())


def test_external_data_that_is_too_large(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relocate(split, location="sub/weights.bin")
    monkeypatch.setattr(hwsparse.model.external, "MAX_MODEL_BYTES", 500)
    with pytest.raises(ModelError, match="the limit is 500"):
        import_onnx(split)


def test_a_tensor_of_impossible_size(split: Path) -> None:
    proto = onnx.load(split, load_external_data=False)
    proto.graph.initializer[0].dims[0] = 2**50
    split.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="the limit is"):
        import_onnx(split)
