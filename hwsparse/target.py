from __future__ import annotations
from dataclasses import dataclass
@dataclass(frozen=True, slots=True)
class Target:
    name: str
    kind: str
    description: str
    tvm_target: str
    runner: str
    supported: tuple[tuple[str, str], ...]
    threads: int
    cores: int
    memory_bytes: int
    peak_flops: float
    bandwidth_bytes_per_s: float
    vector_bits: int = 0
    vector_registers: int = 0
    l1d_bytes: int = 0
    l2_bytes: int = 0
    isa: tuple[str, ...] = ()
