"""TVMScript read faster: what its parser works out over and over about the same code is kept.

Half of the time in which a kernel is written goes into finding the text of inline functions, once for each use, and
into trees of their syntax. What is kept depends on the code alone, not on what a function captured; a test compares
what comes of it. It knows TVM 0.27's parser from within, and no kernels.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType, FunctionType, SimpleNamespace
from typing import Any

from tvm.script.parser.core import diagnostics, doc, evaluator, parser, utils
from tvm.tirx.script.parser import entry

# Of the frames that TVM asks for, from its own on, it reads the text of the third alone.
READ = 2
# Where the parser's parts are, what they are called and what stands there as TVM has it.
PARTS = {
    (diagnostics.Source, "__init__"): diagnostics.Source.__init__,
    (diagnostics.Source, "as_ast"): diagnostics.Source.as_ast,
    (utils, "_collect_annotation_names"): utils._collect_annotation_names,
    (parser.ScriptMacro, "_find_parser_def"): parser.ScriptMacro._find_parser_def,
    (evaluator, "_eval_expr"): evaluator._eval_expr,
    (entry, "inspect"): inspect,
}


def install() -> None:
    """Has TVM's parser keep what it finds out, in this process from now on."""
    found = (
        _load_once,
        _tree,
        _annotations_once,
        _parser_of,
        _value,
        SimpleNamespace(**vars(inspect) | {"stack": _stack}),
    )
    for (place, name), part in zip(PARTS, found, strict=True):
        setattr(place, name, part)


def uninstall() -> None:
    """Has TVM's parser as it comes."""
    for (place, name), part in PARTS.items():
        setattr(place, name, part)


def _once(compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Computes what depends on a function's code alone once for each, and for anything but functions every time."""
    kept: dict[tuple[str, CodeType], Any] = {}

    def found(program: Any) -> Any:
        if not isinstance(program, FunctionType):
            return compute(program)
        key = program.__code__.co_filename, program.__code__  # codes of two files may be equal
        if key not in kept:
            kept[key] = compute(program)
        return kept[key]

    return found


def _attributes(program: Any) -> dict[str, Any]:
    source = object.__new__(diagnostics.Source)
    PARTS[diagnostics.Source, "__init__"](source, program)
    return dict(vars(source))


_attributes_once = _once(_attributes)
_annotations_once = _once(PARTS[utils, "_collect_annotation_names"])


def _load_once(source: diagnostics.Source, program: Any) -> None:
    vars(source).update(_attributes_once(program))


def _tree(source: diagnostics.Source) -> Any:
    return _tree_of(source.source)


@cache
def _tree_of(text: str) -> Any:
    """The parser changes trees only in what it would change the next time too: a slice's step, a target's context."""
    return doc.parse(text)


def _parser_of(macro: parser.ScriptMacro) -> Any:
    """The parser that evaluates a call of the inline function, by what is global in one of the frames above."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if (found := frame.f_globals.get(parser.ScriptMacro.parser_object_name)) is not None:
            return found
        frame = frame.f_back
    raise RuntimeError(f"{parser.ScriptMacro.parser_object_name} not available")


def _value(node: Any, names: dict[str, Any] | None) -> Any:
    """Of an expression: of a name or a constant as it stands, of what is written of names alone as compiled before."""
    if isinstance(node, doc.Constant):
        return node.value
    if names is not None:
        if isinstance(node, doc.Name) and node.id in names:
            return names[node.id]
        if (text := _of_names(node)) is not None:
            return eval(_compiled(text), names)
    return PARTS[evaluator, "_eval_expr"](node, names)


def _of_names(node: Any) -> str | None:
    """A call, attribute or item of what has names, as text; None: it is something else."""
    if isinstance(node, doc.Call):
        parts = [node.func, *node.args, *(each.value for each in node.keywords)]
        if all(isinstance(each, doc.Name) for each in parts) and all(each.arg for each in node.keywords):
            given = (*(each.id for each in node.args), *(f"{each.arg}={each.value.id}" for each in node.keywords))
            return f"{node.func.id}({', '.join(given)})"
    elif isinstance(node, doc.Attribute | doc.Subscript) and isinstance(node.ctx, doc.Load):
        if not isinstance(node.value, doc.Name):
            return None
        if isinstance(node, doc.Attribute):
            return f"{node.value.id}.{node.attr}"
        if isinstance(node.slice, doc.Name):
            return f"{node.value.id}[{node.slice.id}]"
    return None


@cache
def _compiled(text: str) -> CodeType:
    return compile(text, "<ast>", "eval")


def _stack(context: int = 1) -> list[inspect.FrameInfo]:
    """As inspect.stack gives it, with text for the one that it is read of."""
    frame: FrameType | None = sys._getframe(1)
    found: list[inspect.FrameInfo] = []
    while frame is not None:
        told = inspect.getframeinfo(frame, context if len(found) == READ else 0)
        found.append(inspect.FrameInfo(frame, *told))
        frame = frame.f_back
    return found
