"""What DeepSparse is given, by an engine that is onnxruntime's and keeps account."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.networks import NETWORKS
from benchmarks.peers.case import write_case
from hwsparse.compiler import onnxruntime_answers
from tests.sparsify.networks import classifier


class Engine:
    """The part of DeepSparse's engine that a peer uses."""

    fraction_of_supported_ops = 0.9

    def __init__(self, path: str, batch_size: int, num_cores: int) -> None:
        self.asked = (batch_size, num_cores)
        self.proto = onnx.load(path)
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(self, inputs: Sequence[np.ndarray], val_inp: bool) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(
            None, {item.name: value for item, value in zip(self._session.get_inputs(), inputs, strict=True)}
        )
        return outputs


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the peers, where the package deepsparse is the stub."""
    name = "benchmarks.peers.deepsparse"
    stub = ModuleType("deepsparse")
    monkeypatch.setattr(stub, "Engine", Engine, raising=False)
    monkeypatch.setitem(sys.modules, "deepsparse", stub)
    monkeypatch.setenv("NM_DISABLE_ANALYTICS", "")
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


@pytest.fixture
def case(tmp_path: Path) -> Path:
    model = classifier()
    inputs, *calibration = (NETWORKS["resnet50"].draw(model, seed) for seed in range(5))
    write_case(tmp_path, model.proto, inputs, onnxruntime_answers(model, {}, inputs), calibration)
    return tmp_path


def test_the_float_network_is_given_in_an_older_opset(peers: ModuleType, case: Path) -> None:
    peer = peers.DeepSparse.load(case, 2)
    batch = len(next(iter(peer.inputs.values())))
    assert peer._engine.asked == (batch, 2) and peer._engine.proto.opset_import[0].version == 13
    assert peer.check() <= 1e-5


def test_int8_is_given_in_the_form_that_the_engine_has_kernels_for(peers: ModuleType, case: Path) -> None:
    peer = peers.Int8.load(case, 1)
    kinds = {node.op_type for node in peer._engine.proto.graph.node}
    assert {"QuantizeLinear", "ConvInteger"} <= kinds and "Conv" not in kinds
    assert 1e-5 < peer.check() <= 0.2


def test_an_engine_that_is_mostly_onnxruntime_is_refused(
    peers: ModuleType, case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "fraction_of_supported_ops", 0.1)
    with pytest.raises(RuntimeError, match="kernels for 10% of this network, onnxruntime runs the rest"):
        peers.Int8.load(case, 1)
