"""Libraries for other machines and systems, and by other versions of TVM: what is linked, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwsparse.codegen import Library, build_layer, compile_model, library
from hwsparse.elf import read_shared_library
from hwsparse.errors import ArtifactError
from hwsparse.plan import Choice, Plan
from hwsparse.probe import machine
from hwsparse.target import load_target
from tests.codegen.layers import CPU, conv
from tests.codegen.test_networks import convolutional, transformer

ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
# Of C99 (ISO/IEC 9899:1999, 7.12 and 7.21), which every C library has, Android's too.
STANDARD = {"expf", "exp2f", "tanhf", "erff", "powf", "logf", "floorf", "ceilf", "rintf", "roundf", "truncf", "sqrtf"}
STANDARD |= {"memset", "memcpy", "memmove"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer compiled for this machine."""
    directory = tmp_path_factory.mktemp("built")
    build_layer(conv(1, 8, (6, 6), 8, (1, 1)), Choice(), CPU, directory)
    return directory


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    for path in built.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def changed(directory: Path, old: bytes, new: bytes) -> Path:
    path = directory / "library.so"
    assert path.read_bytes().count(old) == 1 and len(old) == len(new)
    path.write_bytes(path.read_bytes().replace(old, new))
    return directory


@pytest.mark.parametrize("other", sorted(set(ELF_MACHINES) - {machine()}))
def test_code_for_another_machine_is_refused(other: str, copied: Path) -> None:
    data = bytearray((copied / "library.so").read_bytes())
    data[18:20] = ELF_MACHINES[other].to_bytes(2, "little")
    (copied / "library.so").write_bytes(data)
    said = rf"compiled for {other}, and this machine is {machine()}: `hwsparse bundle` .*; to run it here, compile it"
    with pytest.raises(ArtifactError, match=said) as caught:
        Library.load(copied, 1)
    assert "\n" not in str(caught.value)


def test_and_the_reverse(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_for = machine()
    monkeypatch.setattr(library, "machine", lambda: "some-board")
    with pytest.raises(ArtifactError, match=rf"compiled for {made_for}, and this machine is some-board: "):
        Library.load(built, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"vm.builtin.alloc_storage", b"vm.builtin.alloc_another"),  # a function that a runtime does not have
        (b"0.14", b"9.99"),  # a later form of the virtual machine's code: TVM's VM_VERSION
    ],
)
def test_a_runtime_of_another_version_is_told(old: bytes, new: bytes, copied: Path) -> None:
    described = json.loads((copied / "library.json").read_text())
    (copied / "library.json").write_text(json.dumps({**described, "tvm": "9.9.0"}))
    said = (
        r"was compiled by TVM 9\.9\.0, and this is 0\..*; install the same apache-tvm on both sides, or compile it anew"
    )
    with pytest.raises(ArtifactError, match=said) as caught:
        Library.load(changed(copied, old, new), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [convolutional, transformer], ids=lambda make: make.__name__)
def test_android_gets_what_needs_its_own_libraries_only(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plain = load_target("arm-cortex-a76")
    code = {**json.loads(plain.tvm_target), "mtriple": "aarch64-linux-android"}
    model = make(1, 1)
    compile_model(model, Plan(model.digest), {}, replace(plain, tvm_target=json.dumps(code)), tmp_path)
    found = read_shared_library(tmp_path / "library.so")
    assert found.machine == "aarch64" and found.of_android
    assert set(found.needed) == {"libc.so", "libm.so"}
    assert {name for name in found.undefined if not name.startswith("TVM")} <= STANDARD
    with pytest.raises(ArtifactError, match="compiled for aarch64 with Android, and this machine is "):
        Library.load(tmp_path, 1)
