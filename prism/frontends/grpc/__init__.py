"""The gRPC front door, on the same port as REST: the contract's service for clients,
gRPC's health protocol and server reflection.

`app` dispatches > `execute`, `health`, `reflection` are the services > `call` is one gRPC
call on its HTTP/2 stream.
"""

from prism.frontends.grpc.app import GrpcApp, is_grpc

__all__ = ["GrpcApp", "is_grpc"]
