"""Which codec serves: nghttp2 where the extension and the library are there, else h2.

``ServerSettings.http2_codec`` decides otherwise, and ``PRISM_HTTP2_CODEC`` is its default.
Asking for a codec that is not there is an error, not a silent second best.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

from prism.contract.errors import PrismError
from prism.server.http2.codec import HTTP2Codec
from prism.server.settings import CODEC_VARIABLE, ServerSettings

_API = 3
"""Of the extension, counted up with each change. In a working copy it may be older than this
file, and then does not serve."""


class Implementation(NamedTuple):
    """How a codec is made, from the settings and the time. ``str()`` names it with its version."""

    name: str
    version: str
    codec: Callable[[ServerSettings, float], HTTP2Codec]

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
    """The codec on the h2 library, which is imported only where it is used."""
    from prism.server.http2.h2_codec import H2Codec

    return Implementation("h2", version("h2"), H2Codec)


def on_nghttp2() -> Implementation:
    """The codec on nghttp2.

    Raises:
        ImportError: the extension was not built from these sources, or the library is not there.
    """
    from prism.server.http2 import _nghttp2

    if getattr(_nghttp2, "API", 1) != _API:
        raise ImportError("the extension was built from other sources; install Prism again")

    def codec(settings: ServerSettings, now: float) -> HTTP2Codec:
        return _nghttp2.Session(
            settings.max_concurrent_streams,
            settings.max_header_size,
            settings.max_header_fields,
            settings.stream_window,
            settings.connection_window,
            settings.flood_budget,
            settings.flood_refill,
            now,
        )

    return Implementation("nghttp2", _nghttp2.VERSION, codec)


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
