"""What the connection relies on beyond h2's promises; an h2 that moves it fails here."""

import struct
import tracemalloc

import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import SettingsFrame

from prism.frontends.server import ServerSettings
from prism.frontends.server.http2.codec import (
    ClientLeaving,
    Codec,
    DataReceived,
    RequestEnded,
    RequestStarted,
)
from prism.frontends.server.http2.limits import ClientError

HEAD = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]


@pytest.fixture
def client():
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    return client


@pytest.fixture
def codec():
    return Codec(ServerSettings())


def test_the_limits_are_announced(client, codec):
    client.receive_data(bytes(codec.take()))
    announced = client.remote_settings
    assert announced[SettingCodes.MAX_CONCURRENT_STREAMS] == 100
    assert announced[SettingCodes.MAX_HEADER_LIST_SIZE] == 32 * 1024
    assert announced[SettingCodes.ENABLE_CONNECT_PROTOCOL] == 0
    assert client.outbound_flow_control_window == 2**20


@pytest.mark.parametrize("step", [1, 100_000])
def test_a_request_comes_as_the_same_events_however_it_is_cut(client, codec, step):
    client.send_headers(1, HEAD)
    client.send_data(1, b"body", end_stream=True)
    data, events = client.data_to_send(), []
    for start in range(0, len(data), step):
        events += codec.receive(data[start : start + step])
    kinds = [type(event) for event in events]
    assert kinds[1:] == [RequestStarted, DataReceived, RequestEnded]
    assert events[2] == DataReceived(1, b"body", 4)


def test_responses_can_be_sent_after_goaway_from_either_side(client, codec):
    client.send_headers(1, HEAD, end_stream=True)
    codec.receive(client.data_to_send())
    assert codec.receive(bytes.fromhex("0000080700000000000000000000000000")) == [ClientLeaving()]
    codec.goaway(1, ErrorCodes.NO_ERROR)
    codec.take()
    codec.send_headers(1, [(b":status", b"200")], end=False)
    codec.send_data(1, b"late", end=True)
    assert b"late" in codec.take()


def test_data_for_a_stream_already_closed_is_not_an_error(client, codec):
    client.send_headers(1, HEAD)
    codec.receive(client.data_to_send())
    codec.send_headers(1, [(b":status", b"413")], end=True)
    codec.reset(1, ErrorCodes.NO_ERROR)
    client.send_data(1, bytes(16000))
    assert codec.receive(client.data_to_send()) == []
    codec.reset(1, ErrorCodes.NO_ERROR)


def test_bytes_consumed_for_a_closed_stream_are_not_an_error(client, codec):
    client.receive_data(bytes(codec.take()))
    client.send_headers(1, HEAD)
    client.send_data(1, bytes(16000))
    codec.receive(client.data_to_send())
    codec.reset(1, ErrorCodes.NO_ERROR)
    codec.consumed(1, 16000)
    codec.consumed(1, 0)


def test_settings_that_nobody_knows_are_not_kept(codec):
    codec.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
    tracemalloc.start()
    for first in range(0x1000, 0xF000, 0x400):
        unknown = b"".join(struct.pack(">HI", key, 1) for key in range(first, first + 0x400))
        codec.receive(struct.pack(">I5x", len(unknown) << 8 | 4) + unknown)
        codec.take()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000  # bytes; h2 alone keeps some 800 for each setting


def test_changes_of_the_header_table_do_not_pile_up(client, codec):
    client.send_headers(1, HEAD, end_stream=True)
    for number in range(1000):
        client.update_settings({SettingCodes.HEADER_TABLE_SIZE: 100 + number % 2})
    codec.receive(client.data_to_send())
    client.receive_data(bytes(codec.take()))
    codec.send_headers(1, [(b":status", b"200")], end=True)
    response = codec.take()
    assert len(response) < 30
    assert any(
        isinstance(event, h2.events.ResponseReceived)
        for event in client.receive_data(bytes(response))
    )


def test_a_broken_rule_is_a_client_error_with_its_code(codec):
    with pytest.raises(ClientError, match="PROTOCOL_ERROR"):
        codec.receive(b"not a preface at all, and long enough")


def test_upgrade_settings_that_are_out_of_range_are_a_client_error():
    with pytest.raises(ClientError):
        Codec(ServerSettings(), upgrade=bytes.fromhex("0004ffffffff"))
    Codec(ServerSettings(), upgrade=b"")
