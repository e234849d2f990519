"""What a report says of where a front was timed, if not on this machine: on a board, or nowhere."""

from __future__ import annotations

from hwsparse.latency import Estimate
from hwsparse.pipeline.outcome import Outcome


def place_notes(outcome: Outcome) -> tuple[str, ...]:
    """Sentences about another device; none where this machine is the device."""
    return (*_estimate_notes(outcome), *_board_note(outcome))


def _board_note(outcome: Outcome) -> tuple[str, ...]:
    """Where a board was timed: which, and what is not there."""
    if outcome.target.runner != "rpc" or isinstance(outcome.baselines.dense, Estimate):
        return ()
    device = outcome.baselines.dense.device
    return (
        f"Timed on a board, reached over the network: {device.cpu or device.machine}, CPUs {device.used} "
        f"({device.system}). There is no onnxruntime on it: speed is over the dense network of our own runtime. "
        "Quality was judged on this machine.",
    )


def _estimate_notes(outcome: Outcome) -> tuple[str, ...]:
    """Where there was no device: what times rest on, and what was not done."""
    dense = outcome.baselines.dense
    if not isinstance(dense, Estimate):
        return ()
    low, high = (end / dense.median_s for end in dense.interval_s)
    gains = ""
    if (winner := outcome.winner) is not None and isinstance(winner.latency, Estimate):
        slow, fast = (dense.median_s / end for end in reversed(winner.latency.beside_s))
        gains = f" What plans gain is known better: {winner.label} should be {slow:.2f} to {fast:.2f} times as fast."
    return (
        f"No network was timed: every latency is predicted, the sum of its prunable layers; what lies between them is "
        f"left out. The dense network may take {low:.2f} to {high:.2f} of what is told (90 %), and all others are off "
        f"alike.{gains}",
        "Finalists are compiled, and ran on no such device: their outputs were not checked there. Quality was judged "
        "on this machine. With --tracker, a board takes the estimates' place.",
    )
