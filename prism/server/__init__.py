"""The HTTP server: from a listening socket to an ASGI application.

hypercorn ends the process when a connection raises, and buffers without bound for a client
that does not read. So the
accept loop, HTTP/1.1 (on h11) and HTTP/2 (on h2) are the proxy's own. The application
above is plain ASGI 3 and also runs on stock hypercorn.

`serve` accepts and drains > `connection` fences one connection in > `http1` and `http2`
read and write > `exchange` is one request as ASGI has it.
"""

from prism.server.asgi import CANCELLED, App, Message, Receive, Scope, Send
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
    "CANCELLED",
    "App",
    "Listener",
    "Message",
    "Receive",
    "Scope",
    "Send",
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
