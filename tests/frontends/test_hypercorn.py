"""The data port on stock hypercorn: what Prism's settings, sockets and certificates do there.

Calls and streams on it are in rest/test_servers.py and rest/test_streams.py."""

import logging
import os
import socket
import ssl

import httpx
import hypercorn.trio
import pytest
import trio
import trustme

from prism.frontends.hypercorn import HypercornConfig, serve_on_hypercorn
from prism.server.settings import ServerSettings
from prism.streams.listeners import bound_address, descriptor, listen_on, open_listeners
from prism.streams.tls import ServerTLS


class Front:
    """Answers with the path; ``/wait`` waits for ``go_on``."""

    def __init__(self):
        self.begun, self.go_on = trio.Event(), trio.Event()
        self.exchange = None

    def begin(self, exchange):
        self.exchange = exchange
        if exchange.target == b"/wait":
            exchange.tasks.start(self.wait, exchange)
        else:
            exchange.respond(200, [], exchange.target)

    async def wait(self, exchange):
        self.begun.set()
        await self.go_on.wait()
        exchange.respond(200, [], b"waited")


class Served:
    def __init__(self, address, shutdown, stopped):
        self.address, self.shutdown, self.stopped = address, shutdown, stopped
        self.url = f"{address.scheme}://{address.host}:{address.port}"


@pytest.fixture
async def start(nursery):
    async def start(front, tls=None, **settings):
        shutdown, stopped = trio.Event(), trio.Event()

        async def run(task_status):
            listeners = await open_listeners("127.0.0.1", 0, tls=tls)
            await serve_on_hypercorn(
                front,
                listeners,
                ServerSettings(**settings),
                shutdown=shutdown,
                tls=tls,
                task_status=task_status,
            )
            stopped.set()

        [address] = await nursery.start(run)
        return Served(address, shutdown, stopped)

    yield start
    nursery.cancel_scope.cancel()


async def test_a_stop_finishes_what_is_in_flight_and_accepts_no_more(start, nursery):
    front, answers = Front(), []
    served = await start(front)

    async def ask():
        async with httpx.AsyncClient() as client:
            answers.append((await client.get(served.url + "/wait")).text)

    nursery.start_soon(ask)
    await front.begun.wait()
    served.shutdown.set()
    accepts = True
    while accepts:
        try:
            stream = await trio.open_tcp_stream(served.address.host, served.address.port)
            await stream.aclose()
            await trio.sleep(0.01)
        except OSError:
            accepts = False
    assert not served.stopped.is_set()
    front.go_on.set()
    with trio.fail_after(60):
        await served.stopped.wait()
    assert answers == ["waited"]


async def test_what_needs_longer_than_the_grace_is_cancelled(start):
    front = Front()
    served = await start(front, graceful_timeout=0.1)
    async with await trio.open_tcp_stream(served.address.host, served.address.port) as stream:
        await stream.send_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n")
        await front.begun.wait()
        served.shutdown.set()
        with trio.fail_after(60):
            await served.stopped.wait()
    assert front.exchange.cancelled is not None


async def test_what_breaks_hypercorn_does_not_break_the_proxy(start, caplog, monkeypatch):
    """As bytes of one client do (tests/server/regressions/README.md)."""
    broken = []

    async def serve(app, config, **options):
        if not broken:
            broken.append(True)
            for bound in config.bind:
                os.close(int(bound.removeprefix("fd://")))
            raise ExceptionGroup("of a nursery", [KeyError("secret")])
        await hypercorn.trio.serve(app, config, **options)

    monkeypatch.setattr("prism.frontends.hypercorn.serve", serve)
    served = await start(Front())
    async with httpx.AsyncClient() as client:
        assert (await client.get(served.url + "/alive")).text == "/alive"
    [message] = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert message.startswith("hypercorn failed: builtins.KeyError")
    assert "secret" not in caplog.text


async def test_the_sockets_stay_the_callers_until_the_end(nursery):
    """A successor may be handed them."""
    shutdown = trio.Event()
    listeners = await open_listeners("127.0.0.1", 0)
    number = descriptor(listeners[0])

    async def run(task_status):
        await serve_on_hypercorn(Front(), listeners, shutdown=shutdown, task_status=task_status)

    [address] = await nursery.start(run)
    assert address == bound_address(listeners[0])
    assert descriptor(listeners[0]) == number
    shutdown.set()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert descriptor(listeners[0]) == -1


async def test_sockets_that_were_given(nursery):
    listeners = listen_on([socket.create_server(("127.0.0.1", 0))])
    shutdown = trio.Event()

    async def run(task_status):
        await serve_on_hypercorn(Front(), listeners, shutdown=shutdown, task_status=task_status)

    [address] = await nursery.start(run)
    async with httpx.AsyncClient() as client:
        url = f"http://{address.host}:{address.port}/given"
        assert (await client.get(url)).text == "/given"
    shutdown.set()


@pytest.mark.parametrize(("http1", "http2"), [(True, False), (False, True)])
async def test_certificates_are_reloaded(start, tmp_path, http1, http2):
    authorities = [trustme.CA(), trustme.CA()]
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def write(authority):
        made = authority.issue_cert("127.0.0.1")
        made.private_key_pem.write_to_path(key)
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))

    async def ask(authority):
        context = ssl.create_default_context()
        authority.configure_trust(context)
        async with httpx.AsyncClient(verify=context, http1=http1, http2=http2) as client:
            answer = await client.get(served.url + "/tls")
            assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            return answer.text

    write(authorities[0])
    tls = ServerTLS(certificate, key)
    served = await start(Front(), tls=tls)
    assert await ask(authorities[0]) == "/tls"
    write(authorities[1])
    assert await tls.reload()
    assert await ask(authorities[1]) == "/tls"
    with pytest.raises(httpx.ConnectError):
        await ask(authorities[0])


async def test_client_certificates(start, tmp_path):
    authority = trustme.CA()
    certificate, key, trusted = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    made = authority.issue_cert("127.0.0.1")
    made.private_key_pem.write_to_path(key)
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    authority.cert_pem.write_to_path(trusted)
    served = await start(Front(), tls=ServerTLS(certificate, key, trusted))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with httpx.AsyncClient(verify=context) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(served.url)
    authority.issue_cert("me@example.org").configure_cert(context)
    async with httpx.AsyncClient(verify=context) as client:
        assert (await client.get(served.url + "/mine")).text == "/mine"


def test_what_hypercorn_takes_of_the_settings():
    settings = ServerSettings(
        graceful_timeout=1,
        keep_alive_timeout=2,
        max_header_size=3,
        max_concurrent_streams=4,
        tls_handshake_timeout=5,
        websocket_max_message=6,
    )
    config = HypercornConfig(settings, None)
    assert (config.graceful_timeout, config.keep_alive_timeout) == (1, 2)
    assert (config.h11_max_incomplete_size, config.h2_max_header_list_size) == (3, 3)
    assert (config.h2_max_concurrent_streams, config.ssl_handshake_timeout) == (4, 5)
    assert (config.websocket_max_message_size, config.websocket_ping_interval) == (6, None)
    assert config.keep_alive_max_requests > 10**9
    assert not config.ssl_enabled
    assert config.log.error_logger.name == "prism.hypercorn"
    assert config.log.access_logger is None
