"""A made-up model whose latency and quality are simple formulas, for searches that take milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.search import Offer, SearchSpace, build_space
from hwsparse.search.database import StudyIdentity

MODEL = "ab" * 32
TEXTS = ("block4x1@0.5", "block4x1@0.7", "block4x1@0.9", "unstructured@0.8", "2:4")
IDENTITY = StudyIdentity(
    MODEL, dataset_digest="cd" * 32, target="toy", device="aa" * 32, threads=1, pruner="magnitude", asked=TEXTS
)
SENSITIVITY = (2.0, 0.2, 0.5, 1.5)  # of the quality to a layer's error, which no surrogate knows


@dataclass(frozen=True)
class ToyLatency:
    latency_s: float
    interval_s: tuple[float, float]
    source: str = "predicted"


@dataclass(frozen=True)
class ToyQuality:
    value: float
    interval: tuple[float, float]
    drop_error: float


def offer(text: str, latency_s: float = 1.0, error: float = 0.0, noise: float = 0.0) -> Offer:
    """What is known of a choice, its interval `noise` seconds to either side."""
    return Offer(parse_choice(text), latency_s, (latency_s - noise, latency_s + noise), error)


def toy_space(layers: int = 4, *, uniform: tuple[str, ...] = ("block4x1@0.5", "block4x1@0.9")) -> SearchSpace:
    """Layers of growing cost; the last has nothing that pays."""
    offers = {}
    for index in range(layers):
        scale = 1e-3 * (index + 1)
        offers[f"conv{index}"] = [offer("dense", scale)]
        offers[f"conv{index}"] += [
            offer(text, scale * (1 - 0.9 * parse_choice(text).ratio), harm(index, parse_choice(text))) for text in TEXTS
        ]
    offers["head"] = [offer("dense", 1e-4), offer("2:4", 2e-4, 0.1)]
    return build_space(MODEL, offers, uniform=map(parse_choice, uniform))


def harm(index: int, choice: Choice) -> float:
    grain = {"block4x1": 0.3, "unstructured": 0.1, "2:4": 0.2, "dense": 0.0}[str(choice.pattern)]
    return grain * choice.ratio**2 * (1 + index % 3)


def latency_s(plan: Plan, layers: int = 4) -> float:
    body = sum(1e-3 * (i + 1) * (1 - 0.9 * plan.choice(f"conv{i}").ratio) for i in range(layers))
    return body + 1e-4


def predict(plan: Plan) -> ToyLatency:
    value = latency_s(plan)
    return ToyLatency(value, (value * 0.95, value * 1.05))


def evaluate(plan: Plan) -> ToyQuality:
    value = 0.95 - sum(SENSITIVITY[i] * harm(i, plan.choice(f"conv{i}")) for i in range(4)) / 4
    return ToyQuality(value, (value - 0.01, value + 0.01), (0.95 - value) / 10)
