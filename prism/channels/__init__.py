"""Floor 2: how calls travel to a plugin.

``channel`` defines the one interface; ``framed`` carries it as frames over any
byte stream, ``in_process`` by direct calls. The other modules make the streams:
``inherited`` (a socketpair), ``unix`` and ``tcp``.
"""
