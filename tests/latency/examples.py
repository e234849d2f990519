"""A target, layers, measurements and clocks for the tests of latency, and strategies that make more."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import strategies as st

from hwsparse.latency import Device, Measurement, RunSettings, Toolchain, Workload
from hwsparse.pattern import NM, Block, Channel, Unstructured
from hwsparse.plan import Choice, Layer, Window
from hwsparse.target import Target

TARGET = Target(
    name="test-cpu",
    kind="cpu",
    description="not a machine",
    tvm_target='{"kind": "llvm"}',
    runner="local",
    supported=(("dense", "float32"),),
    threads=1,
    cores=1,
    memory_bytes=1 << 30,
    peak_flops=1e11,
    bandwidth_bytes_per_s=1e10,
    vector_bits=256,
    vector_registers=16,
    l1d_bytes=32 << 10,
    l2_bytes=1 << 20,
)
DEVICE = Device(
    "x86_64", "Test CPU 1", 2, "0123456789abcdef", ("L1 Data 32K", "L2 Unified 1024K"), "performance", "Linux 6.1"
)
TOOLCHAIN = Toolchain.of(TARGET, "1")
SETTINGS = RunSettings(threads=1, warmup_s=0.0)
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


class Clock:
    """A minute passes with every look at it."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


def matmul(name: str = "fc", outputs: int = 8, inputs: int = 16) -> Layer:
    return Layer(name, "MatMul", f"{name}.w", (outputs, inputs), (1, inputs), (1, outputs), outputs * inputs)


def conv(name: str = "conv", outputs: int = 8) -> Layer:
    window = Window((1, 1), ((1, 1), (1, 1)), (1, 1))
    return Layer(name, "Conv", f"{name}.w", (outputs, 4, 3, 3), (1, 4, 6, 6), (1, outputs, 6, 6), 1, window)


def measurement(workload: Workload, *samples_s: float, **changed: object) -> Measurement:
    """Of six samples at least: the given ones, over and over."""
    repeated = (samples_s * 6)[: max(6, len(samples_s))]
    fields = {"settings": SETTINGS, "device": DEVICE, "toolchain": TOOLCHAIN, "taken_at": NOON, "source": "measured"}
    return Measurement(key=workload.key, samples_s=repeated, **(fields | changed))  # type: ignore[arg-type]


texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=" "), max_size=20)
seconds = st.floats(min_value=1e-12, max_value=1e6)
caches = st.lists(texts, max_size=4).map(tuple)
devices = st.builds(Device, texts, texts, st.integers(1, 4096), texts, caches, texts, texts, texts)
toolchains = st.builds(Toolchain, texts, texts, texts)
settings = st.builds(
    RunSettings,
    threads=st.integers(1, 256),
    samples=st.integers(6, 1000),
    rounds=st.integers(1, 50),
    precision=st.none() | st.floats(1e-3, 0.9),
    stretch=st.integers(1, 10),
    cache=st.sampled_from(["warm", "cold"]),
    warmup_s=st.floats(0, 100),
    min_sample_s=st.floats(0, 1),
    timeout_s=st.floats(1e-3, 1e4),
    tolerance=st.floats(0, 1),
)
choices = st.one_of(
    st.just(Choice()),
    st.sampled_from([Choice(NM(2, 4), 0.5), Choice(NM(1, 4, 8), 0.75)]),
    st.builds(
        Choice,
        st.sampled_from([Unstructured(), Block(4), Block(2, 3), Channel(), Channel(16)]),
        st.floats(0, 1),
    ),
)
workloads = st.builds(
    Workload, st.sampled_from([matmul().signature, conv().signature]), choices, texts, st.integers(1, 64)
)
measurements = st.builds(
    Measurement,
    key=texts,
    samples_s=st.lists(seconds, min_size=6, max_size=40).map(tuple),
    source=st.sampled_from(["measured", "simulated"]),
    settings=settings,
    device=devices,
    toolchain=toolchains,
    taken_at=st.datetimes(timezones=st.just(timezone.utc)),
    kernel=st.none() | texts,
    reference_s=st.none() | seconds,
    cpu_share=st.floats(0, 1),
    imported=st.booleans(),
)
