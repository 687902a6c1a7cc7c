"""A result that comes later, without a task that waits for it.

An operation that asks its backend one thing, through a connection that many calls share, need
not wait for the answer: it returns a :class:`Later`, which says what to make of the answer. Who
runs the operation is told when it is there. To keep a task for each call that waits, and to
switch to it, costs several times as much as the rest of such a call.
"""

from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from prism.sdk.waiter import Waiter

T = TypeVar("T")


class Later(Generic[T]):
    """What an operation returns instead of a result; it can be awaited, too.

    ``make`` is called with the answer and returns the result, or raises; it must not wait.
    """

    __slots__ = ("_answer", "_error", "_make", "_settled", "_told", "abandoned")

    def __init__(self, make: Callable[[Any], T]) -> None:
        self.abandoned = False
        """Nobody wants the result any more."""
        self._make = make
        self._answer: Any = None
        self._error: BaseException | None = None
        self._settled = False
        self._told: Callable[[], None] | None = None

    def settle(self, answer: Any, error: BaseException | None = None) -> None:
        """The answer is there, or is not to be had."""
        self._answer, self._error, self._settled = answer, error, True
        if self._told is not None and not self.abandoned:
            self._told()

    def when_settled(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called once it is settled: at once, if it is."""
        self._told = tell
        if self._settled:
            tell()

    def result(self) -> T:
        """Of one that is settled. Raises what there is instead of an answer."""
        if self._error is not None:
            raise self._error
        return self._make(self._answer)

    def abandon(self) -> None:
        """Nobody wants the result any more. A subclass may end what works at it."""
        self.abandoned = True

    async def wait(self) -> None:
        """Wait until it is settled. Cancelling abandons it."""
        if self._settled:
            return
        waiter = Waiter()
        self._told = waiter.wake
        try:
            await waiter.wait()
        except BaseException:
            self.abandon()
            raise

    def __await__(self) -> Generator[Any, Any, T]:
        yield from self.wait().__await__()
        return self.result()
