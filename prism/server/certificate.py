"""What an operator must know of a certificate: which one it is, and when it ends.

Python's ``ssl`` tells neither for a certificate of one's own, so these two fields are
read from its DER form (RFC 5280, 4.1): ::

    SEQUENCE                     Certificate
      SEQUENCE                   TBSCertificate
        [0] version (optional)
        INTEGER serialNumber
        SEQUENCE signature
        SEQUENCE issuer
        SEQUENCE validity
          Time notBefore
          Time notAfter
        ...
"""

import calendar
import time
from typing import NamedTuple

_INTEGER, _SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x02, 0x30, 0x17, 0x18, 0xA0


class Certificate(NamedTuple):
    """``serial`` is hexadecimal, as openssl prints it; ``expires`` is Unix time."""

    serial: str
    expires: float


def read_certificate(der: bytes) -> Certificate:
    """Read a certificate in DER form.

    Raises:
        ValueError: it is not one.
    """
    _, certificate, _ = _element(der, _SEQUENCE)
    _, fields, _ = _element(certificate, _SEQUENCE)
    if fields[:1] == bytes([_VERSION]):
        _, _, fields = _element(fields, _VERSION)
    _, serial, fields = _element(fields, _INTEGER)
    _, _, fields = _element(fields, _SEQUENCE)
    _, _, fields = _element(fields, _SEQUENCE)
    _, validity, _ = _element(fields, _SEQUENCE)
    _, _, validity = _element(validity)
    kind, text, _ = _element(validity)
    if kind not in {_UTC_TIME, _GENERALIZED_TIME}:
        raise ValueError("notAfter is not a time")
    pattern = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    moment = time.strptime(text.decode("ascii"), pattern)
    year = moment.tm_year
    if kind == _UTC_TIME and year >= 2050:  # RFC 5280, 4.1.2.5.1; Python's pivot is 2069
        year -= 100
    return Certificate(serial.hex().upper(), calendar.timegm((year, *moment[1:])))


def _element(data: bytes, expected: int | None = None) -> tuple[int, bytes, bytes]:
    """The first element's tag and content, and what follows it."""
    if len(data) < 2 or (expected is not None and data[0] != expected):
        raise ValueError("not a certificate in DER form")
    size, start = data[1], 2
    if size >= 0x80:
        start += size - 0x80
        size = int.from_bytes(data[2:start], "big")
    if len(data) < start + size:
        raise ValueError("a certificate cut short")
    return data[0], data[start : start + size], data[start + size :]
