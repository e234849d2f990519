"""Residuals in place: a kernel that is the last to read its residual writes the output over it.

Wide layers with a residual are bound by memory; in place they read and write one buffer instead of two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from hwsparse.codegen.graph import Graph


def add_in_place(module: tvm.IRModule, functions: Mapping[str, Callable[[], Any]]) -> tvm.IRModule:
    """Calls kernels' other forms where a residual may be overwritten.

    Args:
        module: its `main` consists of calls of kernels and of Relax operators.
        functions: by the name of a kernel whose last argument is a residual, what makes its form that takes the
            residual for the output.
    """
    last_readers = _last_readers(module, functions)

    @mutator
    class InPlace(PyExprMutator):  # type: ignore[misc]  # TVM has no types
        """Rewrites the calls of `last_readers`."""

        def visit_var_binding_(self, binding: Any) -> None:
            if binding.var not in last_readers:
                super().visit_var_binding_(binding)
                return
            where, operands = binding.value.args[:2]
            kernel = self.builder_.add_func(functions[where.name_hint](), f"{where.name_hint}_in_place")
            inputs = [self.visit_expr(operand) for operand in operands.fields]
            call = relax.call_tir_inplace(kernel, inputs, len(inputs) - 1, binding.var.ty)
            self.set_var_remap(binding.var, self.builder_.emit(call))

    rewriter = InPlace(module)
    rewritten = rewriter.visit_expr(module["main"])
    result = rewriter.builder_.get()
    result["main"] = rewritten
    return relax.transform.DeadCodeElimination()(result)


def _last_readers(module: tvm.IRModule, functions: Collection[str]) -> set[Any]:
    """What is computed by kernels with a residual that nothing reads later.

    Only what a kernel computed is known to be no view of anything else, and only of kernels is it known that they
    stay where they are.
    """
    graph = Graph.of(module["main"])
    kernels = {var: name for var, value in graph.values.items() if (name := _kernel_of(value, module)) is not None}
    order = {var: place for place, var in enumerate(graph.values)}
    found = set()
    for var, name in kernels.items():
        if name not in functions:
            continue
        residual = graph.values[var].args[1].fields[-1]
        readers = graph.users[residual] if residual in kernels else []
        ours = bool(readers) and all(each in kernels for each in readers)
        if ours and readers.count(var) == 1 and max(map(order.__getitem__, readers)) == order[var]:
            found.add(var)
    return found


def _kernel_of(value: Any, module: tvm.IRModule) -> str | None:
    """The name of the kernel that a value is computed by, if one of ours does it."""
    if getattr(getattr(value, "op", None), "name", "") != "relax.call_tir":
        return None
    where = value.args[0]
    return str(where.name_hint) if "hwsparse.kernel" in (module[where].attrs or ()) else None
