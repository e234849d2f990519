"""A worker for tests: does what the request's model name says, with the job files and store of the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hwsparse.artifact import LatencyFigure, QualityFigure
from hwsparse.errors import ModelError
from hwsparse.plan import Plan, parse_choice
from hwsparse.serve.jobfiles import (
    WORK,
    ProgressWriter,
    end_with_server,
    read_request,
    write_error,
    write_report,
    write_result,
)
from hwsparse.serve.operation import FrontPoint, JobResult
from hwsparse.store import ArtifactStore
from tests.example_artifact import MODEL_DIGEST, example_artifact
from tests.report.sample import sample_report

REPORT = sample_report(3)


def front(count: int) -> tuple[FrontPoint, ...]:
    return tuple(
        FrontPoint(
            "search",
            LatencyFigure(0.001 / n, (0.0005 / n, 0.002 / n), "predicted", 0),
            QualityFigure("top1", 0.9 / n, (0.8 / n, 1.0), 0.01 * n, (0.0, 0.1), 10, "files", "held-out"),
            Plan.of(MODEL_DIGEST, {"conv": parse_choice(f"block4x1@{1 - 0.5 / n:g}")}),
        )
        for n in range(1, count + 1)
    )


def wait_for_ever(progress: ProgressWriter) -> None:
    progress.report("waiting", 0.5, "until killed", front=front(1))
    while True:
        time.sleep(60)


def main(directory: Path) -> None:
    request = read_request(directory)
    progress = ProgressWriter(directory)
    what = request.model_name
    (directory / WORK).mkdir()
    progress.report("begin", 0.0)
    if request.kind == "optimize":
        write_report(directory, REPORT.text)
    if what == "wait":
        end_with_server()
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (directory / "pids").write_text(f"{os.getpid()} {child.pid}")
        wait_for_ever(progress)
    elif what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        wait_for_ever(progress)
    elif what == "refuse":
        try:
            raise ModelError("node 'x': an operator\nthat nobody knows")
        except ModelError as error:
            write_error(directory, error)
            sys.exit(2)
    elif what == "bug":
        try:
            raise KeyError("secret detail")
        except KeyError as error:
            write_error(directory, error)
            raise
    elif what == "silent":
        sys.exit(3)
    elif what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "garbage":
        with open(directory / "progress.jsonl", "a") as file:
            file.write("{}\n")
        time.sleep(600)
    elif what == "unreadable":
        (directory / "progress.jsonl").unlink()
        (directory / "progress.jsonl").mkdir()
        time.sleep(600)
    elif what == "liar":
        write_result(directory, JobResult(("0" * 64,)))
    elif what == "late-crash":
        write_result(directory, JobResult(()))
        os.kill(os.getpid(), signal.SIGSEGV)
    else:
        for done in range(1, 4):
            progress.report("search", done / 4, trials_done=done, trials_total=3, front=front(done))
        artifact = example_artifact(directory / "artifact", request.model_name)
        digest = ArtifactStore(request.store).put(artifact)
        progress.report("done", 1)
        write_result(directory, JobResult((digest,), front(3)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
