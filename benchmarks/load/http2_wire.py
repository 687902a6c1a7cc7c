"""HTTP/2 by hand: one kind of request, answers that are looked at from afar.

Headers are sent as literals that touch no table, and the server is told to keep
none (SETTINGS_HEADER_TABLE_SIZE 0), so that ``:status: 200`` is one known byte.
The server's windows are not counted: it has at most some hundred small bodies
to take at a time, far less than any window. Ours are opened all the way.
"""

from collections.abc import Sequence

from benchmarks.load.wire import WrongAnswer

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM = _ACK = 1
_END_HEADERS = 4
_STATUS_200 = 0x88  # RFC 7541, appendix A: entry 8 of the static table
_MOST_TO_SEND = 16_384
_WINDOW = 2**31 - 1
_HALF = 2**30


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _literal(text: bytes) -> bytes:
    """A string of a header (RFC 7541, 5.2), without Huffman's code."""
    if len(text) < 127:
        return bytes((len(text),)) + text
    rest, length = len(text) - 127, bytearray((127,))
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    length.append(rest)
    return bytes(length) + text


def header_block(headers: Sequence[tuple[str, str]]) -> bytes:
    """Every header as a literal without indexing, with a literal name (RFC 7541, 6.2.2)."""
    return b"".join(
        b"\0" + _literal(name.encode()) + _literal(value.encode()) for name, value in headers
    )


class HTTP2Wire:
    """``POST`` of one body to one path, again and again."""

    def __init__(
        self, authority: str, path: str, body: bytes, headers: Sequence[tuple[str, str]]
    ) -> None:
        if len(body) > _MOST_TO_SEND:
            raise ValueError(f"a body of {len(body)} bytes needs more than one DATA frame")
        block = header_block(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", authority),
                (":path", path),
                ("content-length", str(len(body))),
                *headers,
            ]
        )
        head = _frame(_HEADERS, _END_HEADERS, 0, block)
        data = _frame(_DATA, _END_STREAM, 0, body)
        self._parts = head[:5], head[9:] + data[:5], data[9:]
        self._stream = 1
        self._began: dict[int, float] = {}
        self._answered: set[int] = set()
        self._rest = b""
        self._unacknowledged = 0
        settings = b"\0\1" + bytes(4) + b"\0\4" + _WINDOW.to_bytes(4)
        self._owed = bytearray(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _window_update(_WINDOW - 65_535)
        )

    @property
    def open(self) -> int:
        return len(self._began)

    def request(self, began: float) -> bytes:
        before_id, between, after_id = self._parts
        stream = self._stream.to_bytes(4)
        self._began[self._stream] = began
        self._stream += 2
        return b"".join((before_id, stream, between, stream, after_id))

    def receive(self, data: bytes) -> list[float]:
        if self._rest:
            data = self._rest + data
        done = []
        position, end = 0, len(data)
        while end - position >= 9:
            payload = position + 9
            following = payload + int.from_bytes(data[position : position + 3])
            if following > end:
                break
            kind, flags = data[position + 3], data[position + 4]
            if kind <= _HEADERS:
                stream = int.from_bytes(data[position + 5 : payload])
                if kind == _DATA:
                    self._unacknowledged += following - payload
                elif stream not in self._answered:
                    self._check_status(data[payload:following])
                    self._answered.add(stream)
                if flags & _END_STREAM:
                    self._answered.discard(stream)
                    done.append(self._began.pop(stream))
            else:
                self._control(kind, flags, data[payload:following])
            position = following
        self._rest = data[position:]
        if self._unacknowledged > _HALF:
            self._owed += _window_update(self._unacknowledged)
            self._unacknowledged = 0
        return done

    def replies(self) -> bytes:
        owed = bytes(self._owed)
        self._owed.clear()
        return owed

    @staticmethod
    def _check_status(block: bytes) -> None:
        first = next((byte for byte in block if byte & 0xE0 != 0x20), None)  # a table's new size
        if first != _STATUS_200:
            raise WrongAnswer(f"not answered 200: the header section begins {block[:24].hex(' ')}")

    def _control(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._owed += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._owed += _frame(_PING, _ACK, 0, payload)
        elif kind in (_RESET, _GOAWAY):
            name = "RST_STREAM" if kind == _RESET else "GOAWAY"
            raise WrongAnswer(f"the server sent {name} {payload.hex(' ')}")


def _window_update(size: int) -> bytes:
    return _frame(8, 0, 0, size.to_bytes(4))
