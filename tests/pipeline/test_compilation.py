"""That one job at a time writes to a directory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hwsparse.data import Dataset
from hwsparse.errors import StorageError
from hwsparse.model import import_torch
from hwsparse.pipeline import Goal, compile_plan, optimize
from hwsparse.pipeline.compilation import Workspace
from hwsparse.pipeline.recovery import recover
from hwsparse.plan import Plan, parse_choice
from hwsparse.target import load_target
from hwsparse.tuning import TuningSettings
from tests.sparsify.test_quality import classifier
from tests.tuning.modules import pictures, wide

TARGET = load_target("x86-avx2")
MODEL = classifier()
PLAN = Plan.of(MODEL.digest, {"head": parse_choice("unstructured@0.9")})
HERE = replace(load_target("x86-local"), threads=1)


HOLDER = """
import sys
from pathlib import Path
from hwsparse.pipeline import Workspace

with Workspace(Path(sys.argv[1]), Path("nowhere")).taken():
    print("taken", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace that another process has taken."""
    directory = tmp_path_factory.mktemp("held")
    workspace = Workspace(directory / "out", directory / "records.sqlite")
    command = [sys.executable, "-c", HOLDER, str(workspace.directory)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None and process.stdout.readline() == "taken\n"
        yield workspace
        process.communicate("done\n")


def search(workspace: Workspace) -> None:
    x = np.random.default_rng(1).standard_normal((40, 16, 12, 12)).astype(np.float32)
    optimize(MODEL, Dataset("own", {"x": x}, np.arange(40) % 2), HERE, Goal(), workspace)


def compile_one(workspace: Workspace) -> None:
    compile_plan(MODEL, PLAN, HERE, workspace)


def train(workspace: Workspace) -> None:
    module = wide()
    model = import_torch(module, (torch.zeros(1, 4, 8, 8),), name="wide")
    plan = Plan.of(model.digest, {"second": parse_choice("block4x1@0.9")})
    recover(module, model, plan, pictures(60, 1), HERE, TuningSettings(), workspace, training=pictures(40, 2))


@pytest.mark.parametrize("job", [search, compile_one, train])
def test_a_directory_that_another_process_writes_to_is_refused(
    job: Callable[[Workspace], None], held: Workspace
) -> None:
    with pytest.raises(StorageError, match=r"out: another job is writing there; wait for it or choose another output"):
        job(held)
    assert [path.name for path in held.directory.iterdir()] == ["job.lock"]
    assert not held.records.exists()
