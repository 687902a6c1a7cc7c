"""Keeps one namespace's plugin running: start, watch, start again, and one operation at a time.

Theory of operation. The keeper's loop has one aim: that there is a serving
generation. If there is none it makes attempts, further and further apart, until
one serves, or until the plugin has crashed too often. A generation that leaves
tells so in plain code, which clears the slot. Operations (reload, restart,
drain: see ``reload``) run in a task beside the loop; they *park* it while they
want no instance but their own, and put in place what shall serve: that ends an
attempt that is under way.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import trio

from prism.config.types import PluginForm
from prism.contract.errors import Draining, OperationInProgress
from prism.streams.errors import LaunchError
from prism.supervision.backoff import Backoff
from prism.supervision.detached import run_detached
from prism.supervision.dial_in import DialIn
from prism.supervision.generation import Generation
from prism.supervision.journal import Journal
from prism.supervision.slot import Slot
from prism.supervision.spec import InstanceSpec

log = logging.getLogger("prism.supervision")

STOPPING = "the proxy is stopping"
STARTED_BY_US = (PluginForm.COMMAND, PluginForm.MODULE)
"""Plugins whose crashes count towards the limit: the others are somebody else's to start."""

T = TypeVar("T")


class Keeper:
    """Runs the generations of one namespace."""

    def __init__(self, spec: InstanceSpec, slot: Slot, journal: Journal | None = None) -> None:
        self.spec = spec
        self.slot = slot
        self.journal = journal or Journal(spec.namespace)
        self.current: Generation | None = None
        self.newest: Generation | None = None
        self.generations: list[Generation] = []
        self.operation: str | None = None
        self.last_failure: LaunchError | None = None
        self.stopping = False
        self.made = self.journal.events.clock()
        self._number = 0
        self._delay = 0.0
        self._backoff = Backoff(spec.plugin.restart)
        self._parked: trio.Event | None = None
        self._attempt = trio.CancelScope()
        self._dial_in = DialIn(spec.namespace)
        self._nursery: trio.Nursery | None = None
        self._stopped = trio.Event()

    # -- the loop -------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the plugin running until ``stop``. A plugin's failure is never raised.

        Started once the first attempt has ended, well or badly, or once the
        socket is open on which the plugin will dial in.
        """
        tell_started = _Once(task_status.started)
        try:
            async with trio.open_nursery() as self._nursery:
                while not self.stopping:
                    if self._parked is not None:
                        await self._parked.wait()
                    elif self.current is not None:
                        await self._wait_gone(self.current)
                    else:
                        await self._try_to_serve(tell_started)
                        tell_started()
        finally:
            tell_started()
            self._nursery = None
            await self._dial_in.keep_only(None)
            self._stopped.set()

    async def wait_stopped(self) -> None:
        """Wait until ``run`` has ended, and with it all that it started."""
        await self._stopped.wait()

    def stop(self, reason: str = STOPPING) -> None:
        """Let the present instance finish its calls and end; start no other."""
        self.stopping = True
        self.slot.say_absent(reason)
        self._attempt.cancel()
        self.unpark()
        for generation in list(self.generations):
            generation.retire(reason)

    async def _wait_gone(self, generation: Generation) -> None:
        """Wait until ``generation`` serves no more; note a failure, if nothing replaced it."""
        with trio.CancelScope() as self._attempt:
            await generation.wait_leaving()
            if self.current is generation:  # it was leaving when it was installed
                self._left(generation)
            if self.current is None and (generation.broke or not generation.spec.may_overlap):
                # How it ended is worth knowing, and comes soon.
                await generation.wait_ended()
        if self.current is None and self._parked is None and not self.stopping:
            self._note_failure(generation.error, generation.served)

    async def _try_to_serve(self, tell_started: Callable[[], None]) -> None:
        """One attempt: a pause, if there must be one, and a new generation."""
        with trio.CancelScope() as self._attempt:
            try:
                generation = await self.launch(self.spec, delay=self._delay)
            except LaunchError as error:
                self._note_failure(error, served=0.0)
                tell_started()
                await trio.sleep(self._delay)
                return
            try:
                if self.spec.dials_in:
                    self.slot.say_absent(
                        f"it waits for the plugin to dial {self.spec.plugin.socket}"
                    )
                    tell_started()
                if await generation.wait_settled():
                    self.install(generation)
                    return
            finally:
                if self.current is not generation:
                    generation.retire("it is not needed any more")
            await generation.wait_ended()
            self._note_failure(generation.error, generation.served)

    def _note_failure(self, failure: LaunchError, served: float) -> None:
        """Decide when to try again, or to try no more."""
        self.last_failure = failure
        crashed = failure.crashed and self.spec.plugin.form in STARTED_BY_US
        delay = self._backoff.after(served, crashed=crashed)
        if delay is None:
            self.park()
            self._say_absent(f"it crashed {self._backoff.crashes} times in a row: {failure}")
            log.error(
                "namespace %s: gave up on %s until it is reset",
                self.spec.namespace,
                self.spec.label,
            )
            return
        self._delay = delay
        if served:
            self.journal.restarts += 1
        self._say_absent(
            f"it is being restarted: {failure}" if served else str(failure),
            # Its first new start is near; whether a second one helps, nobody knows.
            expected=served > 0 and not self.spec.dials_in,
            retry_at=trio.current_time() + delay,
        )

    def _say_absent(
        self, reason: str, *, expected: bool = False, retry_at: float | None = None
    ) -> None:
        if self.slot.absence != reason:
            log.warning("namespace %s has no plugin: %s", self.spec.namespace, reason)
        self.slot.say_absent(reason, expected=expected, retry_at=retry_at)

    # -- what operations use --------------------------------------------------

    async def perform(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Run ``work`` as the namespace's one operation, in a task of the keeper's.

        Cancelling stops the waiting, not the work.

        Raises:
            OperationInProgress: there is one already.
            Draining: the keeper stops, or has not begun.
        """
        if self.operation is not None:
            raise OperationInProgress(self.spec.namespace, self.operation)
        if self.stopping or self._nursery is None:
            raise Draining(STOPPING)
        self.operation = operation

        def done() -> None:
            self.operation = None

        return await run_detached(self._nursery, work, done)

    async def launch(
        self, spec: InstanceSpec, *, delay: float = 0.0, fresh: bool = False
    ) -> Generation:
        """Begin a new generation; it serves once it is installed.

        Raises:
            LaunchError: the keeper stops, or the socket cannot be opened on which the
                plugin should dial in.
        """
        if self.stopping or self._nursery is None:
            raise LaunchError(STOPPING)
        listener = await self._dial_in.open(spec.plugin) if spec.dials_in else None
        self._number += 1
        generation = Generation(
            spec,
            self._number,
            self.journal,
            delay=delay,
            reason=f"for {delay:.3g} s, as {self.slot.absence}" if delay else "",
            fresh=fresh,
            listener=listener,
            on_leaving=self._left,
        )
        self.newest = generation
        self.generations.append(generation)
        self._nursery.start_soon(self._run_generation, generation)
        return generation

    async def _run_generation(self, generation: Generation) -> None:
        try:
            await generation.run()
        finally:
            self.generations.remove(generation)

    def install(self, generation: Generation) -> None:
        """Let ``generation`` serve from now on: the swap."""
        instance = generation.instance
        assert instance is not None  # noqa: S101 - it is settled
        self.current = self.newest = generation
        before = self.spec
        if before.plugin.restart != generation.spec.plugin.restart:
            self._backoff = Backoff(generation.spec.plugin.restart)
        self.spec = generation.spec
        self.adopt(before)
        self.slot.fill(instance)
        self._delay = 0.0
        self._attempt.cancel()
        self.unpark()
        log.info(
            "namespace %s is served by %s (instance %s)",
            instance.namespace,
            f"{generation.spec.label} {instance.version}".rstrip(),
            instance.id,
        )

    def adopt(self, spec: InstanceSpec) -> None:
        """Take the catalogue and the policy of ``spec`` for what is started from now on.

        They are the configuration's and not an instance's: one that was begun before they
        changed must not bring the old ones back.
        """
        self.spec = replace(self.spec, at_version=spec.at_version, verification=spec.verification)

    def _left(self, generation: Generation) -> None:
        """A generation must get no more calls: called in the moment that it is known."""
        if self.slot.canary is not None and self.slot.canary is generation.instance:
            self.slot.canary = None
        if self.current is not generation or generation.instance is None:
            return
        self.current = None
        if self._parked is not None or self.stopping:
            self.slot.clear(generation.instance)  # what is going on has been said
            return
        reason = generation.leaving_reason
        log.warning("instance %s leaves: %s", generation.id, reason)
        self.slot.say_absent(f"it is being restarted: {reason}", expected=not self.spec.dials_in)
        self.slot.clear(generation.instance)

    def park(self) -> None:
        """Make no attempts until ``unpark`` or ``install``."""
        if self._parked is None:
            self._parked = trio.Event()
        self._attempt.cancel()

    def unpark(self) -> None:
        """Go on making attempts, at once."""
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.set()

    @property
    def parked(self) -> bool:
        """Are no attempts made now?"""
        return self._parked is not None

    def forgive(self) -> None:
        """Forget past failures."""
        self._backoff.reset()
        self._delay = 0.0

    def reset(self) -> None:
        """Forget past failures; if there is no instance, try now.

        Raises:
            OperationInProgress: another operation decides on that.
        """
        if self.operation is not None:
            raise OperationInProgress(self.spec.namespace, self.operation)
        self.forgive()
        if self.current is None:
            self._attempt.cancel()
            self.unpark()

    async def forget_sockets(self) -> None:
        """Close the sockets that only a version needed that is not served any more."""
        await self._dial_in.keep_only(self.spec.plugin)


class _Once:
    """Calls a function the first time it is called itself."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function

    def __call__(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()
