"""A connected pair of sockets: one for the proxy, one for the plugin it starts.

There is no path to squat, guess or delete, and nothing else can connect. When
either process dies, the other reads end-of-file.
"""

import socket

import trio

FD_VARIABLE = "PRISM_PLUGIN_FD"
"""Environment variable that tells a spawned plugin its descriptor's number."""


def socket_pair() -> tuple[trio.SocketStream, socket.socket]:
    """The proxy's end as a stream, and the plugin's end to hand down and then close."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return trio.SocketStream(trio.socket.from_stdlib_socket(ours)), theirs
