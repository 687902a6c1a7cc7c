"""The replay itself: recorded calls, played against a target, and the answers compared."""

import heapq
from collections.abc import Iterator
from itertools import chain
from typing import Any

import msgspec
import trio

from prism.calls.comparison import ALL_NAMES, Answer, Ignored, ResultDifference, Tally, compare
from prism.cli.replay_targets import Target
from prism.contract.status import StatusCode
from prism.observability.recording import Reader, RecordedCall

WINDOW = 1000
"""Lines among which the next call is the one that began first: a file has them by their ends."""


class Replay:
    """Plays what ``reader`` reads against ``target``, once; ``report`` says how it went."""

    def __init__(
        self,
        reader: Reader,
        target: Target,
        ignored: Ignored,
        *,
        writes: bool,
        show_values: bool,
    ) -> None:
        self.tally: Tally = Tally()
        self.played = 0
        self.skipped_writes = 0
        self.unanswered = 0
        self.compares = True
        self._reader = reader
        self._target = target
        self._ignored = ignored
        self._writes = writes
        self._show_values = show_values
        self._due = 0.0

    async def run(self, concurrency: int, rate: float | None) -> None:
        """Play all calls: ``concurrency`` at a time, ``rate`` a second at most.

        Raises:
            OSError: the recording cannot be read.
            CommandError: the target cannot be reached.
        """
        calls = self._wanted()
        first = next(calls, None)
        if first is None:
            return
        self._due = trio.current_time()
        async with self._target.open(first.namespace), trio.open_nursery() as nursery:
            waiting = chain((first,), calls)
            for _ in range(concurrency):
                nursery.start_soon(self._play_some, waiting, rate)

    async def _play_some(self, calls: Iterator[RecordedCall], rate: float | None) -> None:
        for call in calls:
            if rate is not None:
                self._due = due = max(self._due + 1 / rate, trio.current_time())
                await trio.sleep_until(due)
            await self._play(call)

    async def _play(self, call: RecordedCall) -> None:
        self.played += 1
        new = await self._target.call(call)
        if new is None:
            self.unanswered += 1
            return
        old = _recorded_answer(call)
        found: list[ResultDifference] = []
        if call.redacted:
            self.compares = False
        else:
            names = ALL_NAMES if self._show_values else self._target.names(call.operation)
            found = compare(old, new, self._ignored, names, show_values=self._show_values)
        self.tally.add(call.operation, call.id, old, new, found, call.time)

    def _wanted(self) -> Iterator[RecordedCall]:
        """The calls to play, by when they began as far as ``WINDOW`` lines show."""
        window: list[tuple[float, int, RecordedCall]] = []
        for number, call in enumerate(self._reader.calls()):
            if call.writes and not self._writes:
                self.skipped_writes += 1
                continue
            heapq.heappush(window, (call.time, number, call))
            if len(window) > WINDOW:
                yield heapq.heappop(window)[2]
        while window:
            yield heapq.heappop(window)[2]

    def report(self, file: str) -> dict[str, Any]:
        """All of it, as plain data."""
        tally = self.tally
        then, now = tally.latencies
        outcomes = {
            name: tally.outcomes[name]
            for name in ("equal", "different", "only_old_failed", "only_new_failed")
        }
        is_equal = self.played > 0 and not self.unanswered
        if self.compares:
            is_equal = is_equal and outcomes["equal"] == self.played
        return {
            "file": file,
            "against": self._target.name,
            "is_equal": is_equal,
            "compared": self.compares,
            "played": self.played,
            "skipped_writes": self.skipped_writes,
            "skipped_lines": self._reader.skipped,
            "unanswered": self.unanswered,
            "outcomes": outcomes,
            "latency_then": msgspec.to_builtins(then),
            "latency_now": msgspec.to_builtins(now),
            "differences": msgspec.to_builtins(tally.groups),
            "other_differences": tally.other_differences,
            "recent": msgspec.to_builtins(list(tally.recent)),
        }


def _recorded_answer(call: RecordedCall) -> Answer:
    status = StatusCode.__members__.get(call.status, StatusCode.UNKNOWN)
    if status is not StatusCode.OK:
        return Answer(status, seconds=call.seconds)
    text = "" if call.result_raw else bytes(call.result).decode()
    return Answer(StatusCode.OK, text, call.result_raw, call.seconds)
