"""Target descriptors: what ships is sound, what is wrong is said in one line, users' own are found."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import TargetError, UnsupportedError
from hwsparse.plan import parse_choice
from hwsparse.target import Target, format_target, list_targets, load_target, parse_target

ARM = (
    "apple-m1", "arm-cortex-a55", "arm-cortex-a76", "arm-cortex-a78", "arm-cortex-x1",
    "arm-cortex-x1-android", "arm-neoverse-n1", "arm-neoverse-v2",
)  # fmt: skip
SHIPPED = (*ARM, "ampere-a100", "fpga-edge", "fpga-s4", "fpga-sim", "x86-avx2", "x86-avx512", "x86-local")
# What TVM takes beside a kind: texts, integers, truth values, lists of them, a host's table.
KEYS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8).filter(lambda key: key != "mtriple")
OPTIONS: st.SearchStrategy[object] = st.recursive(
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=8) | st.booleans() | st.integers(-9, 9),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(KEYS, items, max_size=3),
    max_leaves=5,
)


def text_of(name: str) -> str:
    return format_target(load_target(name))


def test_what_ships_is_there_and_tvm_takes_it() -> None:
    targets = {target.name: target for target in list_targets()}
    assert set(SHIPPED) <= set(targets)
    for name in SHIPPED:
        assert tvm.target.Target(json.loads(targets[name].tvm_target)).kind.name in ("llvm", "cuda")


@given(
    st.sampled_from(SHIPPED),
    st.text(max_size=20).filter(str.isprintable),
    st.integers(1, 64),
    st.integers(1, 64),
    st.floats(1, 1e15),
    st.dictionaries(KEYS, OPTIONS, max_size=3),
)
def test_a_written_descriptor_reads_back(
    name: str, description: str, cores: int, threads: int, peak: float, options: dict[str, object]
) -> None:
    target = replace(
        load_target(name),
        description=description,
        cores=cores,
        threads=min(threads, cores),
        pipelined=cores % 2 == 0,
        peak_flops=load_target(name).peak_flops if load_target(name).accelerator else peak,
        tvm_target=json.dumps({**options, "kind": "llvm"}, sort_keys=True),
    )
    assert parse_target(format_target(target), "here") == target


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\ncores = 4", "\ncoers = 4", r"\[hardware\] unknown key 'coers'; did you mean cores\?"),
        ("[run]", "[runs]", r"unknown key 'runs'; did you mean run\?"),
        ("[run]", "[[run]]", "run must be of type table"),
        ("\ncores = 4", '\ncores = "4"', r"\[hardware\] cores must be of type integer"),
        ("\ncores = 4", "\ncores = true", r"\[hardware\] cores must be of type integer"),
        ("\ncores = 4", "\ncores = 0", "cores must be 1 to 1e"),
        ("\ncores = 4", "\ncores = 2000000", "cores must be 1 to 1e"),
        ("\ncores = 4", "\ncores = 1" + "0" * 5000, "not TOML"),
        ("threads = 1", "threads = 5", "threads must not be more than the 4 cores"),
        ("pipelined = false", "pipelined = 1", "pipelined must be of type truth value, not 1"),
        ("peak_flops = 460800000000.0", "peak_flops = nan", "peak_flops must be of type finite number"),
        ("peak_flops = 460800000000.0", "peak_flops = 1" + "0" * 400, "peak_flops must be of type finite number"),
        ("l2_bytes = 524288", "l2_bytes = -1", "l2_bytes must be 0 to"),
        ("x86-avx2", "../x86-avx2", "a name is 1 to 64 letters"),
        ("x86-avx2", "", "a name is 1 to 64 letters"),
        ('description = "', 'description = "\\n', "one line of printable text"),
        ('kind = "cpu"', 'kind = "gpus"', r"kind 'gpus' is unknown; did you mean gpu\? allowed: cpu, gpu, fpga"),
        (
            'runner = "local"',
            'runner = "lokal"',
            r"runner 'lokal' is unknown; did you mean local\? allowed: local, rpc",
        ),
        ('runner = "local"', "", r"\[run\] runner is missing"),
        ("vector_bits = 256", "vector_bits = 100", "vector_bits 128, 256 or 512"),
        ('"avx2"', '"avx 2"', "isa is a list of CPU flags"),
        ('"block2x1"', '"block1x1"', r"\[supported\] float32: block1x1"),
        ('"block2x1"', '"dense"', "names a pattern twice"),
        ("float32 =", "float23 =", r"\[supported\] unknown key 'float23'; did you mean float32\?"),
        ('description = "', "description = ", "not TOML"),
        ("memory_bytes", "# memory_bytes", r"\[hardware\] is incomplete: memory_bytes missing"),
        ("tvm_target = {", "# ", r"\[compile\] tvm_target is missing"),
        ('kind = "llvm"', "kind = 5", "tvm_target is a table such as"),
        ('kind = "llvm"', 'kind = "llvm", on = 2026-01-01', r"tvm_target holds texts.*no dates"),
        ('mtriple = "', 'mtriple = 5, a = "', "mtriple is a text"),
        ("[hardware]", "[supported.hardware]", r"section \[hardware\] is missing"),
    ],
)
def test_a_fault_is_named_with_file_and_key(old: str, new: str, said: str) -> None:
    text = text_of("x86-avx2")
    assert old in text, text
    with pytest.raises(TargetError, match=rf"^here\.toml.*{said}") as caught:
        parse_target(text.replace(old, new, 1), "here.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ARM)
def test_a_peak_is_what_the_cores_do_in_a_cycle(name: str) -> None:
    target = load_target(name)
    assert target.core is not None
    flops_a_cycle = 2 * target.core.fma_pipes * target.vector_bits / 32
    assert target.peak_flops == pytest.approx(target.cores * target.core.clock_hz * flops_a_cycle)


def test_without_a_device_there_is_a_core_to_estimate_from() -> None:
    text = text_of("apple-m1")
    with pytest.raises(UnsupportedError, match="apple-m1 has no device to be timed on; its times are estimated only"):
        load_target("apple-m1").require_timing()
    with pytest.raises(TargetError, match=r"here: target apple-m1: the runner estimator needs a \[core\]"):
        parse_target(text[: text.index("[core]")], "here")
    with pytest.raises(TargetError, match=r"here: \[core\] issue_width must be 1 to 64"):
        parse_target(text.replace("issue_width = 8", "issue_width = 800"), "here")
    gpu = text_of("ampere-a100") + text[text.index("[core]") :]
    with pytest.raises(TargetError, match=r"here: target ampere-a100: a gpu has no \[core\]"):
        parse_target(gpu, "here")


def test_every_target_runs_dense_layers() -> None:
    with pytest.raises(TargetError, match=r"here: \[supported\] has no dense pattern"):
        parse_target(text_of("x86-avx2").replace('"dense", ', ""), "here")


PROBED = """
name = "here"
kind = "cpu"
description = ""
hardware = "probe"
[run]
runner = "local"
[supported]
float32 = ["dense"]
"""


def test_a_probed_descriptor_describes_this_machine() -> None:
    local, here = load_target("x86-local"), parse_target(PROBED, "here")
    assert here == replace(local, name="here", description="", supported=(("dense", "float32"),))
    own = parse_target(PROBED + '[compile]\ntvm_target = { kind = "llvm" }\n', "here")
    assert json.loads(own.tvm_target) == {"kind": "llvm"}
    assert own.isa == local.isa


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"local"', '"rpc"', r'hardware = "probe" describes this machine, so \[run\] runner must be "local"'),
        ('hardware = "probe"', 'hardware = "prob"', 'hardware is a table, or "probe"'),
        # Left out by mistake, it must not become this machine's figures.
        ('hardware = "probe"', "", r"section \[hardware\] is missing"),
    ],
)
def test_only_probe_stands_for_this_machine(old: str, new: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        parse_target(PROBED.replace(old, new), "here")


def test_tables_of_any_depth_are_refused() -> None:
    deep = "[compile.tvm_target" + ".a" * 20_000 + "]\n"
    for text in (deep, "a = " + "[" * 50_000):
        with pytest.raises(TargetError, match="nested too deeply"):
            parse_target(PROBED + deep if text is deep else text, "here")


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
    os.mkfifo(tmp_path / "pipe.toml")  # reading it would wait for ever
    with pytest.raises(TargetError, match="not a file"):
        load_target("pipe")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(TargetError, match="cannot be read"):
        load_target("binary")
    monkeypatch.setenv("HWSPARSE_TARGETS", str(tmp_path / "nowhere"))
    with pytest.raises(TargetError, match=r"\$HWSPARSE_TARGETS names .*nowhere, which is not a directory"):
        load_target("x86-local")


def test_users_descriptors_come_before_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = load_target("x86-avx2")
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        own = replace(shipped, description=f"mine {number}")
        (tmp_path / str(number) / "x86-avx2.toml").write_text(format_target(own))
    monkeypatch.setenv("HWSPARSE_TARGETS", os.pathsep.join([str(tmp_path / "1"), "", str(tmp_path / "2")]))
    assert load_target("x86-avx2").description == "mine 1"
    assert [target.description for target in list_targets() if target.name == "x86-avx2"] == ["mine 1"]


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
    arm = replace(cpu, name="mine", isa=(), tvm_target='{"kind": "llvm", "mtriple": "riscv64-linux-gnu"}')
    with pytest.raises(UnsupportedError, match="mine is timed where it runs, on riscv64; this machine is"):
        arm.require_timing()


def test_threads_are_at_most_the_cpus_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    target = replace(load_target("x86-avx2"), isa=())
    monkeypatch.setattr("hwsparse.target.ALLOWED_CPUS", frozenset({0, 7}))
    target.with_threads(2).require_timing()
    with pytest.raises(UnsupportedError, match="x86-avx2 runs with 3 threads; this process may use 2 CPUs"):
        target.with_threads(3).require_timing()


def test_threads_are_at_most_the_cores() -> None:
    target: Target = load_target("x86-avx2")
    assert target.with_threads(4).threads == 4
    for threads in (0, 5):
        with pytest.raises(TargetError, match="4 cores"):
            target.with_threads(threads)
