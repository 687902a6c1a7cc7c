"""The HTTP server: from a listening socket to front ends (`exchange.FrontEnd`).

`serve` accepts and drains > `connection` fences one connection in > `http1` and `http2`
read and write > `exchange` is one request and its response.
"""

from prism.server.exchange import Exchange, FrontEnd
from prism.server.serve import serve
from prism.server.settings import ServerSettings
from prism.server.statistics import ServerStatistics
from prism.streams.listeners import (
    Listener,
    TLSListener,
    bound_address,
    descriptor,
    listen_on,
    open_listeners,
)
from prism.streams.tls import ServerTLS

__all__ = [
    "Exchange",
    "FrontEnd",
    "Listener",
    "ServerSettings",
    "ServerStatistics",
    "ServerTLS",
    "TLSListener",
    "bound_address",
    "descriptor",
    "listen_on",
    "open_listeners",
    "serve",
]
