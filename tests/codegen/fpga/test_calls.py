"""What layers on the accelerator compute, against other arithmetic, and streams that cannot be called."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy import special

from hwsparse.codegen import Library, build_layer
from hwsparse.codegen.cpu.epilogue import ACTIVATIONS, Epilogue
from hwsparse.codegen.folding import folded
from hwsparse.codegen.fpga.calls import FUNCTIONS, finished
from hwsparse.codegen.library import WEIGHTS
from hwsparse.errors import ArtifactError
from hwsparse.plan import Choice, Layer, parse_choice
from hwsparse.quantise import Scale
from hwsparse.sparsify import applicable
from hwsparse.target import load_target
from tests.codegen.layers import conv, product

TARGET = load_target("fpga-sim")
EXACT = {
    "": lambda x: x,
    "erf": special.erf,
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: x * special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
LAYERS = {
    "padded": conv(1, 16, (9, 7), 24, (3, 3), pads=((1, 1), (1, 1))),
    "strided": conv(2, 8, (12, 11), 20, (3, 3), strides=(2, 2), pads=((0, 1), (1, 0))),
    "dilated": conv(1, 8, (11, 10), 9, (3, 2), dilations=(2, 1)),
    "pointwise": conv(1, 32, (6, 5), 40, (1, 1)),
    "one-dimensional": conv(3, 12, (25,), 16, (5,), pads=((2, 2),)),
    "tokens": product((2, 9), 32, 48),
    "one token": product((1,), 64, 10),
}


def test_every_function_that_cpus_have_is_there() -> None:
    assert FUNCTIONS.keys() == ACTIVATIONS.keys() == EXACT.keys() - {""}


@given(st.data())
def test_sums_become_what_the_layer_gives(data: st.DataObject) -> None:
    """Against the definition of scales in float64: a rounding apart, and of bytes a step where it tips one over."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    function = data.draw(st.sampled_from(sorted(EXACT)))
    low, high = data.draw(st.sampled_from([(-np.inf, np.inf), (0.0, np.inf), (0.0, 6.0), (-1.5, 0.5)]))
    added = data.draw(st.sampled_from([None, "float32", "uint8"]))
    stored = data.draw(st.sampled_from(["float32", "uint8"]))
    epilogue = Epilogue(added is not None, low, high, function, added=added or "float32", stored=stored)
    sums = random.integers(-30000, 30000, (5, 7)).astype(np.int32)
    offset = random.integers(-2000, 2000, 5).astype(np.int32)
    scale, bias = random.uniform(1e-5, 3e-4, 5).astype(np.float32), random.standard_normal(5).astype(np.float32)
    read, gives = Scale.of(-2.0, 3.0), Scale.of(-4.0, 5.0)
    if added == "uint8":
        residual = random.integers(0, 256, sums.shape).astype(np.uint8)
        values = read.scale * (residual.astype(np.float64) - read.zero)
    else:
        residual = random.standard_normal(sums.shape).astype(np.float32)
        values = residual.astype(np.float64)
    exact = (sums + offset[:, None]) * scale[:, None].astype(np.float64) + bias[:, None]
    exact = np.clip(EXACT[function](exact + values if added else exact), low, high)
    told = folded(
        epilogue, offset, scale, bias, read if added == "uint8" else None, gives if stored == "uint8" else None
    )
    moved = sums if epilogue.at_once else sums + offset[:, None]
    found = finished(moved, *told, residual if added else None, epilogue)
    assert found.dtype.name == stored
    if stored == "uint8":
        between = exact / gives.scale + gives.zero
        surely = np.abs(between - np.floor(between) - 0.5) > 1e-3
        assert np.array_equal(found[surely], gives.bytes_of(exact)[surely])
        assert np.abs(found.astype(int) - gives.bytes_of(exact).astype(int)).max() <= 1
    else:
        assert np.allclose(found, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("text", ["dense", "unstructured@0.8", "block4x4@0.5", "2:4", "2:4x8", "channel@0.5"])
def test_a_layer_gives_the_bytes_that_it_must(name: str, text: str, tmp_path: Path) -> None:
    """onnxruntime's sums of the same bytes, rounded, lie beside every library that is built."""
    choice = replace(parse_choice(text), dtype="int8")
    layer = LAYERS[name]
    if reason := applicable(layer, choice.pattern):
        pytest.skip(reason)
    build_layer(layer, choice, TARGET, tmp_path)
    library = Library.load(tmp_path, 1)
    assert library.kernels == {"layer": "array"}
    assert library.accelerated is not None and not library.accelerated.has_host
    assert library.check() == 0


def built(directory: Path, layer: Layer = LAYERS["padded"]) -> dict[str, np.ndarray]:
    """A layer's library, and the parameters that lie beside it."""
    build_layer(layer, parse_choice("unstructured@0.8/int8"), TARGET, directory)
    return load_file(directory / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stream: stream[:-9], r"layer 'layer': the command stream of \d+ bytes is cut off or damaged"),
        (lambda stream: stream[:20], "this is no command stream, or one that is cut off within its head"),
        (lambda stream: np.where(np.arange(len(stream)) == 99, stream ^ 4, stream), "its checksum differs"),
    ],
    ids=["end", "head", "bit"],
)
def test_a_stream_that_is_not_whole_is_refused(change, said: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    parameters = built(tmp_path)
    parameters["layer/0"] = np.ascontiguousarray(change(parameters["layer/0"]))
    save_file(parameters, tmp_path / WEIGHTS)
    with pytest.raises(ArtifactError, match=said) as caught:
        Library.load(tmp_path, 1)
    assert "\n" not in str(caught.value)


def test_a_stream_of_another_machine_is_refused(tmp_path: Path) -> None:
    built(tmp_path)
    description = json.loads((tmp_path / "library.json").read_text())
    description["accelerator"]["rows"] = 32
    (tmp_path / "library.json").write_text(json.dumps(description))
    with pytest.raises(ArtifactError, match="layer 'layer': the command stream is for another machine: rows"):
        Library.load(tmp_path, 1)


def test_streams_that_were_swapped_are_told_apart(tmp_path: Path) -> None:
    parameters = built(tmp_path)
    description = json.loads((tmp_path / "library.json").read_text())
    description["kernels"] = {"other": "array"}
    description["parameters"] = [name.replace("layer/", "other/") for name in description["parameters"]]
    (tmp_path / "library.json").write_text(json.dumps(description))
    save_file({name.replace("layer/", "other/"): each for name, each in parameters.items()}, tmp_path / WEIGHTS)
    with pytest.raises(ArtifactError, match="layer 'other': the command stream is of layer 'layer'"):
        Library.load(tmp_path, 1)


def test_a_library_that_is_gone_takes_its_streams_along(tmp_path: Path) -> None:
    built(tmp_path)
    library = Library.load(tmp_path, 1)
    assert library.check() == 0
    library.accelerated = None
    gc.collect()
    with pytest.raises(Exception, match="a command stream is called that no loaded library holds"):
        library.check()


def test_layers_with_the_same_weights_share_what_is_unpacked(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        built(tmp_path / name)
    one, other = (Library.load(tmp_path / name, 1) for name in ("one", "other"))
    del one
    gc.collect()
    assert other.check() == 0


def test_choice_of_floats_is_the_hosts(tmp_path: Path) -> None:
    build_layer(LAYERS["padded"], Choice(), TARGET, tmp_path)
    library = Library.load(tmp_path, 1)
    assert library.kernels["layer"] != "array"
    assert library.accelerated is not None and library.accelerated.has_host and not library.accelerated.programs
    error = library.check()
    assert error is not None and error < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("text", ["dense", "unstructured@0.8", "block4x1@0.5", "2:4"])
def test_accelerators_of_floats_give_what_onnxruntime_does(dtype: str, text: str, tmp_path: Path) -> None:
    assert TARGET.accelerator is not None
    machine = replace(TARGET.accelerator, dtype=dtype, inputs_bytes=1 << 20, outputs_bytes=1 << 18)
    choice = replace(parse_choice(text), dtype=dtype)
    target = replace(TARGET, accelerator=machine, supported=(("dense", dtype),))
    for name in ("padded", "tokens"):
        (directory := tmp_path / name).mkdir()
        build_layer(LAYERS[name], choice, target, directory)
        library = Library.load(directory, 1)
        assert library.kernels == {"layer": "array"}
        error = library.check()
        assert error is not None and error < 1e-5
