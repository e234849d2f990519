"""TOML read strictly: known keys only, each of its declared type; and values written back as TOML.

Knows no type of the house and no file.
"""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from hwsparse.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_INT = 2**63 - 1  # what TOML promises to hold
_NAMES = {
    str: "text",
    bool: "truth value",
    int: "integer",
    float: "finite number",
    list: "list of texts",
    dict: "table",
}


def loads(text: str) -> dict[str, Any]:
    """TOML text to tables.

    Raises:
        InputError: not TOML.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError("not TOML: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits is a ValueError too
        raise InputError(f"not TOML: {error}") from None


def only(table: Mapping[str, Any], allowed: Iterable[str], where: str = "") -> None:
    """Refuses keys that are not allowed; `where` begins the error's text.

    Raises:
        InputError: naming the key, the nearest allowed one, and all that are.
    """
    for key in table:
        if key not in allowed:
            raise InputError(f"{where}unknown key {key!r}; {known(key, allowed)}")


def known(name: str, names: Iterable[str]) -> str:
    """The end of an error's text: the name that was likely meant, and all there are."""
    listed = list(names)
    close = difflib.get_close_matches(name, listed, 1)
    return (f"did you mean {close[0]}? " if close else "") + f"allowed: {', '.join(listed)}"


def value(table: Mapping[str, Any], key: str, kind: type, where: str = "") -> Any:
    """The value of a key: str, bool, int (of 64 bits), float (finite; integers are taken), dict, or list (of texts).

    Raises:
        InputError: missing, or of another type.
    """
    if key not in table:
        section = kind is dict and not where
        raise InputError(f"{where}{f'section [{key}]' if section else key} is missing")
    found = table[key]
    if kind is float and type(found) is int and abs(found) <= MAX_INT:
        found = float(found)
    if type(found) is not kind or not _sound(found):
        raise InputError(f"{where}{key} must be of type {_NAMES[kind]}, not {_short(found)}")
    return found


def _sound(found: Any) -> bool:
    if isinstance(found, float):
        return math.isfinite(found)
    if isinstance(found, int):
        return abs(found) <= MAX_INT
    return not isinstance(found, list) or all(isinstance(item, str) for item in found)


def dumps(item: Any) -> str:
    """A text, number, truth value, list or table as TOML writes it on one line."""
    if isinstance(item, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {dumps(entry)}" for key, entry in item.items()) + " }"
    if isinstance(item, list | tuple):
        return "[" + ", ".join(map(dumps, item)) + "]"
    if isinstance(item, float):
        return repr(item)
    # JSON's texts are TOML's, but for one control character that JSON does not escape.
    return json.dumps(item, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isascii() and bare.isalnum() else dumps(key)


def _short(found: Any) -> str:
    try:
        text = repr(found)
    except ValueError:  # an integer too long to be written
        text = "a huge integer"
    return text if len(text) <= 60 else text[:57] + "..."
