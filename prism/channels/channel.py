"""The one interface through which the proxy calls a plugin.

The five calls are the contract's. Deadlines belong to the caller: whoever calls
sets a trio cancel scope, and a channel that crosses a process boundary tells
the plugin how much of that scope's time is left.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager

from prism.contract.errors import CallError
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    HealthCheckRequest,
    HealthCheckResponse,
    InitializeRequest,
    InitializeResponse,
    ShutdownRequest,
    ShutdownResponse,
    StreamRequest,
    StreamResponse,
)
from prism.contract.redaction import Redaction


class StreamCall(ABC):
    """One open ExecuteStream call; got from :meth:`PluginChannel.execute_stream`."""

    @abstractmethod
    async def send(self, request: StreamRequest) -> None:
        """Send one message; waits while the plugin gives no credit.

        Cancelling is safe: the message was then either sent whole or not at all.

        Raises:
            LocalProtocolError: after ``end()``.
            CallError: the call is over already.
        """

    @abstractmethod
    async def end(self) -> None:
        """Say that no more messages will be sent. Calling it again does nothing."""

    @abstractmethod
    async def receive(self) -> StreamResponse:
        """The plugin's next message. Cancelling loses nothing.

        Raises:
            trio.EndOfChannel: the plugin finished the stream without an error.
            CallError: the stream failed.
        """

    async def receive_some(self) -> list[StreamResponse]:
        """As ``receive``: the next message, and those that have come right behind it."""
        return [await self.receive()]


class PluginChannel(ABC):
    """A plugin, as the proxy sees it: the contract's five calls, and ``aclose``.

    A failure that the plugin answers is a response with ``success=False``. What
    is raised instead means that there is no answer: ``PluginCrashed``,
    ``PluginMisbehaved``, ``PluginUnavailable``, ``Overloaded``, ``PayloadTooLarge``.

    Cancelling a call cancels it in the plugin and leaves the channel usable.

    No credential of ``initialize`` comes back in an error, a health message or a
    log record: ``redaction`` takes them out.
    """

    redaction = Redaction()

    @abstractmethod
    async def initialize(self, request: InitializeRequest) -> InitializeResponse:
        """Configure the plugin; the first call, made exactly once."""

    @abstractmethod
    async def execute(self, request: ExecuteRequest) -> ExecuteResponse:
        """Run one operation."""

    @abstractmethod
    def execute_stream(self, first: StreamRequest) -> AbstractAsyncContextManager[StreamCall]:
        """Open a stream with its first message; leaving the block early cancels it."""

    @abstractmethod
    async def health_check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        """Ask for the plugin's health."""

    @abstractmethod
    async def shutdown(self, request: ShutdownRequest) -> ShutdownResponse:
        """Ask the plugin to finish and end. Call ``aclose`` afterwards."""

    @abstractmethod
    def go_away(self, reason: str) -> None:
        """Tell the plugin that its drain begins; calls may still be made. Never raises."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the channel. Open calls fail as PluginCrashed. Never raises."""

    @abstractmethod
    async def wait_broken(self) -> Exception:
        """Wait until the channel can carry no more calls; returns why.

        ``ChannelClosed`` after ``aclose``, otherwise ``ChannelBroken`` or
        ``RemoteProtocolError``.
        """

    @property
    @abstractmethod
    def ended(self) -> Exception | None:
        """Why the channel can carry no more calls; None while it can."""

    @abstractmethod
    def give_up_calls(self, error: CallError) -> None:
        """Cancel every open call in the plugin, and let each end with ``error`` here.

        For the end of a drain. The channel can be used afterwards. Never raises.
        """

    @property
    @abstractmethod
    def open_calls(self) -> int:
        """Calls begun and not yet closed by the plugin."""
