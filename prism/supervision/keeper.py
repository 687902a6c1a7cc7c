"""Keeps one namespace's plugin running: start, watch, start again, and one operation at a time.

Theory of operation. The keeper's loop has one aim: that there is a serving
generation. If there is none it makes attempts, further and further apart, until
one serves, or until the plugin has crashed too often. A generation that leaves
tells so in plain code, which clears the slot. Operations (reload, restart,
drain: see ``replacement``) run in a task beside the loop, and use the keeper's verbs:
``launch`` begins a generation, ``install`` lets it serve, ``pause`` stops the loop's own
attempts and ``resume`` begins them again. The loop does one thing at a time, in a scope that
is cancelled when a verb has changed what it should do.
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TypeVar

import outcome
import trio

from prism.config.types import PluginForm, RestartConfig
from prism.contract.errors import Draining, OperationInProgress
from prism.streams.errors import LaunchError
from prism.supervision.connect import DialInSockets
from prism.supervision.events import Journal
from prism.supervision.generation import Generation
from prism.supervision.instance import InstanceSpec
from prism.supervision.lifecycle import State
from prism.supervision.slot import Slot

log = logging.getLogger("prism.supervision")

STOPPING = "the proxy is stopping"
STARTED_BY_US = (PluginForm.COMMAND, PluginForm.MODULE, PluginForm.LIBRARY, PluginForm.WASM)
"""Plugins whose crashes count towards the limit: the others are somebody else's to start."""
USEFUL = 1.0
"""Seconds of service after which a plugin that leaves without a fault may come back at once."""
JITTER = 0.2
"""Share by which a delay varies, so that many plugins do not restart in step."""

T = TypeVar("T")


class Backoff:
    """The pauses between the starts of one plugin, and the limit of its crashes.

    Only crashes in a row can exhaust it: a backend that is down may come back by
    itself, a program that ends itself at its start seldom mends.
    """

    def __init__(self, config: RestartConfig, rand: Callable[[], float] = random.random) -> None:
        self._config = config
        self._rand = rand
        self.reset()

    def reset(self) -> None:
        """Forget all failures."""
        self._next = self._config.first_delay_seconds
        self.crashes = 0

    def after(self, served: float, *, crashed: bool) -> float | None:
        """Seconds to wait now, after a run that served for ``served`` seconds.

        None: it has crashed too often, and is not to be started again.
        """
        config = self._config
        if served >= config.good_run_seconds:
            self.reset()
        self.crashes = self.crashes + 1 if crashed else 0
        if config.max_crashes and self.crashes >= config.max_crashes:
            return None
        delay, self._next = self._next, min(self._next * 2, config.max_delay_seconds)
        return delay * (1 + JITTER * (2 * self._rand() - 1))


class Operated:
    """What has one ``operation`` at a time (reload, restart, drain), and runs it in a task."""

    def __init__(self, spec: InstanceSpec) -> None:
        self.spec = spec
        self.operation: str | None = None
        self.stopping = False
        self.stale = ""
        self._nursery: trio.Nursery | None = None

    @contextmanager
    def claimed(self, operation: str) -> Iterator[None]:
        """Within it ``operation`` is the one that runs on the namespace.

        Raises:
            OperationInProgress: there is one already.
        """
        if self.operation is not None:
            raise OperationInProgress(self.spec.namespace, self.operation)
        self.operation = operation
        try:
            yield
        finally:
            self.operation = None

    async def perform(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Run ``work`` as the namespace's one operation, in a task of its own.

        Cancelling stops the waiting, not the work.

        Raises:
            OperationInProgress: there is one already.
            Draining: the keeper stops, or has not begun.
        """
        with ExitStack() as stack:
            stack.enter_context(self.claimed(operation))
            if self.stopping or self._nursery is None:
                raise Draining(STOPPING)
            claim = stack.pop_all()
        return await run_detached(self._nursery, work, claim.close)


class Keeper(Operated):
    """Runs the generations of one namespace, or of one of several replicas.

    ``current`` is the generation in the slot, ``newest`` the last begun since a reset, and
    ``generations`` are all that are not over. ``operation`` is what runs on the namespace
    now. ``paused``: the loop makes no attempts. ``tried`` are the credentials of the last attempt
    that failed, if it had any. ``stale`` says why the instance has other credentials than its
    secrets say, and is empty where it has not.
    """

    def __init__(self, spec: InstanceSpec, slot: Slot, journal: Journal | None = None) -> None:
        super().__init__(spec)
        self.slot = slot
        self.journal = journal or Journal(spec.namespace)
        self.current: Generation | None = None
        self.newest: Generation | None = None
        self.generations: list[Generation] = []
        self.last_failure: LaunchError | None = None
        self.tried: Mapping[str, str] | None = None
        self.paused = False
        self.made = self.journal.events.clock()
        # One that comes later, for a replica that was there before, uses no number again.
        self._number = self.journal.highest
        self._delay = 0.0
        self._backoff = Backoff(spec.plugin.restart)
        self._step = trio.CancelScope()
        self._sockets = DialInSockets(spec.namespace)
        self._attempted = trio.Event()
        self._stopped = trio.Event()

    # -- the loop -----------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the plugin running until ``stop``. A plugin's failure is never raised.

        Started once the first attempt has ended, well or badly, or once the
        socket is open on which the plugin will dial in. Cancelling ends the plugin.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._loop)
                await self._attempted.wait()
                task_status.started()
        finally:
            self._nursery = None
            await self._sockets.keep_only(None)
            self._stopped.set()

    async def _loop(self) -> None:
        while not self.stopping:
            with trio.CancelScope() as self._step:
                if self.paused:
                    await trio.sleep_forever()
                elif self.current is not None:
                    await self._watch(self.current)
                else:
                    await self._try_to_serve()
            self._attempted.set()
        self._attempted.set()  # stopped before it began

    async def _watch(self, generation: Generation) -> None:
        """Wait until ``generation`` serves no more, and note it if nothing replaced it."""
        await generation.wait_leaving()
        if self.current is not None:
            return
        if generation.failure is not None or not generation.spec.may_overlap:
            # How it ended is worth knowing, and comes soon.
            await generation.wait_ended()
        if generation.failure is None and self._left_well(generation):
            self._backoff.reset()
            self._delay = 0.0
            self.journal.restarts += self.spec.plugin.form in STARTED_BY_US
            return
        self._note_failure(generation.error, generation.served)

    @staticmethod
    def _left_well(generation: Generation) -> bool:
        """Has it been of use, and left without a fault? Then there is nothing to wait for.

        Servers end connections that are old, or have carried so many calls. One that does
        so before it has been of use would be dialled without end.
        """
        instance = generation.instance
        of_use = generation.served >= USEFUL or (instance is not None and instance.finished > 0)
        return generation.routine and of_use

    async def _try_to_serve(self) -> None:
        """One attempt: a pause, if there must be one, and a new generation."""
        try:
            generation = await self.launch(self.spec, delay=self._delay)
        except LaunchError as error:
            self._note_failure(error, served=0.0)
            self._attempted.set()
            await trio.sleep(self._delay)
            return
        try:
            if self.spec.dials_in:
                await self._wait_for_its_dialling(generation)
            if await generation.wait_settled():
                self.install(generation)
                return
        finally:
            if self.current is not generation:
                generation.retire("it is not needed any more")
        await generation.wait_ended()
        self.tried = generation.credentials
        self._note_failure(generation.error, generation.served)

    async def _wait_for_its_dialling(self, generation: Generation) -> None:
        """Wait until a plugin has dialled in and settled, or for as long as calls may wait for it.

        One that served comes back soon, as a rule, and so does one that is started together
        with the proxy; of one that came and failed at its start nobody knows.
        """
        plugin = self.spec.plugin
        absence = f"it waits for the plugin to dial {plugin.socket}"
        self.slot.say_absent(absence, expected=self.slot.expected)
        self._attempted.set()
        with trio.move_on_after(plugin.start_timeout_seconds) as in_time:
            await generation.wait_settled()
        if in_time.cancelled_caught:
            self.slot.say_absent(absence)

    def _note_failure(self, failure: LaunchError, served: float) -> None:
        """Decide when to try again, or to try no more."""
        if self.paused or self.stopping:
            return  # what happens now has been decided, and said
        self.last_failure = failure
        crashed = failure.crashed and self.spec.plugin.form in STARTED_BY_US
        delay = self._backoff.after(served, crashed=crashed)
        if delay is None:
            count = self._backoff.crashes
            crashes = f"it crashed{f' {count} times in a row' if count > 1 else ''}: {failure}"
            way_out = f"`prism plugin reset {self.spec.namespace}` starts it again"
            self._say_absent(f"{crashes}; {way_out}", failure, retry_at=math.inf)
            log.error(
                "%s: gave up on %s until it is reset",
                self.spec.place,
                self.spec.label,
            )
            self.paused = True
            return
        self._delay = delay
        if served or crashed:
            self.journal.restarts += 1
        self._say_absent(
            f"it is being restarted: {failure}" if served else str(failure),
            failure,
            # Its first new start is near; whether a second one helps, nobody knows.
            expected=served > 0,
            retry_at=trio.current_time() + delay,
        )

    def _say_absent(
        self,
        reason: str,
        failure: LaunchError,
        *,
        expected: bool = False,
        retry_at: float | None = None,
    ) -> None:
        if self.slot.absence != reason:
            log.warning("%s has no plugin: %s", self.spec.place, reason)
        self.slot.say_absent(reason, expected=expected, retry_at=retry_at, output=failure.output)

    def _note_leaving(self, generation: Generation) -> None:
        """A generation gets no more calls: called in the moment that it is known."""
        assert generation.instance is not None  # noqa: S101 - it has served
        if self.current is generation:
            self.current = None
            if not self.paused and not self.stopping:  # else what is going on has been said
                reason = generation.end_reason
                level = logging.INFO if generation.routine else logging.WARNING
                log.log(level, "instance %s leaves: %s", generation.id, reason)
                self.slot.say_absent(f"it is being restarted: {reason}", expected=True)
        self.slot.clear(generation.instance)

    # -- what operations do -------------------------------------------------------------

    async def launch(
        self,
        spec: InstanceSpec,
        *,
        credentials: Mapping[str, str] | None = None,
        delay: float = 0.0,
        fresh: bool = False,
    ) -> Generation:
        """Begin a new generation; it serves once it is installed. ``credentials`` are used in
        the place of the spec's, which would be read anew.

        Raises:
            LaunchError: the keeper stops, or the socket cannot be opened on which the
                plugin should dial in.
        """
        if self.stopping:
            raise LaunchError(STOPPING)
        listener = await self._sockets.open(spec.plugin) if spec.needs_listener else None
        if self.stopping or self._nursery is None:
            raise LaunchError(STOPPING)
        self._number += 1
        self.journal.highest = max(self.journal.highest, self._number)
        generation = Generation(
            spec,
            self._number,
            self.journal,
            credentials=credentials,
            delay=delay,
            reason=f"for {delay:.3g} s, as {self.slot.absence}" if delay else "",
            fresh=fresh,
            listener=listener,
            on_leaving=self._note_leaving,
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

    def install(self, generation: Generation) -> Generation | None:
        """Let ``generation`` serve from now on: the swap. Returns the one it replaces."""
        instance = generation.instance
        assert instance is not None  # noqa: S101 - it serves
        assert generation.serving  # noqa: S101 - seen in the same step of plain code
        replaced, self.current, self.newest = self.current, generation, generation
        before, self.spec = self.spec, generation.spec
        self.adopt(before)
        if before.plugin.restart != self.spec.plugin.restart:
            self._backoff = Backoff(self.spec.plugin.restart)
        self.slot.fill(instance)
        self._delay = 0.0
        self.paused = False
        self._step.cancel()
        log.info(
            "%s is served by %s (instance %s)",
            self.spec.place,
            f"{generation.spec.label} {instance.version}".rstrip(),
            instance.id,
        )
        return replaced

    def adopt(self, spec: InstanceSpec) -> None:
        """Take the catalogue and the policy of ``spec`` for what is started from now on.

        They are the configuration's and not an instance's: one that was begun before they
        changed must not bring the old ones back.
        """
        self.spec = replace(self.spec, at_version=spec.at_version, verification=spec.verification)

    def pause(self, reason: str | LaunchError, *, held: bool = False) -> None:
        """Make no attempts until ``resume`` or ``install``; what serves is left alone.

        ``reason`` is why there will be no instance: a failure, or an operator's wish. ``held``:
        one will come soon, so calls should wait for it, whatever their namespace says of that.
        """
        self.paused = True
        self._step.cancel()
        output: tuple[str, ...] = ()
        if isinstance(reason, LaunchError):
            self.last_failure, output = reason, reason.output
        retry_at = None if held else math.inf
        self.slot.say_absent(str(reason), held=held, retry_at=retry_at, output=output)

    def resume(self) -> None:
        """Go on making attempts, at once, if there is no instance."""
        if self.paused:
            self.paused = False
            self._step.cancel()

    def forgive(self) -> None:
        """Forget past failures."""
        self._backoff.reset()
        self._delay = 0.0

    async def close_unused_sockets(self) -> None:
        """Close the sockets that only a version needed that is not served any more."""
        await self._sockets.keep_only(self.spec.plugin)

    # -- what others do -----------------------------------------------------------------

    def runs(self, spec: InstanceSpec) -> bool:
        """Is what runs as ``spec`` says?"""
        return self.spec == spec

    @property
    def serving(self) -> list[Generation]:
        """What serves now."""
        return [] if self.current is None else [self.current]

    def keepers(self) -> list["Keeper"]:
        """Those of each replica: here this one alone."""
        return [self]

    def reset(self) -> None:
        """Forget past failures; if there is no instance, try now.

        Raises:
            OperationInProgress: another operation decides on that.
        """
        if self.operation is not None:
            raise OperationInProgress(self.spec.namespace, self.operation)
        self.forgive()
        if self.current is None:
            self.paused = False
            # What the last one ended with is past, though the next begins only in the loop.
            self.newest, self.made = None, self.journal.events.clock()
            self.slot.say_absent("it is being started, as an operator asked")
            self._step.cancel()

    def renew(self, spec: InstanceSpec) -> None:
        """There is no instance: have the next one be one for ``spec``, and try now."""
        self.spec = spec
        self.forgive()
        self.paused = False
        self._step.cancel()

    def try_now(self) -> None:
        """Make the attempt now that was to come after a pause, if one was."""
        newest = self.newest
        if newest is not None and newest.lifecycle.state is State.BACKING_OFF:
            self._delay = 0.0
            self._step.cancel()

    def stop(self, reason: str = STOPPING) -> None:
        """Let the present instance finish its calls and end; start no other."""
        self.stopping = True
        self.slot.say_absent(reason)
        self._step.cancel()
        for generation in list(self.generations):
            generation.retire(reason)

    async def wait_attempted(self) -> None:
        """Wait until the first attempt has ended, well or badly."""
        await self._attempted.wait()

    async def wait_stopped(self) -> None:
        """Wait until ``run`` has ended, and with it all that it started."""
        await self._stopped.wait()


async def run_detached(
    nursery: trio.Nursery, work: Callable[[], Awaitable[T]], done: Callable[[], None]
) -> T:
    """Run ``work`` in a task of ``nursery`` and wait for it; ``done`` is called when it ends.

    Cancelling stops the waiting, not the work. What the work raises is raised here, or, if
    nobody waits any more, logged, so that it does not end the nursery.

    Raises:
        Draining: the nursery was cancelled before the work was done.
    """
    ended = trio.Event()
    result: list[outcome.Outcome[T]] = []
    awaited = True

    async def run() -> None:
        try:
            result.append(await _captured(work))
        finally:
            done()
            ended.set()
        if isinstance(result[0], outcome.Error) and not awaited:
            log.error("an operation failed that nobody waits for", exc_info=result[0].error)

    nursery.start_soon(run)
    try:
        await ended.wait()
    except BaseException:
        awaited = False
        raise
    if not result:
        raise Draining(STOPPING)
    return result[0].unwrap()


async def _captured(work: Callable[[], Awaitable[T]]) -> outcome.Outcome[T]:
    """What comes of ``work``; a cancellation passes through."""
    try:
        return outcome.Value(await work())
    except Exception as error:
        return outcome.Error(error)
