"""Streams over plain HTTP: server-sent events and newline-delimited JSON.

`formats` says which one a client asked for and how each writes a message, an error and a
heartbeat; `body` reads the client's messages; `http_stream` is the call's stream.
"""

from prism.frontends.rest.streams.body import RequestLines
from prism.frontends.rest.streams.formats import EventStream, StreamFormat, choose_format
from prism.frontends.rest.streams.http_stream import HTTPStream

__all__ = [
    "EventStream",
    "HTTPStream",
    "RequestLines",
    "StreamFormat",
    "choose_format",
]
