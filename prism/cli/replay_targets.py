"""What answers the calls of ``prism replay``: a namespace of a running proxy, or a plugin that is
started for it."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import click
import httpx
import trio

from prism.calls.comparison import Answer, Names, declared_names, names_in
from prism.cli.connection import CONNECT_TIMEOUT, say_unreachable, target_url, tls_context
from prism.cli.output import CommandError, decoded, refused
from prism.config.types import PluginConfig
from prism.contract.errors import CallError
from prism.contract.messages import ExecuteRequest
from prism.contract.service import NAMESPACE_KEY, PRINCIPAL_KEY, REQUEST_ID_KEY
from prism.contract.status import StatusCode
from prism.observability.recording import RecordedCall
from prism.supervision.instance import InstanceSpec
from prism.supervision.supervisor import Supervisor

LONGEST = 60.0
"""Seconds that an answer is waited for."""


class Target(Protocol):
    """Where calls are played."""

    name: str

    @asynccontextmanager
    def open(self, namespace: str) -> AsyncIterator[None]:
        """Within it calls can be made; ``namespace`` is the recorded one. Raises CommandError."""

    async def call(self, call: RecordedCall) -> Answer | None:
        """What comes of the call; None: nothing, since it could not be made."""

    def names(self, operation: str) -> Names:
        """The names that the operation's schemas declare."""


class ProxyTarget:
    """A namespace of a running proxy."""

    def __init__(
        self,
        url: str,
        namespace: str,
        headers: dict[str, str],
        ca_cert: str | None,
        cert: str | None,
    ) -> None:
        self.name = f"{url} {namespace}"
        self._url = url
        self._namespace = namespace
        self._headers = headers
        self._ca_cert = ca_cert
        self._tls = tls_context(ca_cert, cert)
        self._client: Any = None
        self._operations: dict[str, Any] = {}
        self._names: dict[str, Names] = {}

    @asynccontextmanager
    async def open(self, namespace: str) -> AsyncIterator[None]:
        """Have a client, and ask what the namespace has: what reaches nobody ends the command."""
        async with httpx.AsyncClient(
            http1=self._url.startswith("https:"),
            http2=True,
            verify=self._tls or True,
            timeout=httpx.Timeout(LONGEST, connect=CONNECT_TIMEOUT),
            trust_env=False,
        ) as self._client:
            await self._ask()
            yield

    async def _ask(self) -> None:
        """Else each call would say that there is no such namespace, or no operation."""
        url = f"{self._url.rstrip('/')}/v1/{self._namespace}"
        try:
            response = await self._client.get(url, headers=self._headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            say_unreachable(self._url, error, self._ca_cert)
            sys.exit(1)
        if not response.is_success:
            click.echo(refused(response.status_code, response.text), err=True)
            sys.exit(2)
        found = decoded(response.text)
        operations = found.get("operations") if isinstance(found, dict) else None
        if not isinstance(operations, dict):
            click.echo(f"prism: {url} is no namespace of a proxy's data port", err=True)
            sys.exit(2)
        self._operations = operations

    def names(self, operation: str) -> Names:
        """As the proxy describes the operation."""
        found = self._names.get(operation)
        if found is None:
            declared = self._operations.get(operation) or {}
            schemas = (declared.get("params"), declared.get("result"))
            found = self._names[operation] = names_in(schemas)
        return found

    async def call(self, call: RecordedCall) -> Answer | None:
        """POST it."""
        raw = call.params_raw
        kind = "application/msgpack" if raw else "application/json"
        headers = {"content-type": kind, "accept": kind, **self._headers}
        url = target_url(self._url, self._namespace, call.operation)
        began = trio.current_time()
        try:
            response = await self._client.post(
                url, content=raw or bytes(call.params), headers=headers
            )
        except httpx.HTTPError:
            return None
        seconds = trio.current_time() - began
        if response.is_success:
            if raw:
                return Answer(StatusCode.OK, raw=response.content, seconds=seconds)
            return Answer(StatusCode.OK, response.text, seconds=seconds)
        problem = decoded(response.text)
        code = problem.get("code") if isinstance(problem, dict) else None
        status = StatusCode.__members__.get(code) if isinstance(code, str) else None
        return None if status is None else Answer(status, seconds=seconds)


class PluginTarget:
    """A plugin that is started for it, and supervised as the proxy would."""

    def __init__(self, command: list[str], config: str, credentials: dict[str, str]) -> None:
        self.name = " ".join(command)
        self._command = command
        self._config = config
        self._credentials = credentials
        self._slot: Any = None
        self._names: dict[str, Names] = {}

    @asynccontextmanager
    async def open(self, namespace: str) -> AsyncIterator[None]:
        """Have the plugin run."""

        async def credentials() -> dict[str, str]:
            return self._credentials

        spec = InstanceSpec(
            namespace=namespace,
            backend="replay",
            plugin_name="replayed",
            plugin=PluginConfig(type="sidecar", command=self._command),
            config_json=self._config,
            credentials=credentials,
        )
        supervisor = Supervisor([spec])
        slot = self._slot = supervisor.slots[namespace]
        absence = ""
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            absence = slot.absence if slot.current is None else ""
            try:
                if not absence:
                    yield
            finally:
                supervisor.stop()
                with trio.CancelScope(shield=True):  # bounded: it is killed in the end
                    await supervisor.wait_stopped()
        if absence:
            raise CommandError(f"the plugin does not serve: {absence}")

    async def call(self, call: RecordedCall) -> Answer | None:
        """Give it to the plugin."""
        instance = self._slot.current
        if instance is None:
            return None
        if call.operation not in instance.operations:
            return Answer(StatusCode.UNIMPLEMENTED)
        request = ExecuteRequest(
            operation=call.operation,
            params_json="" if call.params_raw else bytes(call.params).decode(),
            params_raw=call.params_raw,
            metadata={
                NAMESPACE_KEY: call.namespace,
                PRINCIPAL_KEY: "replay",
                REQUEST_ID_KEY: call.id,
                **call.metadata,
            },
        )
        began = trio.current_time()
        try:
            with trio.fail_after(LONGEST):
                response = await instance.channel.execute(request)
        except CallError as error:
            return Answer(error.status, seconds=trio.current_time() - began)
        except trio.TooSlowError:
            return Answer(StatusCode.DEADLINE_EXCEEDED, seconds=LONGEST)
        seconds = trio.current_time() - began
        if response.success:
            return Answer(StatusCode.OK, response.result_json, response.result_raw, seconds)
        status = StatusCode.from_wire(response.error_code) or StatusCode.UNKNOWN
        return Answer(status, seconds=seconds)

    def names(self, operation: str) -> Names:
        """As the plugin declares them."""
        found = self._names.get(operation)
        if found is None:
            declared = self._slot.operations.get(operation)
            found = self._names[operation] = declared_names(declared)
        return found
