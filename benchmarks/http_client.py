"""A load generator for machines without h2load: slower, but always there.

Usage: python -m benchmarks.http_client URL BODY IN_FLIGHT SECONDS 1|2
It prints the latencies of all answered requests, in seconds, as JSON.
"""

import re
import select
import socket
import sys
import time
from urllib.parse import urlsplit

import h2.connection
import h2.events
import msgspec

RECEIVE_SIZE = 64 * 1024


class HTTP2Client:
    """Keeps ``in_flight`` requests open on one connection."""

    def __init__(self, host: str, path: str, body: bytes) -> None:
        self._headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", host),
            (":path", path),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
        ]
        self._body = body
        self._h2 = h2.connection.H2Connection()
        self._h2.initiate_connection()
        self._began: dict[int, float] = {}

    def run(self, connection: socket.socket, in_flight: int, seconds: float) -> list[float]:
        latencies = []
        until = time.perf_counter() + seconds
        for _ in range(in_flight):
            self._request()
        while time.perf_counter() < until:
            connection.sendall(self._h2.data_to_send())
            for event in self._h2.receive_data(connection.recv(RECEIVE_SIZE)):
                if isinstance(event, h2.events.ResponseReceived):
                    assert event.headers is not None
                    if dict(event.headers)[b":status"] != b"200":
                        raise RuntimeError(f"answered {event.headers}")
                elif isinstance(event, h2.events.DataReceived):
                    size = event.flow_controlled_length
                    self._h2.acknowledge_received_data(size, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    latencies.append(time.perf_counter() - self._began.pop(event.stream_id))
                    self._request()
        return latencies

    def _request(self) -> None:
        stream = self._h2.get_next_available_stream_id()
        self._began[stream] = time.perf_counter()
        self._h2.send_headers(stream, self._headers)
        self._h2.send_data(stream, self._body, end_stream=True)


def http1(
    address: tuple[str, int], path: str, body: bytes, in_flight: int, seconds: float
) -> list[float]:
    """One request at a time on each of ``in_flight`` connections."""
    head = f"POST {path} HTTP/1.1\r\nhost: {address[0]}\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    latencies = []
    began: dict[socket.socket, float] = {}
    partial: dict[socket.socket, bytes] = {}
    for _ in range(in_flight):
        connection = socket.create_connection(address)
        began[connection] = time.perf_counter()
        connection.sendall(request)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for connection in select.select(list(began), [], [], seconds)[0]:
            answer = partial.pop(connection, b"") + connection.recv(RECEIVE_SIZE)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"answered {answer!r}")
            if not _whole(answer):
                partial[connection] = answer
                continue
            now = time.perf_counter()
            latencies.append(now - began[connection])
            began[connection] = now
            connection.sendall(request)
    for connection in began:
        connection.close()
    return latencies


def _whole(answer: bytes) -> bool:
    """Whether all of a response with a content-length is there."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(end) and (length is None or len(body) >= int(length[1]))


def main(url: str, body: str, in_flight: int, seconds: float, version: str) -> list[float]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    address = parts.hostname, parts.port
    path = parts.path or "/"
    if version == "1":
        return http1(address, path, body.encode(), in_flight, seconds)
    with socket.create_connection(address) as connection:
        client = HTTP2Client(parts.netloc, path, body.encode())
        return client.run(connection, in_flight, seconds)


if __name__ == "__main__":
    url, body, in_flight, seconds, version = sys.argv[1:]
    found = main(url, body, int(in_flight), float(seconds), version)
    sys.stdout.buffer.write(msgspec.json.encode(found))
