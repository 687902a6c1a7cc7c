"""Floor 1: frames, codecs, connection and stream states. Sans-I/O: bytes in, events out."""
