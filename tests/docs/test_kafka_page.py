"""The commands of docs/kafka.md print what it shows, on a real broker."""

import os
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.docs.test_commands import PRISM, ROOT, Served, matches, serve, steps
from tests.services.kafka import Kafka

__all__ = ["serve"]  # the fixture


def test_the_page_tells_the_truth(
    kafka: Kafka, serve: Callable[..., Served], tmp_path: Path
) -> None:
    config = (ROOT / "examples/config/kafka.yaml").read_text()
    config = config.replace("127.0.0.1:9092", f"127.0.0.1:{kafka.port}")
    own = secrets.token_hex(4)
    config = config.replace('"shop."', f'"{own}."\n      consumer_group: "{own}"')
    (tmp_path / "kafka.yaml").write_text(config)
    proxy = serve("--config", "kafka.yaml")
    for command, expected in steps("docs/kafka.md"):
        environment = {
            "PATH": f"{PRISM.parent}{os.pathsep}{os.environ['PATH']}",
            "PRISM_URL": proxy.as_run("http://127.0.0.1:50051"),
            "TERM": "dumb",
            "LC_ALL": "C",
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
