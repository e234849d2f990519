"""What a measurement is of: a layer's shape, how sparse it is, and where it runs.

Knows no layer by name: layers of one signature cost the same and are measured once.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwsparse.errors import MeasureError
from hwsparse.plan import Choice, Layer, Window, parse_choice
from hwsparse.target import Target

# A small dense layer that is timed beside all others: what slows it down is the clock, not the caches.
REFERENCE = Layer(
    name="reference",
    op="Conv",
    weight="reference.weight",
    weight_shape=(64, 64, 1, 1),
    input_shape=(1, 64, 28, 28),
    output_shape=(1, 64, 28, 28),
    macs=64 * 64 * 28 * 28,
    window=Window((1, 1), ((0, 0), (0, 0)), (1, 1)),
)


Curve = tuple[str, str, str]  # layer signature, pattern, dtype


def curve_of(signature: str, choice: Choice) -> Curve:
    """What a layer's choices of one pattern have in common; ratios are its points."""
    return signature, str(choice.pattern), choice.dtype


@dataclass(frozen=True, slots=True)
class Workload:
    """A layer signature under a choice on a target; equal workloads have equal keys, and only they.

    The choice's ratio is the one its text form gives, so that a ratio computed as 0.1 * 9 and one read
    back as 0.9 are one workload.
    """

    signature: str
    choice: Choice
    target_name: str
    threads: int

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise MeasureError(f"{self.signature}: threads is {self.threads}; at least 1 is needed")
        object.__setattr__(self, "choice", parse_choice(str(self.choice)))

    @classmethod
    def of(cls, layer: Layer, choice: Choice, target: Target) -> Workload:
        """The workload of a layer under a choice, with the threads that the target runs with."""
        return cls(layer.signature, choice, target.name, target.threads)

    @property
    def key(self) -> str:
        """Identifies the workload in records and reports."""
        return f"{self.signature} | {self.choice} | {self.target_name} | {self.threads}"

    @property
    def curve(self) -> Curve:
        """What it has in common with the same layer at other ratios."""
        return curve_of(self.signature, self.choice)
