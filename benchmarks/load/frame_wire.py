"""Prism's frame protocol by hand: one kind of Execute, again and again.

The handshake and Initialize are left to ``prism.wire``; after them only the
headers of frames are looked at (docs/protocol.md).
"""

import socket

from benchmarks.callers.meter import METADATA, OPERATION, PARAMS
from benchmarks.load.wire import WrongAnswer
from prism.contract.messages import ExecuteRequest, InitializeRequest
from prism.contract.service import Method
from prism.wire import codecs
from prism.wire._state import Role
from prism.wire.connection import Connection
from prism.wire.events import Close, Event, Hello, Open
from prism.wire.frames import ACK, END, HEADER_SIZE, FrameType, pack
from prism.wire.handshake import answer

_CLOSE, _PING, _NOTE = FrameType.CLOSE, FrameType.PING, FrameType.NOTE


class FrameWire:
    """Calls to the plugin at the other end of ``connection``, which blocks until it is ready."""

    def __init__(self, connection: socket.socket) -> None:
        host = Connection(Role.HOST, Hello(name="bench"))
        offer = _next_event(host, connection)
        if not isinstance(offer, Hello):
            raise WrongAnswer(f"the plugin began with {offer!r}")
        host.send(answer(offer, host.local_hello))
        initialize = InitializeRequest(namespace="bench", config_json="{}")
        host.send(Open(host.next_stream(), Method.INITIALIZE, initialize))
        connection.sendall(host.data_to_send())
        while not isinstance(_next_event(host, connection), Close):
            pass
        request = ExecuteRequest(operation=OPERATION, params_json=PARAMS, metadata=METADATA)
        frame = pack(
            FrameType.OPEN,
            1,
            codecs.encode(host.codec, request),
            flags=END,
            codec=host.codec,
            method=Method.EXECUTE,
        )
        self._before_id, self._after_id = frame[:4], frame[8:]
        self._stream = host.next_stream()
        self._began: dict[int, float] = {}
        self._rest = b""
        self._owed = b""

    @property
    def open(self) -> int:
        return len(self._began)

    def request(self, began: float) -> bytes:
        stream = self._stream
        self._began[stream] = began
        self._stream += 2
        return b"".join((self._before_id, stream.to_bytes(4), self._after_id))

    def receive(self, data: bytes) -> list[float]:
        if self._rest:
            data = self._rest + data
        done = []
        position, end = 0, len(data)
        while end - position >= HEADER_SIZE:
            following = position + HEADER_SIZE + int.from_bytes(data[position : position + 4])
            if following > end:
                break
            kind, aux = data[position + 8], data[position + 12 : position + 16]
            if kind == _CLOSE:
                if aux != b"\0\0\0\0":
                    raise WrongAnswer(f"a call ended with status {int.from_bytes(aux)}")
                done.append(self._began.pop(int.from_bytes(data[position + 4 : position + 8])))
            elif kind == _PING:
                self._owed += pack(FrameType.PING, flags=ACK, aux=int.from_bytes(aux))
            elif kind != _NOTE:
                raise WrongAnswer(f"the plugin sent {FrameType(kind).name}")
            position = following
        self._rest = data[position:]
        return done

    def replies(self) -> bytes:
        owed, self._owed = self._owed, b""
        return owed


def _next_event(host: Connection, connection: socket.socket) -> Event:
    while (event := host.next_event()) is None:
        host.receive_data(connection.recv(64 * 1024))
    return event
