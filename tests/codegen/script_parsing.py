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

# Of the frames above a decorator, TVM reads the line of the third, and of the others no text.
FRAMES_THAT_ARE_READ = 3
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
    """Of an expression; names and constants need none of Python's compiler."""
    if isinstance(node, doc.Constant):
        return node.value
    if isinstance(node, doc.Name) and names is not None and node.id in names:
        return names[node.id]
    return PARTS[evaluator, "_eval_expr"](node, names)


def _stack(context: int = 1) -> list[inspect.FrameInfo]:
    """As inspect.stack gives it, with lines of text for the nearest frames only."""
    frame: FrameType | None = sys._getframe(1)
    found: list[inspect.FrameInfo] = []
    while frame is not None:
        told = inspect.getframeinfo(frame, context if len(found) < FRAMES_THAT_ARE_READ else 0)
        found.append(inspect.FrameInfo(frame, *told))
        frame = frame.f_back
    return found
