"""The destinations that a plugin may connect to, as the configuration writes them.

Pure values: nothing here resolves a name or opens a socket.
"""

import ipaddress
import re
from typing import NamedTuple

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix:"
FORM = (
    'a "host:port", such as "db.internal:5432", "*.internal:9092", "10.0.0.0/8:6379", '
    '"[fd00::1]:443", or "unix:/path"; the port may be *'
)
# The last label is no number, so that a mistyped address is no name.
_NAME = re.compile(r"(?:\*\.)?(?:[a-z0-9_][a-z0-9_-]{0,62}\.)*(?![0-9]+$)[a-z0-9_][a-z0-9_-]{0,62}")


class Destination(NamedTuple):
    """One entry of ``egress``. Of ``name``, ``suffix`` (with its dot), ``network`` and ``path``
    one is there; ``port`` is None where any will do."""

    text: str
    port: int | None = None
    name: str = ""
    suffix: str = ""
    network: IPNetwork | None = None
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Destination":
        """Read an entry.

        Raises:
            ValueError: it is none; the message is a sentence for the operator.
        """
        if text.startswith(UNIX):
            path = text[len(UNIX) :]
            if not path.startswith("/"):
                raise ValueError(f"{text!r}: the path of a Unix socket begins with /")
            return cls(text, path=path)
        host, colon, port_text = text.rpartition(":")
        if not colon or not host or (":" in host and not host.startswith("[")):
            raise ValueError(f"{text!r} is not {FORM}")
        port = _port(text, port_text)
        if host.startswith("["):
            host = host.removeprefix("[").removesuffix("]")
        try:
            return cls(text, port, network=ipaddress.ip_network(host))
        except ValueError as error:
            if "host bits" in str(error):
                network = ipaddress.ip_network(host, strict=False)
                raise ValueError(f"{text!r}: the network is {network}") from None
        name = host.lower().rstrip(".")
        if not _NAME.fullmatch(name) or len(name) > 253:
            raise ValueError(f"{text!r} is not {FORM}")
        if name.startswith("*."):
            return cls(text, port, suffix=name[1:])
        return cls(text, port, name=name)

    def names(self, name: str) -> bool:
        """Is this about the host ``name``, in lower case and without a dot at its end?"""
        return name == self.name if self.name else bool(self.suffix) and name.endswith(self.suffix)

    def has(self, port: int) -> bool:
        """Is this about that port?"""
        return self.port is None or self.port == port


def _port(text: str, port: str) -> int | None:
    if port == "*":
        return None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: the port is a number from 1 to 65535, or *")
    return int(port)
