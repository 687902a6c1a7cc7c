"""Bytes on trio, for the server and for channels: sockets, Unix sockets, TCP and TLS."""
