"""Cancel scopes of whichever event loop a plugin runs on."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import anyio


class Scope(Protocol):
    """A cancel scope: anyio's, or trio's own."""

    deadline: float

    @property
    def cancel_called(self) -> bool: ...

    def cancel(self) -> None: ...

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...


def scope_type() -> Callable[..., Scope]:
    """What makes cancel scopes here; trio's own are half the cost of anyio's around them."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        kind: Callable[..., Scope] = trio.CancelScope
        return kind
    return anyio.CancelScope
