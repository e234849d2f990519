"""What an ELF file says of itself: for which machine its code is, and what it needs of others. Runs nothing of it.

Format: "Tool Interface Standard (TIS) Executable and Linking Format (ELF) Specification, version 1.2" (1995) and
"ELF-64 Object File Format, version 1.5" (1998); numbers of machines: the System V ABI's registry.

Knows nothing of what the code does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from hwsparse.errors import ArtifactError

# As LLVM and `platform` name them.
_MACHINES = {3: "i686", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_DYNAMIC, _DYNSYM = 6, 11  # types of sections
_NEEDED, _UNDEFINED = 1, 0


@dataclass(frozen=True, slots=True)
class SharedLibrary:
    """A shared library: `needed` are the files that are loaded with it, `undefined` the symbols it looks for."""

    machine: str
    needed: tuple[str, ...]
    undefined: tuple[str, ...]

    @property
    def of_android(self) -> bool:
        """Whether it needs Android's C library, whose name has no version as others' have."""
        return "libc.so" in self.needed


def read_shared_library(path: Path) -> SharedLibrary:
    """Reads the headers of a 64-bit shared library.

    Raises:
        ArtifactError: it cannot be read, or is none.
    """
    try:
        return _parsed(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}") from None
    except (struct.error, ValueError, IndexError, OverflowError):
        raise ArtifactError(f"{path}: not a 64-bit ELF library") from None


def _parsed(data: bytes) -> SharedLibrary:
    if data[:5] != b"\x7fELF\x02":
        raise ValueError
    order = {1: "<", 2: ">"}.get(data[5], "")
    (machine,) = struct.unpack_from(f"{order}H", data, 18)
    (start,), (each, count) = (struct.unpack_from(f"{order}{form}", data, at) for form, at in (("Q", 40), ("HH", 58)))
    # Of a section: name, type, flags, address, offset, size, link, info, alignment, size of an entry.
    sections = [struct.unpack_from(f"{order}IIQQQQIIQQ", data, start + each * at) for at in range(count)]
    needed: list[str] = []
    undefined: list[str] = []
    for section in sections:
        if section[1] == _DYNAMIC:
            strings = sections[section[6]][4]
            entries = struct.iter_unpack(f"{order}qQ", _held(data, section))
            needed += [_text(data, strings + value) for tag, value in entries if tag == _NEEDED]
        if section[1] == _DYNSYM:
            strings = sections[section[6]][4]
            symbols = struct.iter_unpack(f"{order}IBBHQQ", _held(data, section))
            undefined += [_text(data, strings + name) for name, _, _, at, _, _ in symbols if name and at == _UNDEFINED]
    return SharedLibrary(_MACHINES.get(machine, f"machine {machine}"), tuple(needed), tuple(undefined))


def _held(data: bytes, section: tuple[int, ...]) -> bytes:
    offset, size = section[4], section[5]
    if offset + size > len(data):
        raise ValueError
    return data[offset : offset + size]


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()
