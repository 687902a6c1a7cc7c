"""The frame protocol of docs/protocol.md as a value. Bytes in, events out.

:class:`~prism.wire.connection.Connection` is the whole of it: feed what the
network gives to ``receive_data``, take what happened from ``next_event``, say
what to do with ``send``, and write what ``data_to_send`` returns. It knows
neither sockets nor clocks, so it serves the proxy on trio, a plugin on asyncio,
and a test without either.
"""

from prism.wire._state import ConnectionState, Role

__all__ = ["ConnectionState", "Role"]
