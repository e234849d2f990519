"""An artifact in sentences: each figure is the manifest's, and what it does not hold is not said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwsparse.artifact import LatencyFigure, LayerProof, Manifest
from hwsparse.plan import Plan, parse_choice
from hwsparse.report.explain import explain, short_names
from tests.example_artifact import MODEL_DIGEST, example_manifest


def told(manifest: Manifest) -> str:
    return "\n".join(explain(manifest))


def with_layers(layers: dict[str, tuple[str, float | None, float | None]]) -> Manifest:
    """The example with other layers: the choice of each, its dense time and its own."""
    plan = Plan.of(MODEL_DIGEST, {name: parse_choice(choice) for name, (choice, _, _) in layers.items()})
    proofs = (LayerProof(name, choice, choice, "k", *times, None) for name, (choice, *times) in layers.items())
    return replace(example_manifest(), plan=plan, layers=tuple(proofs))


def test_speed_is_told_against_dense_and_onnxruntime() -> None:
    text = told(example_manifest())
    assert "An inference of magika takes 1.00 ms on x86-local, 2 threads." in text
    assert "2.00\u00d7 as fast as the same network as it was, compiled in the same way, which takes 2.00 ms." in text
    assert "5.00\u00d7 as fast as onnxruntime" in text
    assert "30 times each" in text
    assert "Times are known to 10.0% only" in text


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((-0.01, 0.02), "-1.0 pts (-2.0 pts to +1.0 pts): as far as these samples tell, nothing is lost"),
        ((0.005, 0.02), "-1.0 pts (-2.0 pts to -0.5 pts): a real loss"),
    ],
)
def test_a_loss_is_called_one_where_its_interval_says_so(interval: tuple[float, float], said: str) -> None:
    manifest = example_manifest()
    assert manifest.quality is not None
    text = told(replace(manifest, quality=replace(manifest.quality, drop_interval=interval)))
    assert said in text.replace("\u2212", "-")


def test_layers_are_told_by_what_they_became() -> None:
    text = told(
        with_layers(
            {
                "a": ("block4x1@0.9", None, None),
                "b": ("block4x1@0.5", None, None),
                "c": ("2:4x8/int8", None, None),
                "d": ("dense/int8", None, None),
                "e": ("channel@0.25", None, None),
                "f": ("unstructured@0.8/float16", None, None),
                "g": ("dense", None, None),
            }
        )
    )
    assert "Of its 7 prunable layers 6 were changed; 1 is as before." in text
    assert "2 layers have 50% to 90% of the weights removed, in blocks of 4 outputs by 1 input." in text
    assert (
        "1 layer has 50% of the weights removed, 2 of every 4 inputs, the same for 8 outputs, and computes in bytes"
        in text
    )
    assert "1 layer has all weights, and computes in bytes." in text
    assert "1 layer has 25% of the weights removed, whole channels at a time." in text
    assert "1 layer has 80% of the weights removed, each on its own, and computes in float16." in text
    assert "faster because" not in text  # no layer was timed


def test_layers_that_gain_most_are_named() -> None:
    times = {"w": (4e-3, 1e-3), "x": (2e-3, 1e-3), "y": (3e-3, 1e-3), "z": (1.5e-3, 1e-3)}
    text = told(with_layers({name: ("2:4", *each) for name, each in times.items()}))
    assert "layer by layer that saves 6.50 ms" in text
    assert "zeros are neither stored" in text and "fewer bits" not in text
    assert "w (4.00 ms to 1.00 ms), y (3.00 ms to 1.00 ms) and x (2.00 ms to 1.00 ms): 92% of it together" in text
    assert "z (" not in text


def test_what_does_not_ship_as_asked_is_told_by_its_reason() -> None:
    text = told(example_manifest())
    assert "1 layer does not ship as asked. t\u00eate: not faster than dense here." in text


def test_what_is_not_known_is_said_so() -> None:
    bare = replace(
        example_manifest(), latency=None, dense_latency=None, onnxruntime_latency=None, quality=None, dense_quality=None
    )
    text = told(bare)
    assert "was compiled for x86-local, 2 threads, and was not timed." in text
    assert "was not judged: no data were given." in text


def test_a_network_that_gains_nothing_is_to_be_left_alone() -> None:
    slow = LatencyFigure(0.002, (0.0019, 0.0021), "measured", 30)
    assert "deploy that one" in told(replace(example_manifest(), latency=slow))


def test_what_is_predicted_is_called_predicted() -> None:
    predicted = LatencyFigure(0.001, (0.0009, 0.0011), "predicted", 0)
    assert "These times are predicted" in told(replace(example_manifest(), latency=predicted))


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["/a/0/Conv", "/a/3/Conv", "/b/fc/Gemm"], ["0/Conv", "3/Conv", "fc/Gemm"]),
        (["conv", "fc"], ["conv", "fc"]),
        (["/a/x", "a/x"], ["/a/x", "a/x"]),
        ([], []),
    ],
)
def test_layers_are_told_apart_by_the_ends_of_their_names(names: list[str], short: list[str]) -> None:
    assert list(short_names(names).values()) == short
