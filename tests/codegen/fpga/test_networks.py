"""Whole networks on the accelerator, held to the host's own kernels of the same bytes."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest

from hwsparse.codegen import build_model, random_inputs
from hwsparse.probe import cpu_flags
from hwsparse.target import load_target
from tests.codegen.test_int8_networks import in_bytes
from tests.codegen.test_networks import convolutional, transformer


@pytest.mark.parametrize("make", [convolutional, transformer], ids=lambda make: make.__name__)
@pytest.mark.parametrize(("batch", "text"), [(2, "unstructured@0.7"), (1, "2:4")])
def test_a_network_answers_as_by_the_hosts_kernels(make, batch: int, text: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """What is summed is exact in both: answers differ by how floats are rounded, if at all."""
    host = load_target("x86-avx2")
    if missing := set(host.isa) - cpu_flags():
        pytest.skip(f"this machine has no {', '.join(missing)}")
    drawn = (make(batch, seed) for seed in count(batch))
    model = next(each for each in drawn if len(in_bytes(each, text)[0].choices) >= 4)
    plan, weights = in_bytes(model, text)
    inputs, answers = random_inputs(model.inputs, 7), {}
    for target in (host, load_target("fpga-sim")):
        (directory := tmp_path / target.name).mkdir()
        library = build_model(model, plan, weights, target, directory)
        assert ("array" in library.kernels.values()) == (target is not host)
        answers[target.name] = library.run(inputs)
    for name, value in answers["x86-avx2"].items():
        assert np.abs(answers["fpga-sim"][name] - value).max() <= 1e-5 * np.abs(value).max()
