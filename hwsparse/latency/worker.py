"""The process in which libraries are loaded, checked and timed, so that their crash is nobody else's.

Started by `hwsparse.latency.process`; reads one JSON request a line from standard input and writes one
answer a line. Whatever libraries print goes to standard error. Ends with its input, or with its parent.

Knows nothing of workloads or records, nor what is timed: any class with `load(directory, threads)`,
`check()` and `time(repeats, number)` will do.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from hwsparse.errors import HwsparseError, NoRoomError, one_line
from hwsparse.execution.child import end_with_parent
from hwsparse.execution.memory import held_memory

MIN_WARM_CALLS = 3
# Relative difference between one stretch of warming up and the next; how often longer than asked for it may take.
STEADY, MOST_WARMING = 0.03, 5
LEAST_SHARED_S = 1e-3


def main() -> int:
    """Answers requests until the input ends; the exit status is 0 then."""
    arguments = _arguments()
    end_with_parent(arguments.parent)
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = _claim_streams()
    try:
        if arguments.cpus:
            os.sched_setaffinity(0, arguments.cpus)
        module, _, name = arguments.loader.partition(":")
        loader = getattr(importlib.import_module(module), name)
        if arguments.options:
            loader = loader(**json.loads(arguments.options))
    except Exception as error:  # whatever an import raises
        said = one_line(error)
        on_purpose = isinstance(error, HwsparseError)
        _answer(answers, {"refused": said} if on_purpose else {"failed": f"{type(error).__name__}: {said}"})
        return 1
    _answer(answers, {"ready": True})
    libraries: dict[int, Any] = {}
    for line in requests:
        request = json.loads(line)
        try:
            reply = ACTIONS[request["do"]](libraries, request, loader, arguments.threads)
        except Exception as error:  # whatever a library raises
            reply = {"failed": f"{type(error).__name__}: {one_line(error)}", "full": isinstance(error, NoRoomError)}
        _answer(answers, {"id": request["id"], **reply})
    return 0


def _load(libraries: dict[int, Any], request: Mapping[str, Any], loader: Any, threads: int) -> dict[str, Any]:
    libraries[request["slot"]] = loader.load(Path(request["directory"]), threads)
    return {}


def _check(libraries: dict[int, Any], request: Mapping[str, Any], loader: Any, threads: int) -> dict[str, Any]:
    error = libraries[request["slot"]].check()
    return {"error": None if error is None else float(error)}


def _warm(libraries: dict[int, Any], request: Mapping[str, Any], loader: Any, threads: int) -> dict[str, Any]:
    """Runs until caches, clocks and thread pools are warm; answers with the seconds a call takes by then.

    That is when twice as many calls in a row take as long each as those before them did.
    """
    library, spent, before = libraries[request["slot"]], 0.0, math.inf
    number = MIN_WARM_CALLS
    while True:
        (each,) = library.time(1, number)
        if not each > 0:
            raise ValueError(f"a call took {each} seconds")
        spent, number = spent + each * number, number * 2
        steady = before < math.inf and abs(each - before) <= STEADY * before
        if spent >= request["seconds"] * (1 if steady else MOST_WARMING):
            return {"seconds": float(each)}
        before = each


def _time(libraries: dict[int, Any], request: Mapping[str, Any], loader: Any, threads: int) -> dict[str, Any]:
    library, cold = libraries[request["slot"]], {"cold": True} if request.get("cold") else {}
    began, worked = time.perf_counter(), time.thread_time()
    samples = library.time(request["repeats"], request["number"], **cold)
    worked, took = time.thread_time() - worked, time.perf_counter() - began
    # Clocks of threads are coarse.
    told = took > LEAST_SHARED_S and not getattr(library, "elsewhere", False)
    share = min(1.0, worked / took) if told else 1.0
    source = getattr(library, "source", "measured")
    return {"samples": [float(sample) for sample in samples], "share": share, "source": source}


def _describe(libraries: dict[int, Any], request: Mapping[str, Any], loader: Any, threads: int) -> dict[str, Any]:
    return {"presence": loader.describe()}


def _memory(libraries: dict[int, Any], request: Mapping[str, Any], loader: Any, threads: int) -> dict[str, Any]:
    """Bytes that whatever runs the libraries holds, and the most that it held since it was last asked."""
    held, most = getattr(loader, "held_memory", held_memory)()
    return {"held": held, "most": most}


def _answer_to(libraries: dict[int, Any], request: Mapping[str, Any], loader: Any, threads: int) -> dict[str, Any]:
    libraries[request["slot"]].answer(Path(request["inputs"]), Path(request["outputs"]))
    return {}


def _heat(libraries: dict[int, Any], request: Mapping[str, Any], loader: Any, threads: int) -> dict[str, Any]:
    return {"heat": loader.heat()}


def _clear(libraries: dict[int, Any], request: Mapping[str, Any], loader: Any, threads: int) -> dict[str, Any]:
    libraries.clear()
    return {}


Action = Callable[[dict[int, Any], Mapping[str, Any], Any, int], dict[str, Any]]
ACTIONS: dict[str, Action] = {
    "load": _load,
    "check": _check,
    "warm": _warm,
    "time": _time,
    "memory": _memory,
    "answer": _answer_to,
    "heat": _heat,
    "describe": _describe,
    "clear": _clear,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("loader", help="module:class of the library class")
    parser.add_argument("threads", type=int)
    parser.add_argument("parent", type=int, help="process to end with")
    parser.add_argument("cpus", type=int, nargs="*", help="to run on; none: any")
    parser.add_argument("--options", help="what the loader class is made with, as JSON; without them it loads itself")
    return parser.parse_args()


def _claim_streams() -> tuple[TextIO, TextIO]:
    """Takes standard input and output from the libraries: they read nothing and print to standard error."""
    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)
    os.dup2(2, 1)
    return requests, answers


def _answer(answers: TextIO, body: Mapping[str, Any]) -> None:
    answers.write(json.dumps(body) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
