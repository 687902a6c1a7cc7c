"""How calls travel to a plugin.

``channel`` defines the one interface; ``frames`` carries it over any byte stream
(``prism.streams``, or ``websocket``), ``grpc`` to a gRPC server, ``in_process`` by direct calls.
"""
