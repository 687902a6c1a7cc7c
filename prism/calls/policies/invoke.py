"""The innermost step: the call to the plugin."""

import trio

from prism.calls.namespace import Namespace
from prism.calls.request import Reply, Request
from prism.contract.errors import (
    CallError,
    InvalidRequest,
    PluginError,
    PluginMisbehaved,
    UnknownOperation,
)
from prism.contract.messages import ExecuteRequest, ExecuteResponse
from prism.contract.status import StatusCode
from prism.supervision.instance import Instance

MAX_DETAIL = 4096
"""Characters of a plugin's error message that a client gets to see."""


class Invoke:
    """Leases the namespace's current instance and executes the call on it."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    async def __call__(self, request: Request) -> Reply:
        """The plugin's result.

        Raises:
            PluginUnavailable: there is no instance.
            UnknownOperation, InvalidRequest: the instance does not offer this.
            PluginError: the plugin answered with an error.
            CallError: the plugin did not answer.
        """
        record = request.record
        with self._namespace.slot.lease() as instance:
            record.instance = instance.id
            self._check_offered(request, instance)
            execute = ExecuteRequest(
                operation=request.operation,
                params_json=request.params.text,
                params_raw=request.params.raw,
                metadata=request.metadata,
            )
            started = trio.current_time()
            try:
                response = await instance.channel.execute(execute)
            except CallError as error:
                if instance.sample is not None:
                    instance.sample.take(trio.current_time() - started, error.status)
                raise
            finally:
                record.plugin_seconds = trio.current_time() - started
            if instance.sample is not None:
                instance.sample.take(record.plugin_seconds, _status(response))
            if response.metrics is not None:
                instance.metrics = response.metrics
        if not response.success:
            raise PluginError(_status(response), response.error[:MAX_DETAIL])
        return _reply(response)

    def _check_offered(self, request: Request, instance: Instance) -> None:
        declaration = instance.operations.get(request.operation)
        if declaration is None:
            raise UnknownOperation(request.namespace, request.operation, list(instance.operations))
        if declaration.streaming:
            raise InvalidRequest(
                f"operation {request.operation!r} answers with a stream, not with one result; "
                "accept text/event-stream or application/x-ndjson (gRPC: ExecuteStream)"
            )


def _status(response: ExecuteResponse) -> StatusCode:
    if response.success:
        return StatusCode.OK
    # A plugin that fails without naming a status has not said what went wrong.
    return StatusCode.from_wire(response.error_code) or StatusCode.UNKNOWN


def _reply(response: ExecuteResponse) -> Reply:
    if response.result_raw and not response.result_json:
        return Reply(response.result_raw, b"application/msgpack")
    try:
        # No result is an empty one, just as no params are.
        return Reply(response.result_json.encode() or b"{}")
    except UnicodeEncodeError:
        raise PluginMisbehaved("the plugin's result is not valid Unicode") from None
