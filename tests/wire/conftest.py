"""Connections that have shaken hands, and a pipe between two of them."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from prism.contract.errors import RemoteProtocolError
from prism.wire import ConnectionState, Role, handshake
from prism.wire.connection import Connection
from prism.wire.events import Event, Hello

Pair = tuple[Connection, Connection]
Outcome = tuple[list[Event], str, ConnectionState]


def drain(connection: Connection) -> list[Event]:
    """All events there are now."""
    events: list[Event] = []
    while (event := connection.next_event()) is not None:
        events.append(event)
    return events


def pump(sender: Connection, receiver: Connection) -> list[Event]:
    """Carry everything queued from one side to the other."""
    events: list[Event] = []
    while data := sender.data_to_send():
        receiver.receive_data(data)
        events += drain(receiver)
    return events


def connect(codec: str = "json", host: Hello | None = None, plugin: Hello | None = None) -> Pair:
    """A host and a plugin, both READY."""
    host_side = Connection(Role.HOST, host or Hello(name="prism"))
    offer = replace(plugin or Hello(name="p"), codecs=(codec,))
    plugin_side = Connection(Role.PLUGIN, offer)
    plugin_side.send(offer)
    (received,) = pump(plugin_side, host_side)
    assert isinstance(received, Hello)
    host_side.send(handshake.answer(received, host_side.local_hello))
    pump(host_side, plugin_side)
    return host_side, plugin_side


def outcome(connection: Connection, chunks: list[bytes]) -> Outcome:
    """Feed ``chunks`` and then the end; the events, the error if any, the last state."""
    events: list[Event] = []
    try:
        for chunk in [*(chunk for chunk in chunks if chunk), b""]:
            connection.receive_data(chunk)
            while (event := connection.next_event()) is not None:
                events.append(event)
    except RemoteProtocolError as broken:
        return events, str(broken), connection.state
    return events, "", connection.state


@pytest.fixture(scope="session")
def connected() -> Callable[..., Pair]:
    return connect


@pytest.fixture(scope="session")
def carried() -> Callable[[Connection, Connection], list[Event]]:
    return pump


@pytest.fixture(scope="session")
def fed() -> Callable[[Connection, list[bytes]], Outcome]:
    return outcome
