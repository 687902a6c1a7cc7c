"""One frozen Struct for each message of ``schemas/prism/plugin.proto``.

The Structs are the only form in which the rest of Prism knows the contract.
Field names are the proto's; ``FIELD_NUMBERS`` keeps its numbers, so that the
gRPC channel and the test that compares both files have one source.

JSON and MessagePack carry the messages as maps keyed by field name, fields at
their default left out (``omit_defaults``), unknown fields ignored: proto3's rules.
"""

from enum import IntEnum
from typing import Annotated

import msgspec
from msgspec import Meta

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Message(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Base of all contract messages: frozen, defaults omitted on the wire."""


class ProxyCapabilities(Message, frozen=True):
    """What the proxy offers its plugins."""

    supports_metrics_push: bool = False
    supports_distributed_tracing: bool = False
    supports_hot_reload: bool = False
    proxy_version: str = ""


class CacheSettings(Message, frozen=True):
    """What results of a namespace's plugin may be kept, how long, and in how much memory.

    ``write_through``: a write puts what it wrote into the cache, instead of only removing what
    was there.
    """

    operations: list[str] = []
    ttl_seconds: float = 0.0
    max_bytes: Int64 = 0
    write_through: bool = False


class InitializeRequest(Message, frozen=True):
    """A plugin's configuration: the first call on every connection, made once."""

    namespace: str = ""
    backend_type: str = ""
    config_json: str = ""
    credentials: dict[str, str] = {}
    capabilities: ProxyCapabilities | None = None
    cache: CacheSettings | None = None

    def __repr__(self) -> str:
        """Names the credentials without their values: reprs end up in logs."""
        return (
            f"InitializeRequest(namespace={self.namespace!r}, backend_type={self.backend_type!r}, "
            f"config_json=<{len(self.config_json)} characters>, "
            f"credentials={sorted(self.credentials)})"
        )


class OperationAccess(IntEnum):
    """``OperationDeclaration.Access``: which permission a caller of the operation needs.

    What is not declared is taken for WRITE: who may only read must not meet a surprise.
    """

    UNDECLARED = 0
    READ = 1
    WRITE = 2
    ADMIN = 3


class OperationDeclaration(Message, frozen=True):
    """What a plugin promises about one of its operations.

    The schemas are JSON Schema (2020-12) as JSON text, empty where nothing is told: of the
    params and the result, or, of a ``streaming`` operation, of the first message to it and of
    each message from it. ``stream_params_schema`` and ``stream_result_schema`` are the latter
    for an operation that is ``also_streaming``. ``cost`` is what a call uses of a rate limit, where
    the configuration does not say it; 0 stands for 1.
    """

    name: str = ""
    idempotent: bool = False
    streaming: bool = False
    also_streaming: bool = False
    access: OperationAccess = OperationAccess.UNDECLARED
    description: str = ""
    params_schema: str = ""
    result_schema: str = ""
    stream_params_schema: str = ""
    stream_result_schema: str = ""
    cost: Int32 = 0


class InitializeResponse(Message, frozen=True):
    """A plugin's answer to Initialize: ready, or why not.

    ``groups`` are the vocabularies it speaks: sets of operations that are the same in every
    plugin that declares them, such as ``key_value``.
    """

    success: bool = False
    error: str = ""
    plugin_version: str = ""
    supported_operations: list[str] = []
    operations: list[OperationDeclaration] = []
    error_code: Int32 = 0
    groups: list[str] = []


class PluginMetrics(Message, frozen=True):
    """A plugin's own counters: cumulative since its start; ``latency_ms`` is the last call's."""

    requests_total: Int64 = 0
    requests_failed: Int64 = 0
    latency_ms: float = 0.0
    connections_active: Int64 = 0
    connections_idle: Int64 = 0
    queries_executed: Int64 = 0
    cache_hits: Int64 = 0
    cache_misses: Int64 = 0
    custom_metrics_json: str = ""


class ExecuteRequest(Message, frozen=True):
    """One call. Params are JSON text, or MessagePack in ``params_raw``."""

    operation: str = ""
    params_json: str = ""
    metadata: dict[str, str] = {}
    params_raw: bytes = b""


class ExecuteResponse(Message, frozen=True):
    """The answer to one call; ``error_code`` is a gRPC status code."""

    success: bool = False
    error: str = ""
    error_code: Int32 = 0
    result_json: str = ""
    metrics: PluginMetrics | None = None
    result_raw: bytes = b""


class StreamRequest(Message, frozen=True):
    """One message from the caller of a stream; the first one names the operation."""

    operation: str = ""
    params_json: str = ""
    metadata: dict[str, str] = {}
    params_raw: bytes = b""


class StreamResponse(Message, frozen=True):
    """One message from the plugin on a stream.

    ``position``, where a plugin gives it, is where a later stream can resume after this.
    """

    result_json: str = ""
    is_final: bool = False
    error: str = ""
    error_code: Int32 = 0
    result_raw: bytes = b""
    position: str = ""


class HealthStatus(IntEnum):
    """``HealthCheckResponse.Status``. DEGRADED keeps its traffic, UNHEALTHY loses it."""

    HEALTHY = 0
    DEGRADED = 1
    UNHEALTHY = 2


class HealthCheckRequest(Message, frozen=True):
    """Asks for the health of a plugin, or of one of its backend connections."""

    connection_id: str | None = None


class HealthCheckResponse(Message, frozen=True, omit_defaults=False):
    """A plugin's health. A reply that does not state its status is UNHEALTHY.

    The default therefore differs from proto3's HEALTHY = 0, and the status is
    always written: silence must never read as good health.
    """

    status: HealthStatus = HealthStatus.UNHEALTHY
    message: str = ""
    details: dict[str, str] = {}
    metrics: PluginMetrics | None = None


class ShutdownRequest(Message, frozen=True):
    """Asks a plugin to finish its calls and end."""

    timeout_seconds: Int32 = 0
    reason: str = ""


class ShutdownResponse(Message, frozen=True):
    """A plugin's answer to Shutdown, sent before it ends."""

    success: bool = False
    error: str = ""


FIELD_NUMBERS: dict[type[Message], dict[str, int]] = {
    InitializeRequest: {
        "namespace": 1,
        "backend_type": 2,
        "config_json": 3,
        "credentials": 4,
        "capabilities": 5,
        "cache": 6,
    },
    CacheSettings: {"operations": 1, "ttl_seconds": 2, "max_bytes": 3, "write_through": 4},
    InitializeResponse: {
        "success": 1,
        "error": 2,
        "plugin_version": 3,
        "supported_operations": 4,
        "operations": 5,
        "error_code": 6,
        "groups": 7,
    },
    OperationDeclaration: {
        "name": 1,
        "idempotent": 2,
        "streaming": 3,
        "also_streaming": 4,
        "access": 5,
        "description": 6,
        "params_schema": 7,
        "result_schema": 8,
        "stream_params_schema": 9,
        "stream_result_schema": 10,
        "cost": 11,
    },
    ExecuteRequest: {"operation": 1, "params_json": 2, "metadata": 3, "params_raw": 4},
    ExecuteResponse: {
        "success": 1,
        "error": 2,
        "error_code": 3,
        "result_json": 4,
        "metrics": 5,
        "result_raw": 6,
    },
    StreamRequest: {"operation": 1, "params_json": 2, "metadata": 3, "params_raw": 4},
    StreamResponse: {
        "result_json": 1,
        "is_final": 2,
        "error": 3,
        "error_code": 4,
        "result_raw": 5,
        "position": 6,
    },
    HealthCheckRequest: {"connection_id": 1},
    HealthCheckResponse: {"status": 1, "message": 2, "details": 3, "metrics": 4},
    PluginMetrics: {
        "requests_total": 1,
        "requests_failed": 2,
        "latency_ms": 3,
        "connections_active": 4,
        "connections_idle": 5,
        "queries_executed": 6,
        "cache_hits": 7,
        "cache_misses": 8,
        "custom_metrics_json": 9,
    },
    ProxyCapabilities: {
        "supports_metrics_push": 1,
        "supports_distributed_tracing": 2,
        "supports_hot_reload": 3,
        "proxy_version": 4,
    },
    ShutdownRequest: {"timeout_seconds": 1, "reason": 2},
    ShutdownResponse: {"success": 1, "error": 2},
}
"""The proto field number of every field, by message."""
