"""Granian: HTTP in Rust, applications in Python on asyncio. One worker, one thread for HTTP."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.lineup import Unavailable
from benchmarks.load.target import Target
from benchmarks.processes import children, quiet_server


@contextmanager
def granian() -> Iterator[Target]:
    """A running Granian with the constant application.

    Raises:
        Unavailable: it is not installed.
    """
    if importlib.util.find_spec("granian") is None:
        raise Unavailable("not installed; pip install granian")
    command = [
        *(sys.executable, "-m", "granian", "--interface", "asgi", "--http", "auto"),
        *("--workers", "1", "--runtime-threads", "1", "benchmarks.sides.constant_app:app"),
    ]
    with quiet_server(lambda port: [*command, "--port", str(port)]) as (pid, port):
        yield Target(f"http://127.0.0.1:{port}", [pid, *children(pid)])
