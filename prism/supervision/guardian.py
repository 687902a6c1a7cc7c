"""No plugin outlives a proxy that was killed.

A plugin ends by itself when its connection does, but one that hangs does not,
and what it has started may know nothing of the connection. So a small process
beside the proxy, the guardian, holds one end of a pipe and the list of the
process groups that the proxy has started. When the pipe ends and the list is
not empty, the proxy has died, and the guardian ends what is on it.

The kernel's own means, PR_SET_PDEATHSIG, cannot do this: it reaches a plugin but
not the plugin's children, and it strikes when the *thread* that started a plugin
ends, which in a proxy on trio is a worker thread that comes and goes.

There is one guardian while there are spawned plugins, and none otherwise. One that ends by
itself, killed by somebody, is reaped and replaced.
"""

import logging
import subprocess
import sys
from pathlib import Path

import trio

log = logging.getLogger("prism.supervision")

PROGRAM = str(Path(__file__).with_name("guardian_main.py"))
PAUSE = 0.5
"""Seconds between the starts of two guardians, at least: one may not be able to run at all."""
END_TIMEOUT = 5.0
"""Seconds for a guardian with nothing left to guard to end."""


class Guardian:
    """The guardian of one proxy: :func:`guardian` finds it."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: trio.Process | None = None
        self._changing = trio.Lock()

    @property
    def pid(self) -> int | None:
        """The process id, while there is a process."""
        return self._process.pid if self._process is not None else None

    async def watch(self, group: int) -> None:
        """End this process group if the proxy dies. A cancellation leaves it unwatched."""
        async with self._changing:
            self._groups.add(group)
            await self._tell(f"+{group}\n")

    async def release(self, group: int) -> None:
        """The proxy has ended this group itself, or is about to. The last one ends the guardian."""
        async with self._changing:
            self._groups.discard(group)
            if self._groups:
                await self._tell(f"-{group}\n")
            else:
                await self._end()

    async def _tell(self, line: str) -> None:
        """Send a line to the guardian; to a new one, with all it must know, if it has ended."""
        if self._process is not None and self._process.poll() is None:
            try:
                assert self._process.stdin is not None  # noqa: S101 - it was asked for
                await self._process.stdin.send_all(line.encode())
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        await self._end()
        await self._start()

    async def _start(self) -> None:
        try:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-I", "-S", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",  # it keeps no directory busy
                start_new_session=True,  # a terminal's Ctrl-C is not for it
            )
            assert self._process.stdin is not None  # noqa: S101 - as above
            everything = "".join(f"+{group}\n" for group in sorted(self._groups))
            await self._process.stdin.send_all(everything.encode())
            trio.lowlevel.spawn_system_task(self._replace_when_killed, self._process)
        except (OSError, trio.BrokenResourceError) as error:
            log.warning("no guardian: plugins may outlive a proxy that is killed (%s)", error)

    async def _replace_when_killed(self, process: trio.Process) -> None:
        """Wait for the end of ``process``, which reaps it; begin another if it is still needed."""
        began = trio.current_time()
        try:
            await process.wait()
            await trio.sleep_until(began + PAUSE)
            async with self._changing:
                if self._process is process:
                    log.warning(
                        "the guardian has ended (%s); beginning another", process.returncode
                    )
                    await self._end()
                    await self._start()
        except Exception:  # no system task may fail
            log.exception("bug in the guardian's replacement")

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None  # noqa: S101 - as above
        await process.stdin.aclose()
        with trio.move_on_after(END_TIMEOUT):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


_guardian: trio.lowlevel.RunVar[Guardian] = trio.lowlevel.RunVar("guardian")


def guardian() -> Guardian:
    """The guardian of this run of trio."""
    try:
        return _guardian.get()
    except LookupError:
        _guardian.set(found := Guardian())
        return found
