"""HTTP/2 load in a process of its own, that accounts for every call it made.

    load_client.py PORT RESULTS CONNECTIONS STREAMS [OPERATION]

calls ``/v1/store/put``, or another operation, until its standard input ends. Then it
waits for the calls that are open, and RESULTS has one JSON line for each call ever made:
its id, how often it was answered, the status, the problem's reason and whether it may be
repeated.
"""

import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

import h2.events

sys.path.append(str(Path(__file__).parent))  # also where PYTHONSAFEPATH leaves it out
from http2_client import Http2Client

PAUSE = 0.002
"""Seconds that each call takes in the plugin, so that every swap finds calls in flight."""


class Client(Http2Client):
    """Counts the ends of each stream."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        # Head and body leave apart: without this each call would wait for an ACK.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ends: dict[int, int] = {}

    def take(self, event: h2.events.Event) -> None:
        super().take(event)
        if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
            self.ends[event.stream_id] = self.ends.get(event.stream_id, 0) + 1


def drive(
    name: str, port: int, streams: int, operation: str, results: list[dict[str, Any]]
) -> None:
    """One connection with ``streams`` calls at a time, until told to stop."""
    client = Client(port)
    open_calls: dict[int, str] = {}
    number = 0
    while open_calls or not stop.is_set():
        while len(open_calls) < streams and not stop.is_set():
            number += 1
            call = f"{name}-{number}"
            stream = client.open(f"/v1/store/{operation}")
            body = json.dumps({"id": call, "seconds": PAUSE}).encode()
            client.data(stream, body, end=True)
            open_calls[stream] = call
        if client.closed:
            break
        client.receive()
        over = [stream for stream in open_calls if client.responses[stream].over]
        results += [account(open_calls.pop(stream), client, stream) for stream in over]
    results += [account(call, client, stream) for stream, call in open_calls.items()]
    client.close()


def account(call: str, client: Client, stream: int) -> dict[str, Any]:
    """What is known of a call that is over."""
    response = client.responses.pop(stream)
    answer = json.loads(response.body) if response.body else {}
    return {
        "id": call,
        "answers": client.ends.pop(stream, 0),
        "status": response.status,
        "echo": answer.get("id"),
        "version": answer.get("version"),
        "reason": answer.get("reason"),
        "retryable": answer.get("retryable"),
    }


stop = threading.Event()


def main(port: int, file: TextIO, connections: int, streams: int, operation: str = "put") -> None:
    results: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=drive, args=(f"c{number}", port, streams, operation, results))
        for number in range(connections)
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    file.writelines(json.dumps(result) + "\n" for result in results)


if __name__ == "__main__":
    with open(sys.argv[2], "w") as results_file:  # noqa: PTH123
        main(int(sys.argv[1]), results_file, int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
