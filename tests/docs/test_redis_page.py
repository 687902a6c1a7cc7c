"""The commands of docs/redis.md print what it shows, on a real server."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.docs.test_commands import PRISM, ROOT, Served, matches, serve, steps
from tests.services.fixtures import StartServer
from tests.services.redis import Redis

__all__ = ["serve"]  # the fixture


def test_the_page_tells_the_truth(
    start_server: StartServer, serve: Callable[..., Served], tmp_path: Path
) -> None:
    server = start_server(Redis)
    config = (ROOT / "examples/config/redis.yaml").read_text()
    (tmp_path / "redis.yaml").write_text(
        config.replace("127.0.0.1:6379", f"127.0.0.1:{server.port}")
    )
    proxy = serve("--config", "redis.yaml")
    for command, expected in steps("docs/redis.md"):
        environment = {
            "PATH": f"{PRISM.parent}{os.pathsep}{os.environ['PATH']}",
            "PRISM_URL": proxy.as_run("http://127.0.0.1:50051"),
            "TERM": "dumb",
        }
        ran = subprocess.run(
            ["sh", "-c", proxy.as_run(command).replace("curl ", "curl -sS ")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        printed = (ran.stdout + ran.stderr).replace("\r", "")
        assert matches(expected, printed), f"{command}\nprinted\n{printed}\ninstead of\n{expected}"
