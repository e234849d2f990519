"""Every error hwsparse raises on purpose.

    HwsparseError
    ├── InputError             the request cannot be served as given: says what, where, what to do
    │   ├── UnknownNameError   nothing of that name: a target, model, data set, operation or artifact
    │   ├── PatternError       not a sparsity pattern, or a ratio the pattern cannot have
    │   ├── TargetError        unknown target, or a malformed descriptor
    │   ├── ModelError         a model that cannot be read or imported
    │   ├── DataError          a data set that cannot be read, or does not fit the model
    │   └── PlanError          a plan that does not belong to the model
    ├── UnsupportedError       the request is right, but this target cannot do it
    ├── CompileError           TVM or the linker refused a program
    ├── StorageError           a file that cannot be written: no room, or no permission
    ├── MeasureError           the device could not be timed
    │   └── NoRoomError        it has no memory left for what is to be timed
    ├── ExecutionError         workers that cannot be had, or were lost
    ├── StudyError             a search that cannot be opened, resumed or continued
    ├── TuningError            a training that diverges, or cannot go on
    ├── ArtifactError          an artifact that is missing, malformed or changed
    ├── ServiceError           the server cannot be reached, or refused
    │   └── FullError          it has no room for more, or too many jobs wait
    └── Cancelled              the work was stopped on request

Errors of other packages are translated where they enter the house; whatever else reaches a user
is a bug of ours.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class HwsparseError(Exception):
    """Base of every expected failure; its text is the one line a user reads."""


class InputError(HwsparseError):
    """The request cannot be served as given."""


class UnknownNameError(InputError):
    """There is nothing of that name: no such target, model, data set, operation or artifact."""


class PatternError(InputError):
    """Not a sparsity pattern, or a ratio that the pattern cannot have."""


class TargetError(InputError):
    """Unknown target, or a malformed target descriptor."""


class ModelError(InputError):
    """A model that cannot be read or imported."""


class DataError(InputError):
    """A data set that cannot be read, or that does not fit the model."""


class PlanError(InputError):
    """A plan that does not belong to the model."""


class UnsupportedError(HwsparseError):
    """The request is right, but this target cannot do it."""


class CompileError(HwsparseError):
    """TVM or the linker refused a program."""


class StorageError(HwsparseError):
    """A file that cannot be written: no room, or no permission."""


class MeasureError(HwsparseError):
    """The device could not be timed."""


class NoRoomError(MeasureError):
    """The device has no memory left for what is to be timed."""


class ExecutionError(HwsparseError):
    """There are no workers, a cluster's or this machine's, or they were lost in the middle of a task."""


class StudyError(HwsparseError):
    """A search that cannot be opened, resumed or continued."""


class TuningError(HwsparseError):
    """A training that diverges, or cannot go on from where it was."""


class ArtifactError(HwsparseError):
    """An artifact that is missing, malformed or changed."""


class ServiceError(HwsparseError):
    """The server cannot be reached, or refused the call."""


class FullError(ServiceError):
    """The server has no room for more, or too many jobs wait."""


class Cancelled(HwsparseError):
    """The work was stopped on request."""


def one_line(error: Exception | str) -> str:
    """What another package says, on one line, without its file paths and codes; of an error without text its type."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ", "", text)
    text = re.sub(
        r"(Load model from .*? failed: ?|This is an invalid model\. |/\S+/(onnxruntime|onnx)/\S+\.(cc|h):\d+ )",
        "",
        text,
    )
    return (text if len(text) <= 400 else text[:397] + "...") or type(error).__name__


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says of a failure to write `path` that it is one: other packages blame what they were writing.

    What a failure leaves of `path` may be removed.

    Raises:
        StorageError: the work within failed, and its error or a try at `path` shows that nothing can be written there.
    """
    try:
        yield
    except Exception as error:
        if reason := _refusal(path, str(error)):
            roomless = reason in map(os.strerror, _ROOMLESS)
            way_out = (
                "; free room there or, for temporary files, set TMPDIR to a directory with room" if roomless else ""
            )
            raise StorageError(f"cannot write {path}: {reason}{way_out}") from None
        raise


# Where another place would do.
_ROOMLESS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def _refusal(path: Path, said: str) -> str:
    """Why `path` cannot be written, "" if it can: by the error that was met, else by writing some more."""
    known = map(os.strerror, _ROOMLESS)
    if found := next((text for text in known if text in said), ""):
        return found
    try:
        with path.open("ab") as file:
            file.write(bytes(1 << 16))
        path.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""
