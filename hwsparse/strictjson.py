"""Dataclasses to and from JSON, strictly: exactly the declared keys, the declared types, finite numbers.

A field's annotation is its schema: str, bool, int, float, Literal, `X | None`, tuples, dataclasses, and
classes with `to_json` and `from_json` of their own, which are trusted to be as strict.

Knows no type of the house and no file.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
import types
import typing
from typing import Any, TypeVar

from hwsparse.errors import HwsparseError, InputError

T = TypeVar("T")

MAX_INT = 2**63 - 1  # what every reader of the text, in any language, can hold


def dumps(value: object, *, indent: int | None = None) -> str:
    """JSON text of a dataclass; equal values give equal text, in ASCII.

    Raises:
        InputError: a field does not hold what it declares.
    """
    return canonical(encode(value), indent=indent)


def loads(cls: type[T], text: str | bytes, where: str) -> T:
    """Reads a dataclass from what `dumps` wrote; `where` begins the error's text.

    Raises:
        InputError: not JSON, or not exactly a `cls`.
    """
    return decode(cls, parse(text, where), where)


def canonical(data: object, *, indent: int | None = None) -> str:
    """The one text of JSON data: sorted keys, no spaces but the indent, ASCII."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(data, sort_keys=True, separators=separators, indent=indent, allow_nan=False)


def parse(text: str | bytes, where: str) -> object:
    """JSON text to JSON data; refuses NaN, infinities and repeated keys.

    Raises:
        InputError: not such a text.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def encode(value: object) -> Any:
    """A dataclass as JSON data.

    Raises:
        InputError: a field does not hold what it declares.
    """
    return _encode(type(value), value, type(value).__name__)


def _encode(schema: Any, value: Any, where: str) -> Any:
    if hasattr(schema, "to_json"):
        return json.loads(_instance(schema, value, where).to_json())
    if dataclasses.is_dataclass(schema):
        _instance(schema, value, where)
        fields = _fields(typing.cast(type, schema))
        return {n: _encode(s, getattr(value, n), f"{where}.{n}") for n, s in fields.items()}
    origin, arguments = typing.get_origin(schema), typing.get_args(schema)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _encode(_not_none(arguments), value, where)
    if origin is tuple:
        items = tuple(_instance(tuple | list, value, where))
        return [_encode(s, v, f"{where}[{i}]") for i, (s, v) in enumerate(_paired(arguments, items, where))]
    return _scalar(schema, value, where)


def decode(cls: type[T], data: object, where: str) -> T:
    """A dataclass from JSON data; `where` begins the error's text.

    Raises:
        InputError: not exactly a `cls`.
    """
    return typing.cast(T, _decode(cls, data, where))


def _decode(schema: Any, data: Any, where: str) -> Any:
    if hasattr(schema, "from_json") or dataclasses.is_dataclass(schema):
        _instance(dict, data, where)
        try:
            if hasattr(schema, "from_json"):
                return schema.from_json(json.dumps(data))
            return schema(**_decoded_fields(schema, data, where))
        except _LocatedError:
            raise
        except HwsparseError as error:  # the type's own validation
            raise _LocatedError(f"{where}: {error}") from None
    origin, arguments = typing.get_origin(schema), typing.get_args(schema)
    if origin in (types.UnionType, typing.Union):
        return None if data is None else _decode(_not_none(arguments), data, where)
    if origin is tuple:
        items = _paired(arguments, tuple(_instance(list, data, where)), where)
        return tuple(_decode(s, v, f"{where}[{i}]") for i, (s, v) in enumerate(items))
    return _scalar(schema, data, where)


def _decoded_fields(schema: Any, data: dict[str, Any], where: str) -> dict[str, Any]:
    fields = _fields(schema)
    if data.keys() != fields.keys():
        missing, unknown = sorted(fields.keys() - data.keys()), sorted(data.keys() - fields.keys())
        what = f"misses {missing[0]!r}" if missing else f"has an unknown key {unknown[0]!r}"
        raise _LocatedError(f"{where}: {what}")
    return {name: _decode(s, data[name], f"{where}.{name}") for name, s in fields.items()}


class _LocatedError(InputError):
    """An error that already says where."""


@functools.cache
def _fields(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _not_none(arguments: tuple[Any, ...]) -> Any:
    (schema,) = (a for a in arguments if a is not type(None))
    return schema


def _paired(arguments: tuple[Any, ...], items: tuple[Any, ...], where: str) -> list[tuple[Any, Any]]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return [(arguments[0], item) for item in items]
    if len(arguments) != len(items):
        raise _LocatedError(f"{where}: has {len(items)} entries, not {len(arguments)}")
    return list(zip(arguments, items, strict=True))


def _instance(schema: Any, value: Any, where: str) -> Any:
    if not isinstance(value, schema):
        raise _LocatedError(f"{where}: {_shown(value)} is not a {getattr(schema, '__name__', schema)}")
    return value


def _scalar(schema: Any, value: Any, where: str) -> Any:
    if typing.get_origin(schema) is typing.Literal:
        allowed = typing.get_args(schema)
        if not any(value == a and type(value) is type(a) for a in allowed):
            raise _LocatedError(f"{where}: {_shown(value)} is not one of {', '.join(map(str, allowed))}")
        return value
    if schema is bool:
        return _instance(bool, value, where)
    if schema is str:
        try:
            _instance(str, value, where).encode()
        except UnicodeEncodeError:
            raise _LocatedError(f"{where}: not valid Unicode text") from None
        return str(value)
    if schema not in (int, float):
        raise TypeError(f"{where}: fields of type {schema} have no JSON form")
    if isinstance(value, bool | str):
        raise _LocatedError(f"{where}: {_shown(value)} is not a number")
    try:
        number = operator.index(value) if schema is int else float(value)
    except (TypeError, ValueError, OverflowError):
        raise _LocatedError(f"{where}: {_shown(value)} is not {'a whole' if schema is int else 'a'} number") from None
    if abs(number) > MAX_INT if schema is int else not math.isfinite(number):
        raise _LocatedError(f"{where}: {_shown(value)} is out of range")
    return number


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
