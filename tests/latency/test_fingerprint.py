from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from hwsparse import strictjson
from hwsparse.latency import Device, Toolchain
from tests.latency.examples import DEVICE, TARGET

X86 = """processor\t: 0
model name\t: Fast CPU 9000
cpu family\t: 26
model\t\t: 2
stepping\t: 1
cpu MHz\t\t: 2595.124
flags\t\t: sse avx2

processor\t: 1
model name\t: another
"""
ARM = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd
CPU implementer\t: 0x41
CPU part\t: 0xd0b
CPU revision\t: 1
"""


def described(tmp_path: Path, cpuinfo: str) -> Device:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    for index, (level, kind, size) in enumerate([("1", "Data", "48K"), ("2", "Unified", "1024K")]):
        directory = tmp_path / f"devices/system/cpu/cpu0/cache/index{index}"
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (directory / name).write_text(text + "\n")
    return Device.probe(tmp_path, tmp_path)


def test_an_x86_cpu_is_its_first_processor(tmp_path: Path) -> None:
    device = described(tmp_path, X86)
    assert device.cpu == "Fast CPU 9000 26 2 1"
    assert device.caches == ("L1 Data 48K", "L2 Unified 1024K")


def test_an_arm_cpu_is_told_by_its_part(tmp_path: Path) -> None:
    assert described(tmp_path, ARM).cpu == "0x41 0xd0b 1"


def test_the_clock_of_the_moment_is_not_the_device_and_its_flags_are(tmp_path: Path) -> None:
    device = described(tmp_path, X86)
    assert described(tmp_path, X86.replace("2595", "3100")).digest == device.digest
    assert described(tmp_path, X86.replace("sse avx2", "avx2 sse")).digest == device.digest
    assert described(tmp_path, X86.replace("avx2", "avx512f")).digest != device.digest


BIG_LITTLE = """processor\t: 0
Features\t: fp asimd
CPU implementer\t: 0x41
CPU part\t: 0xd05

processor\t: 4
Features\t: fp asimd
CPU implementer\t: 0x41
CPU part\t: 0xd0b
"""


def test_other_cpus_of_a_machine_and_other_clocks_are_another_device(tmp_path: Path) -> None:
    little = described(tmp_path, BIG_LITTLE)
    cpufreq = tmp_path / "devices/system/cpu/cpu4/cpufreq"
    cpufreq.mkdir(parents=True)
    (cpufreq / "scaling_max_freq").write_text("2400000\n")
    (cpufreq / "scaling_governor").write_text("performance\n")
    big = Device.probe(tmp_path, tmp_path, (4,))
    assert (little.cpu, little.used) == ("0x41 0xd05", "")
    assert (big.cpu, big.used, big.clock) == ("0x41 0xd0b", "4 at 2400 MHz", "performance")
    (cpufreq / "scaling_max_freq").write_text("1800000\n")
    slower = Device.probe(tmp_path, tmp_path, (4,))
    assert len({little.digest, big.digest, slower.digest}) == 3


def test_machines_are_known_by_the_digest_that_they_had_before_there_were_boards() -> None:
    """Or all that was measured on them would count no more."""
    told = {name: getattr(DEVICE, name) for name in ("machine", "cpu", "cores", "isa", "caches", "clock")}
    text = strictjson.canonical({**told, "caches": list(DEVICE.caches), "system": ""})
    assert DEVICE.digest == hashlib.sha256(text.encode()).hexdigest()


def test_a_system_that_tells_nothing_is_still_a_device(tmp_path: Path) -> None:
    device = Device.probe(tmp_path / "none", tmp_path / "none")
    assert device.cores >= 1
    assert device.caches == ()
    assert device.isa == ""
    assert device.clock == ""


@pytest.mark.parametrize(
    ("files", "clock"),
    [
        ({"cpu0/cpufreq/scaling_governor": "powersave\n"}, "powersave"),
        ({"cpu0/cpufreq/scaling_governor": "schedutil", "cpufreq/boost": "1"}, "schedutil, boost 1"),
        ({"cpu0/cpufreq/scaling_governor": "performance", "intel_pstate/no_turbo": "1"}, "performance, boost 0"),
        ({"intel_pstate/no_turbo": "0"}, "boost 1"),
    ],
)
def test_another_clock_policy_is_another_device(tmp_path: Path, files: dict[str, str], clock: str) -> None:
    silent = described(tmp_path, X86)
    for name, text in files.items():
        path = tmp_path / "devices/system/cpu" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    device = described(tmp_path, X86)
    assert device.clock == clock
    assert device.digest != silent.digest


def test_this_machine_is_the_same_twice() -> None:
    assert Device.probe() == Device.probe()


def test_a_kernel_update_is_no_other_device_but_hardware_is() -> None:
    assert replace(DEVICE, system="Linux 7.0").digest == DEVICE.digest
    for other in ({"cpu": "x"}, {"cores": 3}, {"isa": "x"}, {"caches": ()}, {"clock": "x"}, {"machine": "aarch64"}):
        assert replace(DEVICE, **other).digest != DEVICE.digest


@pytest.mark.parametrize(
    "change",
    [
        {"tvm_target": '{"kind": "llvm", "mcpu": "znver4"}'}, {"vector_bits": 512}, {"vector_registers": 32},
        {"l1d_bytes": 1}, {"l2_bytes": 1}, {"isa": ("avx2",)},
    ],
)  # fmt: skip
def test_a_descriptor_that_gives_other_code_is_another_toolchain(change: dict[str, object]) -> None:
    assert Toolchain.of(replace(TARGET, **change), "1") != Toolchain.of(TARGET, "1")  # type: ignore[arg-type]


def test_a_descriptor_that_gives_the_same_code_is_the_same_toolchain() -> None:
    probed_again = replace(TARGET, peak_flops=2e11, bandwidth_bytes_per_s=3e10, description="again")
    assert Toolchain.of(probed_again, "1") == Toolchain.of(TARGET, "1")
    assert Toolchain.of(TARGET, "2") != Toolchain.of(TARGET, "1")
