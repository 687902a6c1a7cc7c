"""The first call to a plugin: Initialize, and what its answer declares."""

import trio

from prism import __version__
from prism.channels.channel import PluginChannel
from prism.contract.messages import (
    InitializeRequest,
    InitializeResponse,
    OperationDeclaration,
    ProxyCapabilities,
)
from prism.streams.errors import LaunchError
from prism.supervision.spec import InstanceSpec


async def initialize(
    channel: PluginChannel, spec: InstanceSpec, credentials: dict[str, str]
) -> InitializeResponse:
    """Configure the plugin behind ``channel``; returns its consent.

    Raises:
        LaunchError: it refused, or gave no answer in time.
        CallError: the channel broke.
    """
    limit = spec.plugin.start_timeout_seconds
    request = InitializeRequest(
        namespace=spec.namespace,
        backend_type=spec.backend,
        config_json=spec.config_json,
        credentials=credentials,
        capabilities=ProxyCapabilities(
            supports_metrics_push=True,
            supports_distributed_tracing=True,
            supports_hot_reload=True,
            proxy_version=__version__,
        ),
    )
    with trio.move_on_after(limit) as in_time:
        answer = await channel.initialize(request)
    if in_time.cancelled_caught:
        raise LaunchError(
            f"{spec.label} did not answer Initialize within {limit:g} seconds", crashed=True
        )
    if not answer.success:
        raise LaunchError(f"{spec.label} refused to start: {answer.error or 'it did not say why'}")
    return answer


def declared_operations(answer: InitializeResponse) -> dict[str, OperationDeclaration]:
    """Every operation that the plugin supports; an empty declaration where it made none."""
    declared = {operation.name: operation for operation in answer.operations}
    return {
        name: declared.get(name, OperationDeclaration(name=name))
        for name in answer.supported_operations or declared
    }
