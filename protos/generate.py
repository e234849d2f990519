"""Writes the Python code of the protocol: `python protos/generate.py [DIRECTORY]`.

protoc names Python modules after the .proto files' paths, which follow the package `hwsparse.v1`, as they
should. The Python package is `hwsparse.serve.v1`, so that only the service's code can come by these types:
the imports in what protoc writes are set to that.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
PACKAGE = PROTOS.parent / "hwsparse" / "serve" / "v1"
HEADER = '"""Generated from protos/hwsparse/v1 by protos/generate.py; do not edit."""\n'


def generate(directory: Path) -> None:
    """Writes one module per .proto file, with type stubs, into `directory`."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("hwsparse/v1/*.proto"))
    includes = [f"-I{PROTOS}", f"-I{Path(protoc.__file__).parent / '_proto'}"]
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [f"--{kind}_out={scratch}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        # mypy-protobuf is found beside this interpreter, also where its environment is not activated.
        beside = Path(sys.executable).parent
        plugins = [f"--plugin={name}={beside / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
        if protoc.main(["protoc", *includes, *plugins, *outputs, *sources]) != 0:
            raise SystemExit("protoc refused the .proto files; see above")
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob("*_pb2*.py*"):
            old.unlink()
        for path in sorted(Path(scratch, "hwsparse", "v1").iterdir()):
            text = path.read_text()
            if "_pb2_grpc" not in path.name or "Stub" in text:  # not every .proto has a service
                (directory / path.name).write_text(in_package(text))
        (directory / "__init__.py").write_text(HEADER)


def in_package(text: str) -> str:
    """`text` with the modules' names changed, and those of the protocol left as they are."""
    return re.sub(r"\bhwsparse\.v1(?= import |\.\w+_pb2')", "hwsparse.serve.v1", text)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
