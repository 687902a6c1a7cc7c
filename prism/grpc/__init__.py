"""gRPC without I/O: contract messages in protobuf, and gRPC's framing of them.

Sans-I/O like the frame protocol beside it; the front end that clients reach and the
channel to gRPC plugins both stand on it.
"""
