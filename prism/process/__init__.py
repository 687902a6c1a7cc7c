"""The proxy as one process among others: who started it, and who follows it.

``sockets``: listening sockets that somebody else opened, and how many connections fit.
``descriptors``: how many files it may have open. ``service_manager``: what systemd is
told. ``handover``: a rolling restart, in which one process hands its sockets to the next.
"""
