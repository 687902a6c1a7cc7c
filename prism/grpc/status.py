"""How gRPC writes statuses, messages and deadlines into headers (gRPC over HTTP/2)."""

import base64
import math
import re

from prism.contract.errors import RemoteProtocolError
from prism.contract.status import StatusCode

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_LARGEST = 99_999_999

_PLAIN = frozenset(range(0x20, 0x7F)) - {ord("%")}


def encode_message(text: str) -> str:
    """``text`` for ``grpc-message``: UTF-8, percent-encoded beyond printable ASCII."""
    encoded = text.encode(errors="replace")
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in encoded)


def decode_message(value: str) -> str:
    """The text of a ``grpc-message``. Never fails: torn escapes stay as they are."""
    raw = re.sub(
        rb"%([0-9A-Fa-f]{2})",
        lambda match: bytes([int(match[1], 16)]),
        value.encode("latin-1", errors="replace"),
    )
    return raw.decode(errors="replace")


_RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"


def encode_retry_info(status: int, message: str, seconds: float) -> str:
    """``grpc-status-details-bin`` that says to come again after ``seconds``: a google.rpc.Status
    with a RetryInfo (google/rpc/error_details.proto), in base64."""
    nanos = math.ceil(max(seconds, 0) * 1e9)
    delay = _field(1, nanos // 10**9) + _field(2, nanos % 10**9)
    detail = _field(1, _RETRY_INFO) + _field(2, _field(1, delay))
    details = _field(1, status) + _field(2, message.encode(errors="replace")) + _field(3, detail)
    return base64.b64encode(details).rstrip(b"=").decode("ascii")


def _field(number: int, value: int | bytes) -> bytes:
    """One field of a protobuf message: a varint, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def parse_status(value: str) -> StatusCode:
    """A ``grpc-status``; a number that is not one of gRPC's is UNKNOWN."""
    if not (value.isascii() and value.isdigit()):
        return StatusCode.UNKNOWN
    return StatusCode.from_wire(int(value[:3]))


_OF_HTTP = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}


def status_of_http(http_status: int) -> StatusCode:
    """What an answer without ``grpc-status`` means (gRPC's http-grpc-status-mapping)."""
    return _OF_HTTP.get(http_status, StatusCode.UNKNOWN)


def parse_timeout(value: str) -> float:
    """Seconds of a ``grpc-timeout`` such as ``250m``.

    Raises:
        RemoteProtocolError: it is not up to eight digits and a unit.
    """
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise RemoteProtocolError(
            f"grpc-timeout {value[:20]!r} is not up to 8 digits and one of H M S m u n"
        )
    return int(match[1]) * _UNITS[match[2]]


def format_timeout(seconds: float) -> str:
    """``seconds`` as ``grpc-timeout``, in the finest unit that holds it; rounded up."""
    for unit in "numSMH":
        value = math.ceil(max(seconds, 0) / _UNITS[unit])
        if value <= _LARGEST:
            return f"{value}{unit}"
    return f"{_LARGEST}H"
