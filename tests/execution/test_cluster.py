"""Clusters that cannot be used; none of this takes a cluster."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator

import pytest

from hwsparse.errors import ExecutionError
from hwsparse.execution import open_workers
from hwsparse.execution.cluster import RayWorkers
from hwsparse.execution.ray_worker import complaint, traits

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of somebody who takes calls and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExecutionError, match=r"not installed: pip install 'hwsparse\[ray\]'"):
        open_workers("auto")


@needs_ray
@pytest.mark.parametrize("address", ["nonsense", "host:", ":6379", "host:port", "", "ray://host"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ExecutionError, match=r"is no address; give HOST:PORT, ray://HOST:PORT, auto or local"):
        open_workers(address)


@needs_ray
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nobody_listens_it_is_said_at_once(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ExecutionError, match=r"cannot be used: nobody answers there \(Connection refused\)"):
        open_workers(f"{scheme}127.0.0.1:{port}")


@needs_ray
def test_who_says_nothing_is_not_waited_for(silent: str) -> None:
    with pytest.raises(ExecutionError, match=rf"the Ray cluster {silent} cannot be used: no answer within 5 s"):
        RayWorkers(silent, start_s=5.0)


@needs_ray
def test_auto_takes_the_address_of_the_environment_and_does_not_wait_for_it_either(
    monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", silent)
    with pytest.raises(ExecutionError, match="the Ray cluster auto cannot be used: no answer within 5 s"):
        RayWorkers("auto", start_s=5.0)


def test_hosts_that_are_alike_are_no_trouble() -> None:
    assert complaint("there", traits()) is None


@pytest.mark.parametrize("name", ["machine", "hwsparse", "apache-tvm", "numpy", "onnxruntime"])
def test_a_host_that_differs_is_named(name: str) -> None:
    text = complaint("there", {**traits(), name: "0.0.1"})
    assert text == f"host there has {name} 0.0.1, and this one {traits()[name]}; make them alike"


def test_a_host_without_us_is_named() -> None:
    text = complaint("there", "ModuleNotFoundError: No module named 'hwsparse'")
    assert text is not None and "No module named 'hwsparse'); install hwsparse there" in text
