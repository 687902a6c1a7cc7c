"""grpc.aio: an echo service, and a relay before it."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from benchmarks.callers.meter import METADATA, OPERATION
from benchmarks.lineup import Unavailable
from benchmarks.load.target import Target, json_of
from benchmarks.processes import module, server
from prism.contract.messages import ExecuteRequest
from prism.grpc import framing, protobuf

SERVICE = "prism.plugin.BackendPlugin"
METHOD = f"/{SERVICE}/Execute"
_HEADERS = (("content-type", "application/grpc"), ("te", "trailers"))


@contextmanager
def service() -> Iterator[Target]:
    """The echo service, which Prism takes for a plugin (``type: grpc``), too.

    Raises:
        Unavailable: grpcio is not installed.
    """
    if importlib.util.find_spec("grpc") is None or importlib.util.find_spec("grpc_tools") is None:
        raise Unavailable("not installed; pip install grpcio grpcio-tools")
    with server(module("sides.grpc_service", "127.0.0.1:0"), r"ready (\d+)") as (pid, port):
        yield target(f"http://127.0.0.1:{port}", [pid])


@contextmanager
def relay_to(service: Target) -> Iterator[Target]:
    """A relay to ``service``."""
    upstream = urlsplit(service.urls[0]).netloc
    command = module("sides.grpc_relay", "127.0.0.1:0", upstream)
    with server(command, r"ready (\d+)") as (pid, port):
        yield target(f"http://127.0.0.1:{port}", [pid], service.pids)


@contextmanager
def relay() -> Iterator[Target]:
    """A relay to an echo service."""
    with service() as behind, relay_to(behind) as target:
        yield target


def target(
    origin: str, pids: Sequence[int], peers: Sequence[int] = (), *, namespace: str = ""
) -> Target:
    """Execute at ``origin``, such as ``http://127.0.0.1:50051``."""
    headers = (*_HEADERS, ("prism-namespace", namespace)) if namespace else _HEADERS
    return Target(origin + METHOD, pids, peers, make_body=request, headers=headers)


def request(size: int) -> bytes:
    """The echo call as the body of a gRPC request; its params have ``size`` bytes."""
    message = ExecuteRequest(
        operation=OPERATION, params_json=json_of(size).decode(), metadata=METADATA
    )
    return framing.pack(protobuf.encode(message))
