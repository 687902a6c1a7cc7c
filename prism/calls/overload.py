"""Does the proxy itself have more to do than it can, and which calls does it refuse then?

Theory of operation. Two things are watched: how late the event loop is (a task sleeps, and sees how
much later than it wanted it wakes), and the memory of the process. While one of them is over its
limit, a step more is refused every ``STEP_UP`` seconds: half of the calls of the lowest
priority, then all of them, then those of the next. When both have been well under it for
``STEP_DOWN`` seconds, a step less. So it is as much as it takes, and what is most important is
hurt last: calls of high priority only where memory is at its limit, since one that is let in beyond
it may cost all. Of the last ``SAMPLES`` delays the middle one counts: one pause, of the garbage
collector or of a machine that was put to sleep, refuses nobody.

The rules are plain code, ``Overload.take``; only ``run`` has a clock.
"""

import logging
import os
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path

import trio

from prism.config.types import SheddingConfig
from prism.contract.errors import InvalidRequest

log = logging.getLogger("prism.calls")

LOW, NORMAL, HIGH = 0, 1, 2
PRIORITIES = ("low", "normal", "high")
"""By number; a higher one is refused later."""

INTERVAL = 0.25
"""Seconds between two looks. Each wakes a task: 1 to 2 ms of a core a second, all in all."""
SAMPLES = 5
STEP_UP = 0.5
"""Seconds that a step has time to take effect."""
STEP_DOWN = 2.0
"""Seconds without need for it after which a step is taken back."""
RELIEVED = 0.7
"""Share of the limit of the delay that it must be under for that."""
MEMORY_FROM = 0.9
"""Share of the memory's limit from which on calls are refused ..."""
MEMORY_RELIEVED = 0.85
"""... and under which that is taken back."""
OF_CGROUP = 0.9
"""Share of its control group's memory that is the limit where none is configured: the kernel ends
a process that takes more than all of it."""
RETRY_AFTER = (1.0, 5.0)
"""Seconds after which those who were refused are told to come again, at random: not all at once."""

STEPS: tuple[tuple[float, float, float], ...] = (
    (0.0, 0.0, 0.0),
    (0.5, 0.0, 0.0),
    (1.0, 0.0, 0.0),
    (1.0, 0.5, 0.0),
    (1.0, 1.0, 0.0),
    (1.0, 1.0, 1.0),
)
"""The share of the calls that is refused in each step, by their priority."""
LAST_BY_DELAY = 4
"""The furthest step that a loop that is late leads to."""


LOOKS_AT_NOTHING = (
    "nothing is looked at, as this control group's memory is not limited; set memory_bytes, or "
    "remove `loop_lag_seconds: null`"
)


def looks_at_nothing(config: SheddingConfig, of_group: int | None) -> bool:
    """Is nothing looked at, where the memory of the control group is limited to ``of_group``?"""
    return config.loop_lag_seconds is None and config.memory_bytes is None and of_group is None


def parse_priority(text: str) -> int:
    """What ``prism-priority`` asks for.

    Raises:
        InvalidRequest: that is no priority.
    """
    try:
        return PRIORITIES.index(text)
    except ValueError:
        raise InvalidRequest(
            f"prism-priority must be high, normal or low, not {text[:40]!r}"
        ) from None


class Overload:
    """Whether the proxy has too much to do. Without ``config`` it does not look. Run ``run``.

    ``step`` is how much is refused (``STEPS``); ``delay`` the seconds by which the event loop is
    late, ``memory`` the bytes of the process, ``memory_limit`` those that it may take, if there is
    a limit. ``on_change`` is told in words when the step changes; ``group_memory`` says what the
    control group may take.
    """

    def __init__(
        self,
        config: SheddingConfig | None = None,
        on_change: Callable[[str], None] = lambda _said: None,
        rand: Callable[[], float] = random.random,
        group_memory: Callable[[], int | None] | None = None,
    ) -> None:
        self.config: SheddingConfig | None = None
        self.on_change = on_change
        self.step = 0
        self.delay = 0.0
        self.memory = 0
        self.memory_limit: int | None = None
        self._rand = rand
        self._group_memory = group_memory or cgroup_memory
        self._delays: deque[float] = deque(maxlen=SAMPLES)
        self._changed_at = 0.0
        self._needed_at = 0.0
        self._owed = [0.0, 0.0, 0.0]
        self._configured = trio.Event()
        self.configure(config)

    def configure(self, config: SheddingConfig | None) -> None:
        """Go by ``config`` from now on; what is refused now stays until it is seen to."""
        self.config = config
        self.memory_limit = None
        if config is None:
            if self.step:
                self._set(0, "it is not configured any more")
            self._configured = trio.Event()
            return
        self.memory_limit = config.memory_bytes
        if self.memory_limit is None and (of_group := self._group_memory()) is not None:
            self.memory_limit = int(of_group * OF_CGROUP)
        if looks_at_nothing(config, self.memory_limit):
            log.warning("shedding: %s", LOOKS_AT_NOTHING)
        self._configured.set()

    def refuses(self, priority: int) -> bool:
        """Is a call of ``priority``, which comes now, refused?"""
        share = STEPS[self.step][priority]
        if share in (0.0, 1.0):
            return share == 1.0
        self._owed[priority] += share
        if self._owed[priority] < 1:
            return False
        self._owed[priority] -= 1
        return True

    def retry_after(self) -> float:
        """Seconds after which one that was refused may come again."""
        least, most = RETRY_AFTER
        return least + (most - least) * self._rand()

    def refused(self) -> str:
        """What is refused now, in words."""
        shares = zip(PRIORITIES, STEPS[self.step], strict=True)
        return ", ".join(
            name if share == 1 else f"half of {name}" for name, share in shares if share
        )

    def take(self, now: float, delay: float, memory: int) -> None:
        """At ``now`` the loop was ``delay`` seconds late, and the process had ``memory`` bytes."""
        self._delays.append(delay)
        self.delay = sorted(self._delays)[len(self._delays) // 2]
        self.memory = memory
        if self.config is None:
            return
        most = self.config.loop_lag_seconds
        is_late = most is not None and len(self._delays) == SAMPLES and self.delay >= most
        limit = self.memory_limit
        is_full = limit is not None and memory >= limit
        is_nearly_full = limit is not None and memory >= MEMORY_FROM * limit
        furthest = 0
        if is_late or is_nearly_full:
            furthest = LAST_BY_DELAY
        if is_full:
            furthest = len(STEPS) - 1
        if furthest:
            self._needed_at = now
            if self.step < furthest and now - self._changed_at >= STEP_UP:
                self._changed_at = now
                self._set(self.step + 1, self._why(is_late=is_late))
            elif self.step > furthest and now - self._changed_at >= STEP_DOWN:
                self._changed_at = now
                self._set(self.step - 1, self._why(is_late=is_late))
            return
        if most is not None and self.delay >= RELIEVED * most:
            self._needed_at = now
        if limit is not None and memory >= MEMORY_RELIEVED * limit:
            self._needed_at = now
        if self.step and now - max(self._needed_at, self._changed_at) >= STEP_DOWN:
            self._changed_at = now
            self._set(self.step - 1, "it has less to do")

    def _why(self, *, is_late: bool) -> str:
        found = []
        if is_late and self.config is not None:
            limit = self.config.loop_lag_seconds
            found.append(f"the event loop is {self.delay:.3g} s late (limit: {limit:g} s)")
        limit = self.memory_limit
        if limit is not None and self.memory >= MEMORY_FROM * limit:
            found.append(f"it takes {self.memory / 2**20:.0f} of {limit / 2**20:.0f} MiB")
        return " and ".join(found)

    def _set(self, step: int, why: str) -> None:
        level = logging.WARNING if step > self.step else logging.INFO
        self.step = step
        refused = self.refused()
        if refused:
            said = f"calls are refused by priority ({refused}): {why}"
        else:
            said = f"no calls are refused by priority any more: {why}"
        log.log(level, "%s", said)
        self.on_change(said)

    async def run(self, read_memory: Callable[[], int] | None = None) -> None:
        """Look, for as long as it is configured. Runs until cancelled."""
        read = read_memory or resident_memory
        while True:
            await self._configured.wait()
            due = trio.current_time() + INTERVAL
            await trio.sleep_until(due)
            now = trio.current_time()
            self.take(now, max(now - due, 0.0), read())


# -- what the process takes -------------------------------------------------------------

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_memory(statm: str = "/proc/self/statm") -> int:
    """Bytes of memory that this process has; 0 where the system does not say."""
    try:
        # Not pathlib: it is looked at again and again.
        descriptor = os.open(statm, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(os.read(descriptor, 100).split()[1]) * _PAGE
    finally:
        os.close(descriptor)


_NO_LIMIT = 1 << 60
"""From here on a number in cgroup v1 stands for none."""


def cgroup_memory(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int | None:
    """The bytes that this process's control group may take, the least of it and those above it;
    None where there is no limit."""
    limits = []
    for line in _read(Path(own)).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            top, name = Path(root), "memory.max"
        elif "memory" in controllers.split(","):
            top, name = Path(root, "memory"), "memory.limit_in_bytes"
        else:
            continue
        here = top / path.lstrip("/")
        for place in (here, *here.parents):
            # In a container the path may be that of the host, of which only the root is here.
            found = _read(place / name).strip()
            if found.isdigit() and int(found) < _NO_LIMIT:
                limits.append(int(found))
            if place == top:
                break
    return min(limits, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
