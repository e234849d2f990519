from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor

from hwsparse.serve import v1
from hwsparse.serve.v1 import (
    artifacts_pb2,
    datasets_pb2,
    figures_pb2,
    models_pb2,
    operations_pb2,
    optimization_pb2,
    targets_pb2,
    uploads_pb2,
)

ROOT = Path(__file__).parents[2]
FILES: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR
    for module in (
        artifacts_pb2,
        datasets_pb2,
        figures_pb2,
        models_pb2,
        operations_pb2,
        optimization_pb2,
        targets_pb2,
        uploads_pb2,
    )
)


def test_the_generated_code_is_that_of_the_protos(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "protos" / "generate.py"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    committed = Path(v1.__file__).parent
    names = {path.name for path in committed.glob("*.py*")}
    assert names == {path.name for path in tmp_path.iterdir()}
    for name in names:
        assert (committed / name).read_text() == (tmp_path / name).read_text(), (
            f"{name} is not what the protos give: run python protos/generate.py"
        )


def test_every_proto_is_looked_at_here() -> None:
    sources = {f"hwsparse/v1/{path.name}" for path in (ROOT / "protos" / "hwsparse" / "v1").glob("*.proto")}
    assert sources == {file.name for file in FILES}


def test_enums_begin_with_an_unspecified_zero_and_prefix_their_values() -> None:
    for file in FILES:
        for enum in file.enum_types_by_name.values():
            prefix = "".join(f"_{c}" if c.isupper() else c for c in enum.name).upper().lstrip("_") + "_"
            assert enum.values_by_number[0].name == f"{prefix}UNSPECIFIED"
            assert all(value.name.startswith(prefix) for value in enum.values)


def test_services_and_their_messages_are_named_by_the_standard() -> None:
    used = []
    for file in FILES:
        assert file.package == "hwsparse.v1"
        for service in file.services_by_name.values():
            assert service.name.endswith("Service")
            for method in service.methods:
                assert method.input_type.name == f"{method.name}Request"
                assert method.output_type.name == f"{method.name}Response"
                used += [method.input_type.name, method.output_type.name]
    assert len(used) == len(set(used))
