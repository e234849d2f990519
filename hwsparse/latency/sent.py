"""A compiled network as it is known where it cannot be loaded: it was made for another machine, and is sent there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hwsparse.codegen.library import DESCRIPTION
from hwsparse.errors import ArtifactError


class Compiled(Protocol):
    """Files of a library, loaded or not, and the kernel of each layer in it."""

    @property
    def directory(self) -> Path: ...
    @property
    def kernels(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Sent:
    """A library that is not loaded here."""

    directory: Path
    kernels: Mapping[str, str]

    @classmethod
    def read(cls, directory: Path) -> Sent:
        """What the files of a library that was just built say.

        Raises:
            ArtifactError: they are no library's.
        """
        try:
            return cls(directory, dict(json.loads((directory / DESCRIPTION).read_text())["kernels"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{directory} is not a compiled library: {error}") from None
