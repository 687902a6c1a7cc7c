"""How requests to the admin port end, over each transport: what their client gets, what is noted,
and that nothing follows what nobody reads."""

import json

import pytest
import trio
from endings import OverASGI, OverHTTP1, OverHTTP2, OverHTTP2ByReset, Served
from trio.testing import wait_all_tasks_blocked

RESTART = ("/admin/plugin/restart", {"content-type": "application/json"}, b'{"namespace":"kv"}')
EVENTS = ("/admin/events", {}, b"")


@pytest.fixture(params=[OverHTTP1, OverHTTP2, OverHTTP2ByReset, OverASGI])
def client(request):
    return request.param()


@pytest.fixture
async def served(nursery, admin):
    served = Served(nursery, admin.front)
    yield served
    served.close()


@pytest.fixture
def notes(caplog):
    """What was noted of requests."""
    caplog.set_level("INFO", "prism.admin")
    return lambda: [line.getMessage() for line in caplog.records if line.name == "prism.admin"]


class Operation:
    """A restart that goes on until ``ends`` is set; ``error`` is how."""

    def __init__(self, error=None):
        self.error = error
        self.begun, self.ends = trio.Event(), trio.Event()
        self.cancelled = False

    async def restart(self, name):
        self.begun.set()
        try:
            await self.ends.wait()
        except trio.Cancelled:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return {"done": name}


@pytest.fixture
def operation(admin, monkeypatch):
    """Have restarts be this."""

    def use(error=None):
        operation = Operation(error)
        monkeypatch.setattr(admin.proxy.supervisor, "restart", operation.restart)
        return operation

    return use


async def whole_response(client):
    while not client.response.over:
        await client.read()
    return client.response


async def test_an_operation_that_is_done(served, client, operation, notes):
    restart = operation()
    await client.ask(served, *RESTART)
    await restart.begun.wait()
    restart.ends.set()
    response = await whole_response(client)
    assert (response.status, json.loads(response.body), response.whole) == (
        200,
        {"done": "kv"},
        True,
    )
    assert notes() == ["/admin/plugin/restart of namespace kv is asked for by anonymous"]


async def test_a_bug(served, client, operation, notes, caplog):
    restart = operation(RuntimeError("hunter2"))
    await client.ask(served, *RESTART)
    restart.ends.set()
    response = await whole_response(client)
    assert (response.status, json.loads(response.body)["reason"]) == (500, "internal")
    assert b"hunter2" not in response.body
    assert "hunter2" in caplog.text
    assert [note.split(" is ")[1] for note in notes()] == [
        "asked for by anonymous",
        "refused: internal error; the proxy's log has the cause",
    ]


async def test_who_asked_leaves(served, client, operation, notes):
    restart = operation()
    await client.ask(served, *RESTART)
    await restart.begun.wait()
    await client.leave()
    with trio.fail_after(60):
        while not restart.cancelled:
            await wait_all_tasks_blocked()
            await trio.sleep(0.01)
    assert client.response.status is None
    assert len(notes()) == 1  # that it was asked for


async def test_the_port_stops_and_can_wait_no_longer(served, client, operation, notes):
    restart = operation()
    await client.ask(served, *RESTART)
    await restart.begun.wait()
    client.stop()
    response = await whole_response(client)
    await wait_all_tasks_blocked()
    assert restart.cancelled
    if not isinstance(client, OverASGI):
        assert (response.status, json.loads(response.body)["reason"]) == (503, "draining")
    assert notes()[1:] == ["POST /admin/plugin/restart is refused: the proxy stopped"]


async def test_a_body_that_does_not_come(served, client, notes, autojump_clock):
    began = trio.current_time()
    await client.ask(served, *RESTART, whole=False)
    response = await whole_response(client)
    assert (response.status, json.loads(response.body)["reason"]) == (400, "invalid_request")
    assert trio.current_time() - began == pytest.approx(10)
    assert notes() == ["POST /admin/plugin/restart is refused: the body did not come within 10 s"]


async def follow(served, client):
    """Begin to follow the events; returns once the answer has begun."""
    await client.ask(served, *EVENTS, method="GET")
    while not client.response.body:
        await client.read()


async def test_who_follows_leaves(served, client, admin):
    feed = admin.proxy.supervisor.events
    await follow(served, client)
    assert len(feed._followers) == 1
    await client.leave()
    with trio.fail_after(60):
        while feed._followers:
            await wait_all_tasks_blocked()
            await trio.sleep(0.01)


async def test_what_is_followed_ends_with_the_port(served, client, admin):
    await follow(served, client)
    admin.front.stopping.set()
    response = await whole_response(client)
    assert response.whole
    assert response.body.endswith(b"id: #end\nevent: end\ndata: {}\n\n")
    assert not admin.proxy.supervisor.events._followers


async def test_what_is_followed_for_too_long_is_broken_off(served, client, admin):
    await follow(served, client)
    client.stop()
    response = await whole_response(client)
    assert (response.status, response.whole) == (200, False)
    await wait_all_tasks_blocked()
    assert not admin.proxy.supervisor.events._followers


async def test_a_bug_in_what_is_followed_breaks_it_off(served, client, admin, monkeypatch, caplog):
    await follow(served, client)
    monkeypatch.setattr("prism.frontends.stream_text.event", lambda *_, **__: 1 / 0)
    admin.proxy.supervisor.events.record("reload", "kv", reason="x")
    response = await whole_response(client)
    assert (response.status, response.whole) == (200, False)
    assert "ZeroDivisionError" in caplog.text
