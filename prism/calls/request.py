"""A request on its way to a plugin, the reply on its way back, and the record of both.

A front end makes one ``CallRecord`` for everything it answers and one frozen
``Request`` for every call. Policies decide on the request; the record is only
written to, for the access log and the metrics.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

import msgspec

from prism.calls.namespace import Namespace
from prism.calls.stream import ClientStream
from prism.calls.trace import Trace
from prism.contract.errors import CallError
from prism.contract.status import StatusCode


class CallRecord(msgspec.Struct):
    """What is known so far of a call, refused ones included.

    ``target`` is set once the namespace is known to exist; ``namespace`` and
    ``operation`` are the names that the client used, empty while they have not
    been recognised as names. ``plugin_seconds`` is None while the plugin has not
    been called. ``retries`` counts further attempts, on another instance. ``started`` is
    on trio's clock. ``is_answered``: all of the answer has
    been handed to the server, so that what happens to the client is no part of the call.
    """

    started: float
    request_id: str
    trace: Trace
    principal: str = "anonymous"
    target: Namespace | None = None
    namespace: str = ""
    operation: str = ""
    instance: str = ""
    plugin_seconds: float | None = None
    retries: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    is_call: bool = False
    is_answered: bool = False
    status: StatusCode = StatusCode.OK
    http_status: int = 0
    reason: str = ""

    def metadata(self) -> dict[str, str]:
        """What the plugin is told of the call beside its parameters."""
        metadata = {
            "prism-namespace": self.namespace,
            "prism-principal": self.principal,
            "prism-request-id": self.request_id,
            "traceparent": self.trace.parent,
        }
        if self.trace.state:
            metadata["tracestate"] = self.trace.state
        return metadata

    def fail(self, error: CallError) -> None:
        """Note that the call ended with ``error``."""
        self.status = error.status
        self.http_status = error.http_status
        self.reason = error.reason


class Params(ABC):
    """A request's parameters, which arrive after its head.

    They are read late, so that a call can be refused without taking in its body.
    ``text`` is the JSON exactly as received, once the ``ReadParams`` policy has
    read and checked it; until then it is empty. ``raw`` is MessagePack in its place.
    ``operation`` is set by ``read`` where the name comes with the parameters.
    ``place`` is where the client put them, for errors.
    """

    text: str = ""
    raw: bytes = b""
    operation: str = ""
    place: str = "the body"

    @abstractmethod
    async def read(self, limit: int) -> bytes:
        """All bytes of the parameters. After a cancellation they cannot be read again.

        Raises:
            PayloadTooLarge: there are more than ``limit``; the rest is not read.
            RequestTimeout: the client stopped sending.
            CallCancelled: the client went away.
        """


class Request(msgspec.Struct, frozen=True):
    """One call, as the policies see it. ``deadline`` is on trio's clock.

    ``stream`` is there when the caller wants a stream; ``params`` are its first message
    then. ``client`` is the address by which streams are counted.
    """

    namespace: str
    operation: str
    params: Params
    metadata: dict[str, str]
    principal: str
    deadline: float
    record: CallRecord
    client: str = ""
    stream: ClientStream | None = None


class Reply(msgspec.Struct, frozen=True):
    """A plugin's successful answer, in the bytes that the plugin gave."""

    body: bytes
    content_type: bytes = b"application/json"


Handler = Callable[[Request], Awaitable[Reply]]
"""What every policy is, and what it wraps. Failures are raised as ``CallError``."""
