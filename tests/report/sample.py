"""A report as a search of a small network might end: 80 trials, finalists measured beside their baselines."""

from __future__ import annotations

import random

from hwsparse.artifact import LayerProof
from hwsparse.plan import Plan, parse_choice
from hwsparse.report.comparison import Budget, Ceiling, Comparison, Method
from hwsparse.report.front import ArtifactPlace, FrontPoint, FrontReport

MODEL = "ab" * 32
LAYERS = ("/embed/Conv", "/body/Conv_1", "/body/Conv_2", "/head/Gemm")
DENSE_MACS, DENSE_PARAMETERS = 366_717_952, 784_342
NOTHING = Method("as it was trained", "never", "dense")
PRUNED = Method("ALPS, regrouped, corrected", "after", "dense-to-sparse")
NARROWED = Method("61 % of the channels, fitted", "after", "dense-to-sparse")
BUDGET = Budget(128)
CHOICES = ("dense", "block4x1@0.5", "block4x1@0.7", "block4x1@0.9", "unstructured@0.8", "2:4")


def make_plan(*texts: str) -> Plan:
    return Plan.of(MODEL, {name: parse_choice(text) for name, text in zip(LAYERS, texts, strict=False)})


def point(label: str, kind: str, ms: float, quality: float, source: str = "measured", **more: object) -> FrontPoint:
    spread, doubt = (0.03, 0.008) if source == "measured" else (0.08, 0.011)
    return FrontPoint(
        label=label,
        kind=kind,
        latency_s=ms / 1e3,
        latency_interval_s=(ms * (1 - spread / 2) / 1e3, ms * (1 + spread) / 1e3),
        latency_source=source,
        quality=quality,
        quality_interval=(quality - doubt, min(1.0, quality + doubt)),
        **{**fair(kind, ms), "split": "held-out" if source == "measured" else "calibration", **more},
    )


def fair(kind: str, ms: float) -> dict[str, object]:
    """What a point of that kind says of itself beside latency and quality; sizes are made up from the latency."""
    if kind in ("dense", "external"):
        return {"macs": DENSE_MACS, "parameters": DENSE_PARAMETERS, "method": NOTHING, "budget": Budget(0)}
    share = min(1.0, ms / 4.9)
    return {
        "drop_interval": (-0.004, 0.008),
        "macs": round(share * DENSE_MACS),
        "parameters": round(share * DENSE_PARAMETERS),
        "method": NARROWED if kind == "small-dense" else PRUNED,
        "budget": BUDGET,
    }


def place(digit: str) -> ArtifactPlace:
    return ArtifactPlace(digit * 64, f"artifacts/{digit * 16}")


def quality_at(speedup: float, generator: random.Random) -> float:
    """Flat, then falling off a cliff, as pruning in one shot goes."""
    return 0.968 - 0.006 * (speedup - 1) - 0.012 * max(0, speedup - 2.1) ** 3 + generator.gauss(0, 0.0025)


def sample_report(trials: int = 80, *, measured: bool = True) -> FrontReport:
    generator = random.Random(7)
    points = [point("dense", "dense", 4.9, 0.968, "predicted", plan=make_plan())]
    for number in range(1, trials):
        speedup = generator.uniform(1.0, 4.6)
        loss = abs(generator.gauss(0, 0.02)) * speedup
        plan = make_plan(*generator.choices(CHOICES, k=4))
        quality = max(0.3, quality_at(speedup, generator) - loss)
        points.append(point(f"trial {number}", "search", 4.9 / speedup, quality, "predicted", plan=plan))
    for text, ms, quality in (("block4x1@0.5", 3.0, 0.952), ("block4x1@0.7", 2.2, 0.921), ("block4x1@0.9", 1.4, 0.74)):
        plan = make_plan(*[text] * 4)
        points.append(point(f"uniform {text}", "uniform", ms, quality, "predicted", plan=plan))
    layers = (
        LayerProof("/embed/Conv", "dense", "dense", "conv1d_8x3", 0.41e-3, None, None),
        LayerProof("/body/Conv_1", "block4x1@0.9", "block4x1@0.9", "shared_index_r4_v6", 2.9e-3, 0.62e-3, None),
        LayerProof("/body/Conv_2", "2:4", "dense", "conv1d_8x3", 0.6e-3, 0.63e-3, "not faster: 0.63 ms, dense 0.6 ms"),
        LayerProof("/head/Gemm", "unstructured@0.8", "unstructured@0.8", "rows_v4", 0.21e-3, 0.11e-3, None),
    )
    if measured:
        points += [
            point("onnxruntime", "external", 5.0, 0.968),
            point("dense", "dense", 4.81, 0.968, plan=make_plan()),
            point("small dense", "small-dense", 2.13, 0.941),
            point("uniform block4x1@0.5", "uniform", 3.06, 0.953, plan=make_plan(*["block4x1@0.5"] * 4)),
            point("uniform block4x1@0.7", "uniform", 2.24, 0.924, plan=make_plan(*["block4x1@0.7"] * 4)),
        ]  # fmt: skip
        finalists = (
            (3.4, 0.9695, ("dense", "block4x1@0.5")),
            (2.62, 0.966, ("dense", "block4x1@0.7", "2:4", "2:4")),
            (2.08, 0.962, ("dense", "block4x1@0.9", "2:4", "2:4")),
            (1.72, 0.943, ("2:4", "block4x1@0.9", "2:4", "unstructured@0.8")),
        )
        for number, (ms, quality, texts) in enumerate(finalists, 1):
            artifact, plan = place(str(number)), make_plan(*texts)
            points.append(point(f"search {number}", "search", ms, quality, plan=plan, artifact=artifact))
    return FrontReport(
        title="Magika on x86-local",
        model="Magika standard v3.3",
        device="x86-64, AVX-512, 2 threads",
        dataset="files, 420 held out",
        metric="top1",
        points=tuple(points),
        winner="search 3" if measured else None,
        layers=layers if measured else (),
        comparison=Comparison(MODEL, (0, 1, 2), Ceiling("search 3", 0.965, (0.957, 0.973)) if measured else None),
        notes=("Trials are predicted; finalists and baselines were timed end to end in one run.",),
    )
