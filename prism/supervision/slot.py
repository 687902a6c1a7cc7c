"""A slot: the place that holds a namespace's current instance.

Calls choose whatever instance is in the slot at that moment and hold it until they end
(``Instance.acquire`` and ``release``), so an instance is drained when the last call has let go.
That is plain synchronous code: nothing in it can block or be cancelled. Only
a call that finds the slot empty may wait.

What is in a slot takes calls: an instance that must get no more is taken out in the moment
that it is known.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from prism.contract.errors import PluginUnavailable
from prism.contract.messages import OperationDeclaration
from prism.streams.outlet import turn_time
from prism.supervision.events import Journal
from prism.supervision.instance import Instance


class Slot:
    """Where a namespace's calls find their plugin.

    ``current`` is ``None`` while there is no instance; ``absence`` then says
    why, to operators alone (it may name hosts and files), ``expected`` whether one is
    about to come, ``held`` whether that was asked for, so that all calls should wait for
    it, ``output`` is what the process wrote last of whose failure ``absence`` tells, and
    ``retry_at`` (on trio's clock) when the next start is due: never where an operator
    has to ask for it (``math.inf``), ``None`` where that is not known. ``waiting`` calls
    wait for one; ``retried`` counts further attempts by reason: ``not_started`` and ``idempotent``
    on another instance, the other ones on one that still served.
    ``on_change`` is called when there is an instance again, or none any more: it must not block.
    ``journal`` is told what happens to its instances.
    ``canary`` is an instance that gets ``share`` of the calls. ``operations`` are the current
    instance's, or, where there is none, those of the last.
    """

    def __init__(self, namespace: str, journal: Journal | None = None) -> None:
        self.namespace = namespace
        self.journal = journal or Journal(namespace)
        self.current: Instance | None = None
        self.canary: Instance | None = None
        self.share = 0.0
        self.absence = "it has not started yet"
        self.expected = True
        self.held = False
        self.retry_at: float | None = None
        self.output: tuple[str, ...] = ()
        self.waiting = 0
        self.retried: Counter[str] = Counter()
        self.operations: dict[str, OperationDeclaration] = {}
        self.on_change: Callable[[], None] = lambda: None
        self._owed = 0.0
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def is_ready(self) -> bool:
        """Is there an instance that takes calls?"""
        return self.current is not None and self.current.takes_calls

    def instances(self) -> list[Instance]:
        """All that get calls, but for one on trial."""
        return [] if self.current is None else [self.current]

    @property
    def size(self) -> int:
        """How many there would be if all were there."""
        return 1

    @property
    def serving(self) -> int:
        """How many get calls now."""
        return int(self.is_ready)

    def choose(self, avoid: Instance | None = None) -> Instance:
        """The instance for the next call: another than ``avoid``, if there is one. A
        canary that fails is passed over.

        Raises:
            PluginUnavailable: there is none.
        """
        instance = self.current
        if instance is None:
            raise self.unavailable()
        if self.canary is None or avoid is not None:
            return instance
        return self._next_canary() or instance

    def _next_canary(self) -> Instance | None:
        """The one on trial, if the next call is of its share, and it can be called. It gets no
        further attempts of other calls: the slow ones would all be among them."""
        canary = self.canary
        if canary is not None and canary.takes_calls:
            self._owed += self.share
            if self._owed >= 1:
                self._owed -= 1
                if canary.breaker is None or not canary.is_open(turn_time()):
                    return canary
        return None

    def unavailable(self) -> PluginUnavailable:
        """What a call is told that finds no instance."""
        pause = None if self.retry_at is None else max(0.0, self.retry_at - trio.current_time())
        return PluginUnavailable(
            f"namespace {self.namespace!r} has no plugin now", retry_after=pause
        )

    def fill(self, instance: Instance) -> Instance | None:
        """Put ``instance`` in the slot; returns the one it replaces."""
        previous, self.current = self.current, instance
        self.retry_at = None
        self.held = False
        self.operations = instance.operations
        self._changed.unpark_all()
        if previous is None:
            self.on_change()
        return previous

    @contextmanager
    def sharing(self, canary: Instance, share: float) -> Iterator[None]:
        """Within it ``canary`` gets ``share`` of the calls (0 to 1), unless it is cleared."""
        self.canary, self.share, self._owed = canary, share, 0.0
        try:
            yield
        finally:
            self.canary = None

    def clear(self, instance: Instance, absence: str | None = None) -> None:
        """Take ``instance`` out, if it is in; ``absence`` may have been said before."""
        if self.canary is instance:
            self.canary = None
        if self.current is instance:
            self.current = None
            if absence is not None:
                self.say_absent(absence)
            self._changed.unpark_all()
            self.on_change()

    def say_absent(
        self,
        absence: str,
        *,
        expected: bool = False,
        held: bool = False,
        retry_at: float | None = None,
        output: tuple[str, ...] = (),
    ) -> None:
        """Say why there is no instance, or will be none, and what can be hoped for."""
        self.absence = absence
        self.expected = expected or held
        self.held = held
        self.retry_at = retry_at
        self.output = output
        self._changed.unpark_all()

    def is_idempotent(self, operation: str) -> bool:
        """Did the last instance declare that the operation may be repeated?"""
        declared = self.operations.get(operation)
        return declared is not None and declared.idempotent

    @property
    def moved(self) -> int:
        """How many calls were given to another instance, since theirs was gone."""
        return self.retried["not_started"] + self.retried["idempotent"]

    def has_another(self, instance: Instance | None) -> bool:
        """Is there an instance beside ``instance`` that takes calls?"""
        return any(each is not instance and each.takes_calls for each in self.instances())

    def still_serves(self, instance: str) -> bool:
        """Is the instance with this id here, and does it take calls?"""
        return any(
            present is not None and present.id == instance and present.takes_calls
            for present in (self.current, self.canary)
        )

    async def wait_filled(self) -> None:
        """Wait for an instance that takes calls, while one can be expected.

        The caller sets the deadline. Cancelling leaves nothing behind.

        Raises:
            PluginUnavailable: none will come soon.
        """
        self.waiting += 1
        try:
            while not self.is_ready:
                if self.current is None and not self.expected:
                    raise self.unavailable()
                await self._changed.park()
        finally:
            self.waiting -= 1
