"""The code in CONTRIBUTING.md runs as it stands there."""

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import trio

from prism.calls.policies import POLICIES
from prism.calls.router import Router
from prism.contract.messages import ExecuteResponse
from prism.frontends.answering import Observer
from prism.frontends.asgi import asgi
from prism.observability.access_log import AccessLog
from prism.observability.metrics import Metrics
from prism.sdk.byte_streams import SocketStream
from prism.sdk.session import Session
from prism.sdk.testing import run_plugin

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def page() -> SimpleNamespace:
    """What the blocks define, each by itself."""
    found: dict[str, object] = {}
    for block in blocks():
        names: dict[str, object] = {"__name__": "page"}
        exec(block, names)
        found |= names
    return SimpleNamespace(**found)


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def through_the_door(page, namespace) -> httpx.AsyncClient:
    router = Router([namespace])
    door = page.PlainDoor(router, Observer(Metrics(router), AccessLog()))
    transport = httpx.ASGITransport(app=asgi(door))
    return httpx.AsyncClient(transport=transport, base_url="http://prism")


async def test_the_door(page, make_namespace):
    async with through_the_door(page, make_namespace()) as client:
        answer = await client.post("/kv/get", content=b'{"a": 1}')
        assert (answer.status_code, answer.text) == (200, '{"a": 1}')
        unknown = await client.post("/nowhere/get")
        assert (unknown.status_code, unknown.json()["reason"]) == (404, "unknown_namespace")


async def test_the_policy(page, make_namespace, monkeypatch):
    begun, go_on = trio.Event(), trio.Event()
    running = 0

    async def wait(request):
        nonlocal running
        running += 1
        if running == 3:
            begun.set()
        await go_on.wait()
        return ExecuteResponse(success=True)

    monkeypatch.setattr("prism.calls.policies.POLICIES", (*POLICIES, page.PrincipalLimit))
    namespace = make_namespace(wait)
    statuses = []
    async with through_the_door(page, namespace) as client:

        async def call() -> None:
            statuses.append((await client.post("/kv/get")).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(call)
            await begun.wait()
            refused = await client.post("/kv/get")
            assert (refused.status_code, refused.json()["reason"]) == (429, "too_many_of_one")
            go_on.set()
        assert statuses == [200, 200, 200]
        await call()
        assert statuses[-1] == 200
    assert namespace.in_flight == 0


def test_the_policy_is_one_of_the_list(tmp_path):
    """In a copy of the package: what it imports must not lead back to where it is imported."""
    copy = tmp_path / "prism"
    shutil.copytree(ROOT / "prism", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "calls/policies/principal_limit.py").write_text(blocks()[0])
    listed = copy / "calls/policies/__init__.py"
    text = listed.read_text()
    text = text.replace("\nif TYPE", "\nfrom .principal_limit import PrincipalLimit\n\nif TYPE")
    listed.write_text(text.replace("    StreamLimit,\n", "    StreamLimit,\n    PrincipalLimit,\n"))
    show = "from prism.calls.policies import POLICIES; print(POLICIES)"
    check = f"import prism.calls.namespace; {show}"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "PrincipalLimit" in done.stdout, done.stderr


async def test_the_channel(page):
    ours, theirs = socket.socketpair()
    stream = SocketStream(theirs)
    session = Session(stream, page.Shout(), name="shout", version="1.0.0")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        ours.setblocking(False)
        with trio.fail_after(60):
            version = await page.ask_version(
                trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            )
    assert version == "1.0.0"


async def test_the_plugin(page):
    async with run_plugin(page.Shout) as shout:
        assert await shout.call("shout", text="hey") == {"text": "HEY"}
