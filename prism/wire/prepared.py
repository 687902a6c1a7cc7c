"""Execute requests whose unchanging parts are encoded once.

Two calls of one operation differ in their params, request id and trace, and in nothing else. So
the MessagePack around those is made once, and a call's payload are pieces: its params travel from
the client's request to the plugin's socket without having been text, or copied, in between.
"""

from prism.contract.service import NAMESPACE_KEY, PRINCIPAL_KEY, REQUEST_ID_KEY, TRACEPARENT_KEY
from prism.wire.parts import LARGE, Pieces

_TRACEPARENT_SIZE = 55  # W3C Trace Context, version 00


class PreparedExecute:
    """What is the same in all ``ExecuteRequest``s of one operation, namespace and principal."""

    __slots__ = ("_after_id", "_after_params", "_before_params")

    def __init__(self, operation: str, namespace: str, principal: str) -> None:
        self._before_params = b"".join(
            (b"\x83", _text(b"operation"), _text(operation.encode()), _text(b"params_json"))
        )
        self._after_params = b"".join(
            (
                _text(b"metadata"),
                b"\x84",
                _text(NAMESPACE_KEY.encode()),
                _text(namespace.encode()),
                _text(PRINCIPAL_KEY.encode()),
                _text(principal.encode()),
                _text(REQUEST_ID_KEY.encode()),
            )
        )
        self._after_id = _text(TRACEPARENT_KEY.encode()) + _head(_TRACEPARENT_SIZE)

    def payload(self, params: bytes | bytearray, request_id: str, traceparent: str) -> Pieces:
        """The request in MessagePack. ``params`` is UTF-8; ``traceparent`` has 55 characters."""
        identity = request_id.encode()
        pieces = (
            self._before_params,
            _head(len(params)),
            params,
            self._after_params,
            _head(len(identity)),
            identity,
            self._after_id,
            traceparent.encode(),
        )
        return pieces if len(params) >= LARGE else (b"".join(pieces),)


def _head(size: int) -> bytes:
    """What precedes a text of ``size`` bytes (MessagePack, str format family)."""
    if size < len(_HEADS):
        return _HEADS[size]
    if size < 2**16:
        return b"\xda" + size.to_bytes(2, "big")
    return b"\xdb" + size.to_bytes(4, "big")


_HEADS = [bytes((0xA0 | size,)) if size < 32 else bytes((0xD9, size)) for size in range(256)]


def _text(text: bytes) -> bytes:
    return _head(len(text)) + text
