"""The doors: what a request means, for REST, gRPC, WebSocket and admin, and the ASGI adapter."""
