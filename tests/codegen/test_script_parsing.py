"""A parser that keeps what it found out gives what TVM's own does, however often it is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tvm
from tvm import tirx
from tvm.error import DiagnosticError
from tvm.script import tirx as T

from hwsparse.codegen import kernels_for
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.normalise import softmax
from hwsparse.codegen.cpu.select import kernel_for
from hwsparse.plan import parse_choice
from tests.codegen import script_parsing
from tests.codegen.layers import BY_LANE, CPU, conv, product


@pytest.fixture
def as_it_comes() -> Iterator[None]:
    script_parsing.uninstall()
    yield
    script_parsing.install()


def scaled(factor: float, count: int) -> tirx.PrimFunc:
    """A function of the values that it captures: of its types, of what it calls and of its text."""

    @T.inline
    def store(y, at, value):
        y[at] = value
        y[at] += value

    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer((count,), "float32"), y: T.Buffer((count,), "float32")):
        for i in range(count):
            store(y, i, x[i] * T.float32(factor))

    return kernel


def wrong(known: int) -> tirx.PrimFunc:
    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer((known,), "float32")):
        x[0] = of_nobody  # noqa: F821  # type: ignore[name-defined]

    return kernel


def functions() -> list[tirx.PrimFunc]:
    made = [scaled(factor, count) for factor, count in ((2.0, 4), (3.0, 4), (3.0, 5))]
    for target in (CPU, BY_LANE):
        for layer in (conv(1, 8, (9, 9), 8, (3, 3)), conv(1, 8, (9, 9), 8, (3, 3), groups=8), product((1, 9), 8, 8)):
            choice = parse_choice("dense")
            made += [
                kernel_for(layer, choice, target, Epilogue(), name).function
                for name in kernels_for(layer, choice, target)
            ]
    return [*made, softmax((3, 5), 4, 1)]


def test_functions_are_what_they_are_without_it(request: pytest.FixtureRequest) -> None:
    first, again = functions(), functions()
    request.getfixturevalue("as_it_comes")
    plain = functions()
    assert len({function.script() for function in plain[:3]}) == 3
    for function, *others in zip(plain, first, again, strict=True):
        for other in others:
            assert function.script() == other.script()
            tvm.ir.assert_structural_equal(function, other)


def test_what_is_wrong_is_told_with_its_line(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> str:
        with pytest.raises(DiagnosticError) as failed:
            wrong(4)
        return f"{failed.value}\n{capsys.readouterr()}"

    kept, again = told(), told()
    request.getfixturevalue("as_it_comes")
    assert kept == again == told()
    assert "of_nobody" in kept
