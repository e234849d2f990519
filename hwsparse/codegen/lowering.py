"""From a model and a plan to a TVM module in which our kernels do the layers' work.

The ONNX graph is imported into Relax with the layers' weights as inputs, by which layers are found
again; each layer, with the bias, residual addition, activation and clip that follow it, becomes one call of
a generated kernel over packed weights. Attention gets a kernel too, and so do some single operations.

Weights never enter the code: they are parameters, kept in a file beside the library.

Longer than most: what is imported, matched and replaced is of one graph, whose passes share their names and tables.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import tvm
from tvm import relax, tirx
from tvm.ir.expr import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.frontend.onnx import from_onnx

from hwsparse.codegen.attentions import Found, find_attentions
from hwsparse.codegen.chains import Chain, find_chains
from hwsparse.codegen.cpu.attention import attention
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.quantise import quantise
from hwsparse.codegen.cpu.select import Kernel
from hwsparse.codegen.folding import folded, folded_floats
from hwsparse.codegen.fpga.calls import Call
from hwsparse.codegen.graph import RESHAPES, Graph, operator_of, shape_of
from hwsparse.codegen.in_place import add_in_place
from hwsparse.codegen.kernels import kernel_for
from hwsparse.codegen.operations import greatest_of_bytes, operation_of
from hwsparse.codegen.roundings import AsBytes, Bytes
from hwsparse.errors import CompileError, ModelError, one_line
from hwsparse.model import Model, TensorSpec
from hwsparse.model.names import free_name, names_in
from hwsparse.model.read import describe
from hwsparse.plan import Plan
from hwsparse.quantise import Scale, is_rounded, without_reads
from hwsparse.sparsify.apply import rounding_proto
from hwsparse.target import Target

# Constants larger than this move from the code to the parameters.
INLINE_CONSTANT_BYTES = 4096
# Relax's code for an opaque function: fusion leaves it alone.
OPAQUE = 8


@dataclass(frozen=True, slots=True)
class Lowered:
    """A module whose `main` takes the model's inputs, then `parameters` in order.

    `kernels` names the kernel of each layer.
    """

    module: tvm.IRModule
    parameters: dict[str, np.ndarray]
    kernels: dict[str, str]

    @property
    def has_host(self) -> bool:
        """Whether anything is computed but by what is called in the place of kernels."""
        values = Graph.of(self.module["main"]).values.values()
        called = {"relax.call_dps_packed", *RESHAPES}
        return any(operator_of(value) not in called for value in values)


def lower(
    model: Model,
    plan: Plan,
    weights: Mapping[str, np.ndarray],
    target: Target,
    kernels: Mapping[str, str] = MappingProxyType({}),
) -> Lowered:
    """Lowers a model: layers and constants named in `weights` take those (canonical, pruned), others the model's own.

    Layers named in `kernels` get those, others the ones expected to be fastest. Of layers that read bytes, `weights`
    holds the ranges of their inputs too, and what bytes stand for, as `sparsify.ranges.as_bytes` makes it: nothing is
    rounded here, or the code would compute another network than the one that was judged.

    Raises:
        ModelError: TVM's importer does not take an operator of the model.
        CompileError: a layer is not found in what TVM imported, or has no kernel of the name asked for, or reads bytes
            of which nothing tells what they stand for, or is to be of bytes and its weight is none that they stand for.
    """
    names = _weight_names(model)
    # What layers read of bfloat16 or float16 their kernels round.
    imported, scales = _import(model, names, without_reads(weights))
    module = _simplified(imported)
    chains = _find_all_chains(model, module, names)
    graph = Graph.of(module["main"])
    readers = [chain for chain in chains if _reads_bytes(chain, plan)]
    writers = [chain for chain in chains if _reads_bytes(chain, plan) or chain.depthwise]
    bytes_of = Bytes.of(graph, scales, readers, writers, target)
    pool = _Pool(target, kernels)
    calls = []
    for chain in chains:
        name = chain.layer.name
        weight = weights[name] if name in weights else model.weight(name)
        calls.append(pool.layer(chain, plan, weight, bytes_of))
    calls.extend(pool.attention(found) for found in find_attentions(module["main"]))
    return _rewrite(module, set(names.values()), scales, calls, pool, bytes_of, graph)


def _reads_bytes(chain: Chain, plan: Plan) -> bool:
    return plan.choice(chain.layer.name).dtype == "int8"


def call_alone(kernel: Kernel, ports: tuple[TensorSpec, TensorSpec], parameters: Sequence[np.ndarray]) -> Lowered:
    """A module of one kernel's call, from its input to its output."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(ports[0].shape, ports[0].dtype))
    arrays = {f"layer/{part}": array for part, array in enumerate(parameters)}
    variables = []
    for part, array in enumerate(parameters):
        sizes: list[Any] = [tirx.Var(f"n{part}", "int64"), *array.shape[1:]]
        variables.append(relax.Var(f"p{part}", relax.TensorType(sizes, str(array.dtype))))
    with builder.function("main", [x, *variables]):
        result = relax.TensorType(ports[1].shape, ports[1].dtype)
        with builder.dataflow():
            out = builder.emit_output(_call(builder, kernel.function, kernel.name, [x, *variables], result))
        builder.emit_func_output(out)
    module = builder.get()
    module["main"] = module["main"].with_attr("num_input", 1)
    return Lowered(module, arrays, {"layer": kernel.name})


def require_compilable(model: Model) -> None:
    """Refuses a model that cannot be lowered, whatever the plan and the target.

    Raises:
        ModelError, CompileError: as in `lower`.
    """
    names = _weight_names(model)
    _find_all_chains(model, _import(model, names, {}).module, names)


def _weight_names(model: Model) -> dict[str, str]:
    """What the input of `main` that holds a layer's weight is called, by layer."""
    taken = _names_in(onnx.load_from_string(model.apart.graph))
    return {layer.name: free_name(f"weight_{index}", taken) for index, layer in enumerate(model.layers)}


def _names_in(proto: onnx.ModelProto) -> set[str]:
    """What inputs of `main` may be called by a graph's names, in which the importer puts no dots."""
    return {name.replace(".", "_") for name in names_in(proto.graph)}


def _find_all_chains(model: Model, module: tvm.IRModule, names: Mapping[str, str]) -> list[Chain]:
    chains = find_chains(module["main"], {names[layer.name]: layer for layer in model.layers})
    missing = {layer.name for layer in model.layers} - {chain.layer.name for chain in chains}
    if missing:
        raise CompileError(f"layers not found after TVM's import: {', '.join(sorted(missing))}")
    return chains


class _Imported(NamedTuple):
    module: tvm.IRModule
    scales: dict[str, Scale]  # by the names of inputs of `main`


def _import(model: Model, names: Mapping[str, str], weights: Mapping[str, np.ndarray]) -> _Imported:
    """The model in Relax, each layer's weight an input of `main` named by `names`.

    What was rounded by a range among `weights` is multiplied by an input of `main` in the end: of no rounding of the
    model's own it is one.
    """
    data, rounded = rounding_proto(model, weights)
    proto = onnx.load_from_string(data)
    graph, taken = proto.graph, _names_in(proto) | set(names.values())
    steps = {constant: free_name(f"step_{index}", taken) for index, constant in enumerate(rounded)}
    renamed = {layer.weight: names[layer.name] for layer in model.layers} | steps
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for old, new in renamed.items():
        value = onnx.helper.make_tensor_value_info(new, stored[old].data_type, list(stored[old].dims))
        graph.initializer.remove(stored[old])
        graph.input.append(value)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    try:
        return _Imported(_to_relax(proto), {steps[constant]: scale for constant, scale in rounded.items()})
    except Exception as error:  # the importer raises whatever its converters raise
        raise ModelError(
            f"TVM cannot import {describe(_refused_node(proto))} of {model.name}: {one_line(error)}"
        ) from None


def _to_relax(proto: onnx.ModelProto) -> tvm.IRModule:
    module = from_onnx(proto, keep_params_in_input=False)
    module["main"] = _Tidied(module).visit_expr(module["main"])
    return relax.transform.DecomposeOpsForInference()(module)


def _simplified(module: tvm.IRModule) -> tvm.IRModule:
    passes = [
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination(),
    ]
    return tvm.transform.Sequential(passes)(module)


def _refused_node(proto: onnx.ModelProto) -> onnx.NodeProto:
    """The node with which the shortest beginning of a graph ends that TVM does not import."""
    graph = proto.graph
    values = {item.name: item for item in (*graph.value_info, *graph.output)}

    def is_refused(last: int) -> bool:
        beginning = onnx.ModelProto()
        beginning.CopyFrom(proto)
        del beginning.graph.node[last + 1 :], beginning.graph.output[:]
        beginning.graph.output.extend(values[name] for name in graph.node[last].output if name)
        try:
            _to_relax(beginning)
        except Exception:  # as in `_import`
            return True
        return False

    return graph.node[bisect_left(range(len(graph.node) - 1), True, key=is_refused)]


@mutator
class _Tidied(PyExprMutator):  # type: ignore[misc]  # TVM has no types
    """What the importer should have written.

    Look-ups clip their indices: the importer's mode reads past the table when one is out of range. Whether the
    constant bounds of a clip are NaN is seen here: relax.transform.FoldConstant would compile code to find out.
    Slices that take everything are no longer there.
    """

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        operator = getattr(call.op, "name", "")
        if operator == "relax.take":
            return relax.op.take(call.args[0], call.args[1], call.attrs.axis, mode="clip")
        if operator == "relax.strided_slice" and _takes_everything(self.builder_.normalize(call)):
            return call.args[0]
        if operator in _SCALAR_OPERATORS:
            values = [self._constant(argument) for argument in call.args]
            if all(value is not None and value.size == 1 for value in values):
                return relax.const(_SCALAR_OPERATORS[operator](*values))
        return call

    def _constant(self, value: Any) -> np.ndarray | None:
        bound = self.lookup_binding(value) if isinstance(value, relax.Var) else value
        return bound.value.numpy() if isinstance(bound, GenericConst) else None


def _takes_everything(call: Any) -> bool:
    shape, steps = shape_of(call), call.args[4] if len(call.args) > 4 else ()
    return shape is not None and shape == shape_of(call.args[0]) and all(int(step.value) == 1 for step in steps)


_SCALAR_OPERATORS: dict[str, Callable[..., np.ndarray]] = {"relax.isnan": np.isnan, "relax.where": np.where}


@dataclass(frozen=True, slots=True)
class KernelCall:
    """A kernel that computes the last of `replaced`; the others, intermediates, are then not needed.

    The kernel takes `inputs`, then the residual, if there is one, in the shape of the output; `out_dtype` is of what it
    gives.
    """

    replaced: tuple[Any, ...]
    function: Any  # PrimFunc, or what is called in its place
    function_name: str
    inputs: tuple[Any, ...]
    residual: Any
    out_shape: tuple[int, ...]
    out_dtype: str = "float32"


class _Pool:
    """Generated kernels, each once however many layers call it, and the parameters of all calls."""

    def __init__(self, target: Target, wanted: Mapping[str, str]) -> None:
        self.target = target
        self._wanted = wanted
        self.arrays: dict[str, np.ndarray] = {}
        self.variables: dict[str, Any] = {}
        self.kernels: dict[str, str] = {}
        self.in_place: dict[str, Callable[[], Any]] = {}  # by function: what makes its form with the residual in place
        self._constants: dict[tuple[object, ...], Any] = {}
        self._functions: dict[tuple[str, str, str], tuple[str, Any]] = {}

    def parameter(self, name: str, array: np.ndarray, any_size: bool = False) -> Any:
        """A new input of `main` that will be given `array`, or an array with another first size if `any_size`."""
        sizes: list[Any] = list(array.shape)
        if any_size:
            sizes[0] = tirx.Var(f"n{len(self.arrays)}", "int64")
        variable = relax.Var(f"p{len(self.arrays)}", relax.TensorType(sizes, str(array.dtype)))
        self.arrays[name], self.variables[name] = array, variable
        return variable

    def constant(self, array: np.ndarray) -> Any:
        """The input of `main` for a constant, one for all that hold the same."""
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._constants:
            self._constants[key] = self.parameter(f"constant/{len(self.arrays)}", array)
        return self._constants[key]

    def layer(self, chain: Chain, plan: Plan, weight: np.ndarray, bytes_of: Bytes) -> KernelCall:
        """The kernel call for a chain, its weight packed."""
        layer = chain.layer
        choice, wanted = plan.choice(layer.name), self._wanted.get(layer.name)
        epilogue = Epilogue(chain.residual is not None, chain.low, chain.high, chain.function)
        own = _reads_bytes(chain, plan)
        read, added = bytes_of.read(chain.source), bytes_of.read(chain.residual) if own else None
        stored = bytes_of.stored.get(chain.variables[-1])
        if added is not None:
            epilogue = replace(epilogue, added="uint8")
        if stored is not None:
            epilogue = replace(epilogue, stored="uint8")
        kernel = kernel_for(layer, choice, self.target, epilogue, wanted)
        key = (layer.signature, kernel.name, str(epilogue))
        function_name, function = self._functions.setdefault(
            key, (f"{kernel.name}_{len(self._functions)}", kernel.function)
        )
        if epilogue.residual and epilogue.added == epilogue.stored and not isinstance(function, Call):
            in_place = partial(kernel_for, layer, choice, self.target, replace(epilogue, in_place=True), kernel.name)
            self.in_place[function_name] = lambda: _opaque(in_place().function)
        bias = chain.bias if chain.bias is not None else np.zeros(layer.outputs, np.float32)
        if not own:
            packed: tuple[np.ndarray, ...] = (*kernel.pack(weight), bias)
            if stored is not None:  # a depthwise layer, whose sums of floats become bytes
                packed = folded_floats(epilogue, packed[0], bias, stored)
        elif read is None:
            raise CompileError(f"layer {layer.name!r} is to read bytes, and nothing tells the range of what it reads")
        elif not is_rounded(weight):
            raise CompileError(
                f"layer {layer.name!r} is to be of bytes, and its weight was not rounded to what they are"
            )
        else:
            *lists, scales = kernel.pack(weight, read.scale)
            packed = (*lists, *folded(epilogue, lists[-1], scales, bias, added.scale if added else None, stored))
        parameters = tuple(
            self.parameter(f"{layer.name}/{part}", array, any_size=True) for part, array in enumerate(packed)
        )
        self.kernels[layer.name] = kernel.name
        source = AsBytes(read.source, read.scale) if own and read else chain.source
        residual = AsBytes(added.source, added.scale) if added else chain.residual
        return KernelCall(
            tuple(chain.variables), function, function_name, (source, *parameters), residual, layer.output_shape,
            epilogue.stored,
        )  # fmt: skip

    def attention(self, found: Found) -> KernelCall:
        """The kernel call for an attention."""
        target = self.target
        function = attention(found.sizes, target.vector_bits // 32, target.vector_registers, target.threads)
        return KernelCall(found.variables, function, "attention", found.inputs, None, found.sizes.out.buffer)


def _rewrite(
    module: tvm.IRModule,
    weights: set[str],
    scales: Mapping[str, Scale],
    calls: Sequence[KernelCall],
    pool: _Pool,
    bytes_of: Bytes,
    graph: Graph,
) -> Lowered:
    replacements = {call.replaced[-1]: call for call in calls}
    absorbed = {var for call in calls for var in call.replaced[:-1]} | bytes_of.absorbed
    steps = {var: scales[var.name].scale for var in module["main"].params if var.name in scales}
    as_bytes: dict[AsBytes, Any] = {}

    @mutator
    class Rewriter(PyExprMutator):  # type: ignore[misc]  # TVM has no types
        """Puts kernel calls in the place of what they compute, parameters in the place of large constants."""

        def visit_var_binding_(self, binding: Any) -> None:
            if binding.var in absorbed:
                return
            call = replacements.get(binding.var)
            if call is None:
                super().visit_var_binding_(binding)
                return
            inputs = [self.given(value) for value in call.inputs]
            if call.residual is not None:
                inputs.append(self.reshaped(self.given(call.residual), call.out_shape))
            out = self.builder_.emit(
                self.call(call.function, call.function_name, inputs, call.out_shape, call.out_dtype)
            )
            self.set_var_remap(binding.var, self.reshaped(out, shape_of(binding.var)))

        def visit_var_(self, var: Any) -> Any:
            """What nobody reads as bytes is rounded as it stands."""
            return relax.const(np.float32(steps[var])) if var in steps else super().visit_var_(var)

        def visit_call_(self, call: Any) -> Any:
            call = super().visit_call_(call)
            operation = operation_of(call, pool.target)
            if operation is None:
                return call
            return self.call(operation.function, operation.name, list(operation.inputs), operation.out_shape)

        def call(
            self, function: Any, name: str, inputs: list[Any], shape: tuple[int, ...], dtype: str = "float32"
        ) -> Any:
            return _call(self.builder_, function, name, inputs, relax.TensorType(shape, dtype))

        def given(self, value: Any) -> Any:
            """What a kernel is given: a variable, or what stands for its values, made once for all who read it."""
            if not isinstance(value, AsBytes):
                return self.visit_expr(value)
            if value.variable in bytes_of.pooled and value not in as_bytes:
                as_bytes[value] = self.pooled(value)
            if value in as_bytes:
                return as_bytes[value]
            variable = self.visit_expr(value.variable)
            if value.variable in bytes_of.stored:
                return variable
            shape = shape_of(variable)
            assert shape is not None
            told = [pool.constant(np.array([each], np.float32)) for each in (value.scale.inverse, value.scale.zero)]
            function = quantise(shape, pool.target.vector_bits // 32)
            as_bytes[value] = self.builder_.emit(self.call(function, "quantise", [variable, *told], shape, "uint8"))
            return as_bytes[value]

        def pooled(self, value: AsBytes) -> Any:
            """The bytes of what is pooled, from those of what is not."""
            operation = greatest_of_bytes(graph.values[value.variable], pool.target)
            assert operation is not None
            bytes_before = self.visit_expr(bytes_of.pooled[value.variable])
            call = self.call(operation.function, "pool", [bytes_before], operation.out_shape, "uint8")
            return self.builder_.emit(call)

        def reshaped(self, value: Any, shape: tuple[int, ...] | None) -> Any:
            if shape is None or shape_of(value) == shape:
                return value
            return self.builder_.emit(relax.op.reshape(value, shape))

        def visit_generic_const_(self, constant: Any) -> Any:
            array = constant.value.numpy()
            if array.nbytes <= INLINE_CONSTANT_BYTES:
                return constant
            return pool.constant(array)

    main = module["main"]
    rewriter = Rewriter(module)
    body = rewriter.visit_expr(main.body)
    inputs = [var for var in main.params if var.name not in weights and var not in steps]
    function = relax.Function(inputs + list(pool.variables.values()), body)
    result = rewriter.builder_.get()
    result["main"] = function.with_attr("global_symbol", "main").with_attr("num_input", len(inputs))
    result = add_in_place(relax.transform.DeadCodeElimination()(result), pool.in_place)
    return Lowered(result, pool.arrays, pool.kernels)


def _call(builder: Any, function: Any, name: str, inputs: list[Any], result: Any) -> Any:
    """The call of a kernel that a module gets, or of the function in its place."""
    if isinstance(function, Call):
        return relax.call_dps_packed(function.name, [*inputs, tvm.ir.StringImm(function.facts)], result)
    return relax.call_tir(builder.add_func(_opaque(function), name), inputs, result)


def _opaque(function: Any) -> Any:
    return function.with_attr("op_pattern", OPAQUE).with_attr("hwsparse.kernel", True)
