"""What ``prism call`` tells the proxy, and shows of what it is told; see also
``tests/e2e/test_command_line.py``."""

import json

import httpx
from click.testing import CliRunner

from prism.cli.main import prism


def test_the_priority_is_told_and_attempts_are_shown(monkeypatch):
    def answer(request):
        told = httpx.ByteStream(json.dumps(request.headers["prism-priority"]).encode())
        return httpx.Response(200, stream=told, headers={"prism-attempts": "2"})

    monkeypatch.setattr(
        "prism.cli.call.http_client",
        lambda *_: httpx.Client(transport=httpx.MockTransport(answer)),
    )
    command = ["call", "kv", "get", "-v", "--priority"]
    result = CliRunner().invoke(prism, [*command, "low"])
    assert result.exit_code == 0, result.output
    assert '"low"' in result.stdout
    assert result.stderr.endswith(", 2 attempts\n")
    result = CliRunner().invoke(prism, [*command, "urgent"])
    assert result.exit_code == 2
    assert "'high', 'normal', 'low'" in result.stderr
