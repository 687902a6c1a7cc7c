"""A proxy under signals: how the process is told to stop, to reload, and to make way.

=================  ==========================================================
SIGTERM, SIGINT    finish what is in flight and end; a second one ends at once
SIGHUP             read certificates, token and configuration again
SIGUSR2            start a successor, hand the sockets over, then end
=================  ==========================================================
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from prism.app import Proxy, Ready
from prism.config.sources import FileWatch
from prism.config.types import Config
from prism.contract.errors import CallError, PrismError
from prism.contract.status import StatusCode
from prism.control.live_config import Load
from prism.frontends.admin.messages import Restarted
from prism.process import service_manager
from prism.process.handover import HandoverFailed, Predecessor, hand_over
from prism.process.sockets import GivenSocket

log = logging.getLogger("prism")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


async def run_until_signalled(
    config: Config,
    on_ready: Callable[[Ready], None] = lambda _ready: None,
    given: Sequence[GivenSocket] = (),
    predecessor: Predecessor | None = None,
    load: Load | None = None,
    watch: FileWatch | None = None,
    file: str = "",
) -> bool:
    """Run a proxy until a signal, or a successor, ends it.

    ``load`` reads the configuration again, on SIGHUP, when an operator asks for it, and
    when ``watch`` sees the file change; ``file`` is what it was read from. Returns whether it ended
    gracefully.

    Raises:
        ListenError, CodecUnavailable, TLSFilesError, ConfigError: as ``Proxy.run``.
        HandoverFailed: ``predecessor`` did not let this process in.
    """
    proxy = Proxy(config, given, load, file=file)
    graceful = False
    try:
        async with trio.open_nursery() as nursery:
            control = _Control(proxy, nursery.cancel_scope)
            await nursery.start(control.obey_signals)
            if watch is not None:
                nursery.start_soon(control.follow, watch)
            await control.run(on_ready, predecessor)
            graceful = True
            nursery.cancel_scope.cancel()
    except ExceptionGroup as group:
        if (error := _only_error(group)) is not None:
            raise error from error.__cause__
        raise
    return graceful


def _only_error(error: Exception) -> PrismError | None:
    """What keeps a proxy from starting comes alone, in as many groups as there are nurseries."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, PrismError) else None


class RestartRefused(CallError):
    """A rolling restart cannot be begun now."""

    status = StatusCode.ABORTED
    http_status = 409
    reason = "restart_refused"
    retryable = True


class _Handover:
    """A rolling restart that was begun; ``scope`` cancels it."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._over = trio.Event()
        self._outcome = Restarted("kept", os.getpid(), "it was cancelled, since the proxy stops")

    def succeeded(self, pid: int) -> None:
        """The process ``pid`` serves now."""
        self._outcome = Restarted("replaced", pid)

    def failed(self, error: HandoverFailed) -> None:
        """This process goes on."""
        self._outcome = Restarted("kept", os.getpid(), str(error))

    def end(self) -> None:
        """Nothing more is done for it."""
        self._over.set()

    async def wait_over(self) -> Restarted:
        """How it went, when it has. Cancelling stops the waiting alone."""
        await self._over.wait()
        return self._outcome


class _Control:
    """What the signals, and operators, do to one proxy."""

    def __init__(self, proxy: Proxy, everything: trio.CancelScope) -> None:
        self._proxy = proxy
        self._everything = everything
        self._handover: _Handover | None = None
        self._nursery: trio.Nursery | None = None
        self._told_to_stop = False
        self._serving = trio.Event()
        self._reload_asked_for = trio.Event()
        self._had_terminal = _has_terminal()
        self._status = ""
        self._command = command()

    async def run(self, on_ready: Callable[[Ready], None], predecessor: Predecessor | None) -> None:
        """Run the proxy, and tell those who wait for it that it serves."""

        def serving(ready: Ready) -> None:
            self._serving.set()
            self._status = f"serving {', '.join(str(address) for address in ready.data)}"
            if predecessor is not None:
                predecessor.serving()
            service_manager.ready(self._status)
            on_ready(ready)

        async def wait_for_permission() -> None:
            if predecessor is not None:
                await predecessor.wait_for_verdict(self._proxy.absences())
            await trio.lowlevel.checkpoint()

        await self._proxy.run(serving, wait_for_permission)

    async def obey_signals(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Do what each signal says, until one says to end at once."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            task_status.started()
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._reload_when_asked)
                self._proxy.restart_with(self.make_way)
                async for number in signals:
                    name = signal.Signals(number).name
                    if number == signal.SIGUSR2:
                        try:
                            self.make_way()
                        except RestartRefused as error:
                            log.warning("SIGUSR2 is refused: %s", error)
                    elif number == signal.SIGHUP and not self._terminal_is_gone():
                        self._ask_for_reload("reloading on SIGHUP")
                    else:
                        self._stop(name)

    def _stop(self, name: str) -> None:
        if self._told_to_stop:
            log.warning("ending at once on a second signal (%s)", name)
            self._everything.cancel()
            return
        self._told_to_stop = True
        log.info(
            "stopping on %s: requests in flight have %g seconds; again to end at once",
            name,
            self._proxy.config.drain_timeout_seconds,
        )
        if self._proxy.shutdown.is_set():
            return  # a successor serves, and this process is stopping already
        service_manager.stopping("finishing requests in flight")
        if self._handover is not None:
            self._handover.scope.cancel()
        self._proxy.stop()

    async def follow(self, watch: FileWatch) -> None:
        """Reload whenever the configuration file has changed."""
        while True:
            await watch.changed()
            self._ask_for_reload(f"reloading, since {watch.file} has changed")

    def _ask_for_reload(self, why: str) -> None:
        log.info("%s", why)
        self._reload_asked_for.set()

    async def _reload_when_asked(self) -> None:
        """One reload at a time; all that is asked for meanwhile is one more."""
        await self._serving.wait()
        while True:
            await self._reload_asked_for.wait()
            self._reload_asked_for = trio.Event()
            if self._handover is not None:  # the service manager waits for something else
                await self._proxy.reload()
                continue
            service_manager.reloading("reading files again")
            await self._proxy.reload()
            if not self._told_to_stop:
                service_manager.ready(self._status)

    def make_way(self) -> _Handover:
        """Begin a rolling restart. Raises RestartRefused."""
        if self._handover is not None:
            raise RestartRefused("a successor is being started already")
        if self._proxy.shutdown.is_set() or not self._serving.is_set():
            raise RestartRefused("this process is starting or stopping")
        assert self._nursery is not None  # noqa: S101 - it serves
        self._handover = _Handover()
        self._nursery.start_soon(self._hand_over, self._handover)
        return self._handover

    async def _hand_over(self, handover: _Handover) -> None:
        proxy = self._proxy
        service_manager.reloading("starting a successor")
        try:
            with handover.scope:
                pid = await hand_over(
                    self._command,
                    proxy.sockets,
                    proxy.absences,
                    proxy.live.current.handover_timeout_seconds,
                )
                log.info("pid %d serves now; finishing what is in flight here", pid)
                service_manager.replaced(pid, f"pid {pid} took over; {self._status}")
                handover.succeeded(pid)
                proxy.stop(replaced=True)
        except HandoverFailed as error:
            log.error("the successor failed, so this process goes on: %s", error)
            handover.failed(error)
            service_manager.ready(f"{self._status}; a successor failed: {error}")
        finally:
            self._handover = None
            handover.end()

    def _terminal_is_gone(self) -> bool:
        """Whether SIGHUP came because the terminal that this was started from was closed."""
        return self._had_terminal and not _has_terminal()


def _has_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def command() -> list[str]:
    """The command line of this process, to be run again by its successor. Ask for it at the start.

    A program that was run by its first line is run so again: later that line may name another
    Python, where a link on the way has been pointed at another version.
    """
    program, *arguments = sys.orig_argv
    if arguments and "/" in program and _is_run_by(Path(arguments[0]), program):
        return arguments
    return [sys.executable, *arguments]


def _is_run_by(script: Path, interpreter: str) -> bool:
    """Whether ``script`` can be executed, and its beginning has ``interpreter`` run it."""
    try:
        with script.open("rb") as opened:
            head = opened.read(1024)
    except OSError:
        return False
    return (
        head.startswith(b"#!") and os.fsencode(interpreter) in head and os.access(script, os.X_OK)
    )
