"""The innermost step of a streaming call: the plugin's stream, relayed to the client."""

import trio

from prism.calls.namespace import Namespace
from prism.calls.policies.relay import OpenStream, relay
from prism.calls.request import Reply, Request
from prism.contract.errors import InvalidRequest, UnknownOperation
from prism.contract.messages import StreamRequest
from prism.supervision.instance import Instance


class InvokeStream:
    """Leases the namespace's current instance for as long as the stream lasts."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    async def __call__(self, request: Request) -> Reply:
        """An empty reply once the plugin has ended the stream; its messages went to
        ``request.stream``.

        Raises:
            PluginUnavailable: there is no instance.
            UnknownOperation, InvalidRequest: the instance does not offer this as a stream.
            CallError: the stream failed.
        """
        assert request.stream is not None  # noqa: S101 - else ``Invoke`` is called
        record = request.record
        with self._namespace.slot.lease() as instance:
            record.instance = instance.id
            _check_offered(request, instance)
            first = StreamRequest(
                operation=request.operation,
                params_json=request.params.text,
                params_raw=request.params.raw,
                metadata=request.metadata,
            )
            stream = OpenStream(instance.id)
            self._namespace.open_streams.add(stream)
            idle_timeout = self._namespace.limits.stream_idle_timeout_seconds
            started = trio.current_time()
            try:
                async with instance.channel.execute_stream(first) as call:
                    await relay(call, request.stream, stream, idle_timeout)
            finally:
                self._namespace.open_streams.remove(stream)
                record.plugin_seconds = trio.current_time() - started
        return Reply(b"")


def _check_offered(request: Request, instance: Instance) -> None:
    declaration = instance.operations.get(request.operation)
    if declaration is None:
        raise UnknownOperation(request.namespace, request.operation, list(instance.operations))
    if not (declaration.streaming or declaration.also_streaming):
        raise InvalidRequest(
            f"operation {request.operation!r} answers with one result, not with a stream; "
            "accept application/json (gRPC: Execute)"
        )
