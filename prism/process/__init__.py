"""The proxy as one process among others: who started it, and who follows it.

``given_sockets``: listening sockets that somebody else opened. ``service_manager``:
what systemd is told. ``successor`` and ``predecessor``: the two ends of a rolling
restart, in which one process hands its sockets to the next.
"""
