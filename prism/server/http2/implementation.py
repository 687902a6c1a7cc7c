"""Which codec serves: nghttp2 where the extension and the library are there, else h2.

``ServerSettings.http2_codec`` decides otherwise, and ``PRISM_HTTP2_CODEC`` is its default.
Asking for a codec that is not there is an error, not a silent second best.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import NamedTuple, Protocol

from prism.contract.errors import PrismError
from prism.server.http2.codec import Codec
from prism.server.http2.h2_codec import H2Codec
from prism.server.http2.limits import FrameGuard
from prism.server.settings import CODEC_VARIABLE, ServerSettings


class Guard(Protocol):
    """What ``limits.FrameGuard`` and its twin in C offer; documented there."""

    @property
    def in_header_block(self) -> bool: ...
    def inspect(self, data: bytes, now: float, /) -> int: ...
    def charge(self, cost: int, /) -> None: ...
    def credit(self, amount: int, /) -> None: ...


class Implementation(NamedTuple):
    """A codec and the guard before it. ``str()`` names it with its version."""

    name: str
    version: str
    codec: Callable[[ServerSettings, bytes | None], Codec]
    guard: Callable[[int, int, int, int, float], Guard]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class CodecUnavailable(PrismError):
    """The codec asked for is not there."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{CODEC_VARIABLE}={self.name}: {self.reason}; unset it, or set it to h2, "
            "which is always there (docs/http2.md says how to get nghttp2)"
        )


def on_h2() -> Implementation:
    """The codec on the h2 library."""
    return Implementation("h2", version("h2"), H2Codec, FrameGuard)


def on_nghttp2() -> Implementation:
    """The codec on nghttp2.

    Raises:
        ImportError: the extension was not built, or the library is not there.
    """
    from prism.server.http2 import _nghttp2

    def codec(settings: ServerSettings, upgrade: bytes | None) -> Codec:
        return _nghttp2.Session(
            settings.max_concurrent_streams,
            settings.max_header_size,
            settings.max_header_fields,
            settings.stream_window,
            settings.connection_window,
            upgrade,
        )

    return Implementation("nghttp2", _nghttp2.VERSION, codec, _nghttp2.FrameGuard)


@cache
def choose(wanted: str = "") -> Implementation:
    """The codec called ``wanted``; if that is empty, the fastest that is there.

    Raises:
        CodecUnavailable: it is not there, or there is none of that name.
    """
    if wanted == "h2":
        return on_h2()
    if wanted not in {"", "nghttp2"}:
        raise CodecUnavailable(wanted, "there is no such codec")
    try:
        return on_nghttp2()
    except ImportError as error:
        if wanted:
            raise CodecUnavailable(wanted, str(error)) from error
        return on_h2()
