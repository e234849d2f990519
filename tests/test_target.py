"""Target descriptors: what ships is sound, what is wrong is said in one line, users' own are found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import TargetError, UnsupportedError
from hwsparse.plan import parse_choice
from hwsparse.target import Target, format_target, list_targets, load_target, parse_target

SHIPPED = ("ampere-a100", "arm-cortex-a76", "fpga-sim", "x86-avx2", "x86-avx512", "x86-local")


def text_of(name: str) -> str:
    return format_target(load_target(name))


def test_what_ships_is_there_and_tvm_takes_it() -> None:
    targets = {target.name: target for target in list_targets()}
    assert set(SHIPPED) <= set(targets)
    for name in SHIPPED:
        assert tvm.target.Target(json.loads(targets[name].tvm_target)).kind.name in ("llvm", "cuda")


@given(
    st.sampled_from(SHIPPED),
    st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20),
    st.integers(1, 64),
    st.floats(1, 1e15),
)
def test_a_written_descriptor_reads_back(name: str, description: str, cores: int, peak: float) -> None:
    target = replace(load_target(name), description=description, cores=cores, peak_flops=peak)
    assert parse_target(format_target(target), "here") == target


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\ncores = 4", "\ncoers = 4", r"unknown key 'coers' \(did you mean cores\?\)"),
        ("\ncores = 4", '\ncores = "4"', "cores must be of type integer"),
        ("\ncores = 4", "\ncores = 0", "cores must be at least 1"),
        ('kind = "cpu"', 'kind = "tpu"', "kind is one of cpu, gpu, fpga"),
        ('runner = "local"', 'runner = "remote"', "runner of local, rpc, cuda, simulator"),
        ('runner = "local"', "", "runner is missing"),
        ("vector_bits = 256", "vector_bits = 100", "128, 256 or 512 bits"),
        ('"block2x1"', '"block1x1"', "block1x1"),
        ('"dense", ', "", "no dense pattern"),
        ('description = "', "description = ", "not TOML"),
        ("memory_bytes", "# memory_bytes", r"\[hardware\] is incomplete.*memory_bytes"),
    ],
)
def test_a_fault_is_named_with_file_and_key(old: str, new: str, said: str) -> None:
    text = text_of("x86-avx2")
    assert old in text
    with pytest.raises(TargetError, match=rf"^here\.toml.*{said}") as caught:
        parse_target(text.replace(old, new, 1), "here.toml")
    assert "\n" not in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_descriptor_or_refused(text: str) -> None:
    with pytest.raises(TargetError):
        parse_target(text, "here")


def test_an_unknown_name_is_met_with_the_known_ones() -> None:
    with pytest.raises(TargetError, match=r"did you mean x86-local\?.*ampere-a100"):
        load_target("x86-locl")


def test_users_descriptors_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = replace(load_target("x86-avx2"), name="mine", threads=2)
    (tmp_path / "mine.toml").write_text(format_target(mine))
    assert load_target(tmp_path / "mine.toml") == mine
    monkeypatch.setenv("HWSPARSE_TARGETS", str(tmp_path))
    assert load_target("mine") == mine
    (tmp_path / "other.toml").write_text(format_target(mine))
    with pytest.raises(TargetError, match=r"NAME\.toml"):
        load_target("other")
    (tmp_path / "huge.toml").write_text("#" * (2 << 20))
    with pytest.raises(TargetError, match="larger than"):
        load_target("huge")


def test_what_a_target_cannot_do_is_said_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = load_target("ampere-a100"), load_target("x86-avx512")
    with pytest.raises(UnsupportedError, match="ampere-a100 cannot run block4x1 in float32"):
        gpu.require(parse_choice("block4x1@0.5"))
    gpu.require(parse_choice("2:4/float16"))
    with pytest.raises(UnsupportedError, match=r"'cuda', which this version does not have.*x86-local"):
        gpu.require_timing()
    monkeypatch.setattr("hwsparse.target.cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(UnsupportedError, match=r"needs avx512bw.* which this machine's CPU lacks"):
        cpu.require_timing()


def test_threads_are_at_most_the_cores() -> None:
    target: Target = load_target("x86-avx2")
    assert target.with_threads(4).threads == 4
    for threads in (0, 5):
        with pytest.raises(TargetError, match="4 cores"):
            target.with_threads(threads)
