"""HTTP load from a process of its own: h2load, or a small Python client without it."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.measure import Load, Sample, cpu_seconds, percentile
from benchmarks.processes import ROOT

H2LOAD = shutil.which("h2load")
GENERATOR = "h2load" if H2LOAD else "benchmarks.http_client"


class Target:
    """A URL to post ``body`` to; the CPU time of process ``pid``, and of ``peer``, is noted.

    HTTP/2 calls share one connection; over HTTP/1.1 each call in flight has its own.
    A server that may be found starting again is asked up to ``attempts`` times.
    """

    def __init__(
        self, url: str, body: str, pid: int, peer: int | None = None, *, attempts: int = 1
    ) -> None:
        self._url = url
        self._body = body
        self._pids = (pid, peer)
        self._attempts = attempts

    def __call__(self, load: Load, seconds: float) -> Sample:
        """Measure once.

        Raises:
            RuntimeError: an answer was not 200, or there was none at all.
        """
        post = _h2load if H2LOAD else _python
        for _ in range(self._attempts):
            before = self._cpu()
            latencies = post(self._url, self._body, load, seconds)
            after = self._cpu()
            if latencies:
                break
        else:
            raise RuntimeError(f"{self._url} answered nothing within {seconds:g} s")
        return Sample(
            len(latencies),
            seconds,
            percentile(latencies, 0.50),
            percentile(latencies, 0.99),
            after[0] - before[0],
            after[1] - before[1],
        )

    def _cpu(self) -> tuple[float, float]:
        server, peer = self._pids
        return cpu_seconds(server), cpu_seconds(peer) if peer else 0.0


def _h2load(url: str, body: str, load: Load, seconds: float) -> list[float]:
    """Latencies of the answered requests, in seconds."""
    assert H2LOAD
    many = str(load.in_flight)
    shape = ["--h1", "-c", many] if load.http1 else ["-c", "1", "-m", many]
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder, "body"), Path(folder, "log")
        data.write_text(body)
        subprocess.run(
            [
                H2LOAD,
                *shape,
                f"--duration={round(seconds * 1000)}ms",
                "--header=content-type: application/json",
                f"--data={data}",
                f"--log-file={log}",
                url,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    # 0 stands for an HTTP/1.1 status line without a reason phrase, such as hypercorn's.
    if wrong := {status for _, status, _ in rows} - {"200", "0"}:
        raise RuntimeError(f"{url} answered {wrong}")
    return [int(duration) / 1e6 for _, _, duration in rows]


def _python(url: str, body: str, load: Load, seconds: float) -> list[float]:
    """As ``_h2load``."""
    found = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.http_client", url, body),
            *(str(load.in_flight), str(seconds), "1" if load.http1 else "2"),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    return msgspec.json.decode(found.stdout, type=list[float])
