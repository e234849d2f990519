from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.accelerator import Accelerator
from hwsparse.artifact import LatencyFigure, QualityFigure
from hwsparse.core import Core
from hwsparse.errors import HwsparseError, InputError
from hwsparse.plan import Plan, parse_choice
from hwsparse.serve import wire
from hwsparse.serve.operation import (
    Budget,
    FrontPoint,
    JobError,
    Operation,
    OperationState,
    Progress,
)
from hwsparse.serve.uploads import Announcement
from hwsparse.serve.v1 import (
    artifacts_pb2,
    models_pb2,
    operations_pb2,
    optimization_pb2,
    targets_pb2,
    uploads_pb2,
)
from hwsparse.target import load_target
from tests.example_artifact import example_manifest
from tests.serve.conftest import TARGETS

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
seconds = st.floats(0, 1e6)
counts = st.integers(0, 2**32 - 1)
latencies = st.builds(
    lambda t, source, n: LatencyFigure(t, (t / 2, t * 2), source, n + (source == "measured")),
    seconds,
    st.sampled_from(["measured", "simulated", "predicted"]),
    st.integers(0, 1000),
)
qualities = st.builds(
    lambda m, v, lost, n, d, s: QualityFigure(m, v, (v - 1, v + 1), lost, (lost - 0.1, lost + 0.2), n, d, s),
    text,
    st.floats(-1, 1),
    st.floats(-1, 1),
    st.integers(1, 1000),
    text,
    text,
)
plans = st.dictionaries(text, st.sampled_from(["2:4", "block8x1@0.75", "channel@0.5"]), max_size=3).map(
    lambda choices: Plan.of("m", {name: parse_choice(choice) for name, choice in choices.items()})
)
points = st.builds(
    FrontPoint,
    st.sampled_from(["dense", "uniform", "search"]),
    latencies,
    st.none() | qualities,
    plans,
    st.none() | st.just("d" * 64),
)
progresses = st.builds(Progress, text, st.floats(0, 1), text, counts, counts, st.lists(points, max_size=3).map(tuple))
times = st.integers(0, 10**9).map(lambda n: n / 4)  # exact in binary
operations = st.builds(
    Operation,
    text,
    st.sampled_from(["optimize", "compile"]),
    st.sampled_from([state for state in OperationState if state is not OperationState.SUCCEEDED]),
    text,
    text,
    text,
    times,
    st.none() | times,
    st.none() | times,
    progresses,
    st.none() | st.builds(JobError, text, text),
)


@given(operations)
def test_operations_survive_the_wire(operation: Operation) -> None:
    message = operations_pb2.Operation.FromString(wire.to_operation(operation).SerializeToString())
    assert wire.from_operation(message) == operation
    assert message.done == operation.state.done


def test_a_succeeded_operation_has_a_response_even_without_artifacts() -> None:
    for artifacts in ((), ("a" * 64, "b" * 64)):
        operation = Operation(
            "n", "compile", OperationState.SUCCEEDED, "t", "m", "", 1.0, 2.0, 3.0, artifacts=artifacts
        )
        message = wire.to_operation(operation)
        assert message.WhichOneof("result") == "response"
        assert wire.from_operation(message) == operation


@pytest.mark.parametrize("target", [*TARGETS, load_target("arm-cortex-a76"), load_target("fpga-sim")])
def test_targets_survive_the_wire(target: object) -> None:
    assert wire.from_target(wire.to_target(target)) == target  # type: ignore[arg-type]


def test_every_field_of_a_target_is_on_the_wire() -> None:
    names = {field.name for field in targets_pb2.Target.DESCRIPTOR.fields}
    assert names == set(type(TARGETS[0]).__dataclass_fields__)
    assert {field.name for field in targets_pb2.Core.DESCRIPTOR.fields} == set(Core.__dataclass_fields__)
    named = {field.name for field in targets_pb2.Accelerator.DESCRIPTOR.fields}
    assert named == set(Accelerator.__dataclass_fields__)


@given(
    st.builds(
        Budget,
        st.integers(1, 1000),
        st.none() | st.floats(1e-9, 10),
        st.none() | st.floats(-1, 1),
        st.none() | st.floats(0, 1),
    )
)
def test_budgets_survive_the_wire(budget: Budget) -> None:
    message = optimization_pb2.Budget.FromString(wire.to_budget(budget).SerializeToString())
    assert wire.from_budget(message) == budget


def test_shapes_survive_the_wire() -> None:
    shapes = {"b": (1, 2), "a": (3,)}
    assert dict(wire.from_shapes(wire.to_shapes(shapes))) == shapes


def test_summaries_survive_the_wire() -> None:
    manifest = example_manifest()
    summary = wire.from_summary(wire.to_summary(manifest))
    assert summary.digest == manifest.digest
    assert (summary.latency, summary.dense_latency) == (manifest.latency, manifest.dense_latency)
    assert summary.quality == manifest.quality


def part(**fields: object) -> models_pb2.UploadModelRequest:
    return models_pb2.UploadModelRequest(**fields)  # type: ignore[arg-type]


def test_an_upload_is_a_header_and_chunks() -> None:
    announced = Announcement("net", "a" * 64, 5)
    header = part(header=wire.to_header(announced))
    found, chunks = wire.from_upload(iter([header, part(chunk=b"ab"), part(chunk=b"cde")]))
    assert (found, list(chunks)) == (announced, [b"ab", b"cde"])
    for parts in ([], [part(chunk=b"ab")], [part()]):
        with pytest.raises(InputError, match="begins with a header"):
            wire.from_upload(iter(parts))
    for wrong in (header, part()):
        _, chunks = wire.from_upload(iter([header, wrong]))
        with pytest.raises(InputError, match="chunks after its header"):
            list(chunks)
    with pytest.raises(InputError, match="is no file name"):
        wire.from_upload(iter([part(header=uploads_pb2.UploadHeader(name="../x"))]))


@given(st.binary(max_size=200))
def test_no_message_breaks_the_readers(content: bytes) -> None:
    for kind, read, write in (
        (operations_pb2.Operation, wire.from_operation, wire.to_operation),
        (targets_pb2.Target, wire.from_target, wire.to_target),
        (optimization_pb2.Budget, wire.from_budget, wire.to_budget),
    ):
        try:
            found = read(kind.FromString(content))  # type: ignore[operator]
        except (DecodeError, HwsparseError):
            continue
        assert read(write(found)) == found  # type: ignore[operator]


@given(st.binary(max_size=200))
def test_no_summary_breaks_its_reader(content: bytes) -> None:
    try:
        message = artifacts_pb2.ArtifactSummary.FromString(content)
        found = wire.from_summary(message)
    except (DecodeError, HwsparseError):
        return
    assert (found.digest, found.target) == (message.digest, message.target)
