"""Residuals are overwritten where nothing reads them afterwards, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hwsparse.codegen import build_model, random_inputs, relative_error
from hwsparse.codegen.lowering import lower
from hwsparse.plan import Plan
from tests.codegen.building import Network
from tests.codegen.layers import CPU

SHAPE = (2, 8, 4, 4)


def conv(net: Network, x: str, kernel: int = 1) -> str:
    return net.node("Relu", net.conv(x, 8, 8, kernel))


def add(net: Network, x: str, residual: str) -> str:
    return net.node("Relu", net.node("Add", net.conv(x, 8, 8, 3), residual))


def blocks_in_a_row(net: Network) -> list[str]:
    x = conv(net, "x")
    x = add(net, conv(net, x), x)
    return [add(net, conv(net, x), x)]


def residual_of_the_input(net: Network) -> list[str]:
    return [add(net, conv(net, "x"), "x")]


def residual_read_again(net: Network) -> list[str]:
    """The second addition is the last to read it."""
    x = conv(net, "x")
    return [add(net, add(net, conv(net, x), x), x)]


def residual_that_is_the_input_of_the_layer(net: Network) -> list[str]:
    x = conv(net, "x")
    return [add(net, x, x)]


def residual_that_is_an_output(net: Network) -> list[str]:
    x = conv(net, "x")
    return [x, add(net, conv(net, x), x)]


def residual_that_is_a_small_constant(net: Network) -> list[str]:
    return [add(net, conv(net, "x"), net.array(net.rng.standard_normal((2, 8, 4, 4)).astype(np.float32)))]


def residual_that_is_read_in_another_shape(net: Network) -> list[str]:
    x = conv(net, "x")
    turned = net.node("Reshape", net.node("Reshape", x, net.ints(2, 8, 16)), net.ints(*SHAPE))
    return [net.node("Mul", add(net, conv(net, x), x), turned)]


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (blocks_in_a_row, 2),
        (residual_of_the_input, 0),
        (residual_read_again, 1),
        (residual_that_is_the_input_of_the_layer, 0),
        (residual_that_is_an_output, 0),
        (residual_that_is_read_in_another_shape, 0),
        (residual_that_is_a_small_constant, 0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_residual_is_overwritten_by_its_last_reader_alone(
    build: Callable[[Network], list[str]], count: int, tmp_path: Path
) -> None:
    net = Network(0)
    model = net.model(SHAPE, *((name, SHAPE) for name in build(net)))
    plan = Plan(model.digest)
    assert lower(model, plan, {}, CPU).module["main"].script().count("call_tir_inplace") == count
    library = build_model(model, plan, {}, CPU, tmp_path)
    session = onnxruntime.InferenceSession(model.proto, providers=["CPUExecutionProvider"])
    for seed in (1, 2):
        inputs = random_inputs(model.inputs, seed)
        values = library.run(inputs).values()
        for value, expected in zip(values, session.run(None, inputs), strict=True):
            assert relative_error(value, expected) < 1e-5
