"""Imports TVM without torch, which TVM takes along where it finds it: more than half of the time that a process takes
to start, and half of its memory, for tensors of torch's that nobody gives to it here.

Whoever imports torch later gets it as ever.
"""

from __future__ import annotations

import sys

if "torch" not in sys.modules:
    sys.modules["torch"] = None  # type: ignore[assignment]  # to an import: it is not installed
    try:
        import tvm  # noqa: F401  # while torch is out of its sight
    finally:
        del sys.modules["torch"]
