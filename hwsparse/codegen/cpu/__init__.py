"""Kernels and schedules for CPUs: AVX-512, AVX2 and NEON from the same source."""

from __future__ import annotations

import sys
from typing import Any

from tvm.script.parser.core.parser import ScriptMacro


def _parser_in_use(macro: Any) -> Any:
    frame: Any = sys._getframe()
    while ScriptMacro.parser_object_name not in frame.f_globals:
        frame = frame.f_back
    return frame.f_globals[ScriptMacro.parser_object_name]


# For every inline function TVM looks up its parser through inspect.getouterframes, which reads the source of
# each frame on the way: four fifths of the time that generating a kernel took.
ScriptMacro._find_parser_def = _parser_in_use
