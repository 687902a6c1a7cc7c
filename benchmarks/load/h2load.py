"""As many calls as a server answers, made by h2load."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.samples import Load, SideFailed

PROGRAM = "h2load"
EXTRA_TIME = 10.0
"""Seconds more than asked for that h2load may take: it waits for a server that is stuck."""
PACKAGE = "nghttp2-client"
"""Debian's."""


def is_there() -> bool:
    return shutil.which(PROGRAM) is not None


class Answered(NamedTuple):
    """Latencies of the calls that were answered, and the CPU time of the load generator."""

    latencies: list[float]
    cpu: float


def h2load(
    urls: Sequence[str],
    body: bytes,
    headers: Sequence[tuple[str, str]],
    load: Load,
    seconds: float,
    answers: bytes = b"200",
) -> Answered:
    """POST ``body`` to each of ``urls`` in turn, for ``seconds``.

    Raises:
        SideFailed: the status of an answer was not ``answers``, nor 200.
    """
    in_each = max(1, load.in_flight // load.connections)
    shape = ["--h1", "-c", str(load.in_flight)]
    if not load.http1:
        shape = ["-c", str(load.connections), "-m", str(in_each)]
    with tempfile.TemporaryDirectory() as folder:
        data, log, targets = Path(folder, "body"), Path(folder, "log"), Path(folder, "urls")
        data.write_bytes(body)
        targets.write_text("".join(f"{url}\n" for url in urls))
        process = subprocess.Popen(
            [
                PROGRAM,
                *shape,
                f"--duration={round(seconds * 1000)}ms",
                *(f"--header={name}: {value}" for name, value in headers),
                f"--data={data}",
                f"--log-file={log}",
                f"--input-file={targets}",
            ],
            stdout=subprocess.DEVNULL,
        )
        too_late = threading.Timer(seconds + EXTRA_TIME, os.kill, (process.pid, signal.SIGKILL))
        too_late.start()
        _, status, usage = os.wait4(process.pid, 0)
        too_late.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SideFailed(f"h2load ended with {process.returncode} on {urls[0]}, {load}")
        rows = [line.split(b"\t") for line in log.read_bytes().splitlines()]
    # 0 stands for an HTTP/1.1 status line without a reason phrase, such as hypercorn's.
    if wrong := {status for _, status, _ in rows} - {b"200", b"0", answers}:
        raise SideFailed(f"{urls[0]} answered {sorted(wrong)}")
    return Answered([int(row[2]) / 1e6 for row in rows], usage.ru_utime + usage.ru_stime)
