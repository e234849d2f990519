"""ELF headers, of a library that is loaded here and of what is none."""

from __future__ import annotations

import platform
import re
import struct
import tempfile
from pathlib import Path

import pytest
import tvm_ffi.libinfo
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.elf import read_shared_library
from hwsparse.errors import ArtifactError
from hwsparse.probe import machine

LIBRARY = Path(tvm_ffi.libinfo.find_libtvm_ffi())

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="libraries are ELF files on Linux")


def test_a_library_of_this_machine() -> None:
    found = read_shared_library(LIBRARY)
    assert found.machine == machine()
    assert "libc.so.6" in found.needed and not found.of_android
    # What it takes from others, and not what it has for them.
    assert "malloc" in found.undefined and "TVMFFIFunctionCall" not in found.undefined


@pytest.fixture(scope="module")
def header() -> bytes:
    return LIBRARY.read_bytes()[:4096]


@given(st.integers(0, 4096), st.binary(max_size=8), st.integers(0, 80))
def test_whatever_is_none_is_refused_or_read(header: bytes, length: int, noise: bytes, place: int) -> None:
    damaged = bytearray(header[:length])  # section headers stand at the end of a library, and are never here
    damaged[place : place + len(noise)] = noise
    with tempfile.NamedTemporaryFile() as file:
        file.write(damaged)
        file.flush()
        said = told(Path(file.name))
    # Noise may make a header that is sound again.
    assert said == f"{file.name}: not a 64-bit ELF library" or re.fullmatch(r"machine \d+|[a-z][a-z0-9_]+", said)


def told(path: Path) -> str:
    """The machine, or what is wrong."""
    try:
        return read_shared_library(path).machine
    except ArtifactError as error:
        return str(error)


@pytest.mark.parametrize("start", [2**63, 2**64 - 1])
def test_sections_beyond_all_files_are_refused(header: bytes, start: int, tmp_path: Path) -> None:
    (tmp_path / "some.so").write_bytes(header[:40] + struct.pack("<Q", start) + header[48:])
    assert told(tmp_path / "some.so").endswith("some.so: not a 64-bit ELF library")


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"MZ" + bytes(200), b"\x7fELF\x01" + bytes(200)])
def test_what_is_no_library_is_said(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "some.so").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"some\.so: not a 64-bit ELF library"):
        read_shared_library(tmp_path / "some.so")


def test_a_library_cut_off_is_none(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "some.so").write_bytes(header)
    with pytest.raises(ArtifactError, match=r"some\.so: not a 64-bit ELF library"):
        read_shared_library(tmp_path / "some.so")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nothing\.so: No such file"):
        read_shared_library(tmp_path / "nothing.so")
