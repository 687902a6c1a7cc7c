"""Floor 2: how calls travel to a plugin.

``channel`` defines the one interface; ``framed`` carries it as frames over any
byte stream (``prism.streams``, or ``websocket``), ``in_process`` by direct calls.
"""
