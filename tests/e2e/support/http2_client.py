"""A client of HTTP/2 in which each frame is one's own decision: h2 on a blocking socket."""

import socket
import struct
from collections import defaultdict
from contextlib import suppress
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events

TIMEOUT = 60.0


class Response:
    """What came for one stream so far; ``reset`` is the code of a RST_STREAM."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = False
        self.reset: int | None = None

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return self.ended or self.reset is not None


class _Connection(h2.connection.H2Connection):
    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[h2.events.Event]]:
        """h2 closes the connection, and would take no response that is still to come."""
        event = h2.events.ConnectionTerminated()
        event.last_stream_id, event.error_code = frame.last_stream_id, frame.error_code
        return [], [event]


class Http2Client:
    """One connection with prior knowledge. Checks nothing that it sends."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.h2 = _Connection(
            h2.config.H2Configuration(
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.responses: defaultdict[int, Response] = defaultdict(Response)
        self.goaways: list[int] = []
        self.closed = False
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        """Send what h2 has queued; a connection closed by the server is noted only."""
        with suppress(ConnectionError):
            self.socket.sendall(self.h2.data_to_send())

    def open(
        self,
        path: str,
        *,
        method: str = "POST",
        headers: tuple[tuple[str, str], ...] = (),
        end: bool = False,
    ) -> int:
        """Send a request's head; returns its stream."""
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)]
        self.h2.send_headers(stream, [*head, *headers], end_stream=end)
        self.flush()
        return stream

    def data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send body bytes, as the window allows."""
        while True:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            chunk, data = data[:room], data[room:]
            self.h2.send_data(stream, chunk, end_stream=end and not data)
            self.flush()
            if not data or self.responses[stream].over:
                return
            if not self.h2.local_flow_control_window(stream):
                self.receive()

    def request(self, path: str, body: bytes = b"{}", **options: Any) -> Response:
        """One whole request, and its response."""
        stream = self.open(path, **options)
        self.data(stream, body, end=True)
        return self.wait(stream)

    def wait(self, stream: int) -> Response:
        """Wait until the response is complete, or the connection closed."""
        while not self.responses[stream].over and not self.closed:
            self.receive()
        return self.responses[stream]

    def receive(self) -> None:
        """Take in what the server sent next."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            return
        for event in self.h2.receive_data(data):
            self.take(event)
        self.flush()

    def take(self, event: h2.events.Event) -> None:
        """Note one event."""
        match event:
            case h2.events.ResponseReceived():
                response = self.responses[event.stream_id]
                response.headers = dict(event.headers)
                response.status = int(response.headers[":status"])
            case h2.events.DataReceived():
                self.responses[event.stream_id].body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.responses[event.stream_id].ended = True
            case h2.events.StreamReset():
                self.responses[event.stream_id].reset = event.error_code
            case h2.events.ConnectionTerminated():
                self.goaways.append(event.last_stream_id)

    def reset(self, stream: int) -> None:
        """Give a call up."""
        self.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        self.flush()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def break_off(self) -> None:
        """Close with a TCP RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
