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
    ├── MeasureError           the device could not be timed
    ├── StudyError             a search that cannot be opened, resumed or continued
    ├── ArtifactError          an artifact that is missing, malformed or changed
    ├── ServiceError           the server cannot be reached, or refused
    └── Cancelled              the work was stopped on request

Errors of other packages are translated where they enter the house; whatever else reaches a user
is a bug of ours.
"""


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


class MeasureError(HwsparseError):
    """The device could not be timed."""


class StudyError(HwsparseError):
    """A search that cannot be opened, resumed or continued."""


class ArtifactError(HwsparseError):
    """An artifact that is missing, malformed or changed."""


class ServiceError(HwsparseError):
    """The server cannot be reached, or refused the call."""


class Cancelled(HwsparseError):
    """The work was stopped on request."""
