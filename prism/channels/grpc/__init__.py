"""Remote plugins that are gRPC servers (RFC-008, Model 3), reached over HTTP/2.

`link` carries HTTP/2 over a stream > `exchange` is one request on it > `channel` makes
the contract's five calls.
"""

from prism.channels.grpc.channel import GrpcChannel

__all__ = ["GrpcChannel"]
