"""Durable queues: a message is handed out, and comes back unless it is acknowledged in time.

Nothing here waits or commits; it runs in worker threads, inside a transaction. Delivery is
at least once: a consumer that dies, or is slower than the visibility timeout, leaves its
message to the next. One that was handed out ``max_deliveries`` times goes to the queue's
dead letters, which are a queue as well.

What can be had has ``visible_at`` 0, and the lowest id goes first, so no clock has a say in
that. The clock is asked only for what is to come back: those messages are made ready, in the
order of their times, before one is handed out.
"""

import math
import secrets
from collections.abc import Callable

from prism.sdk import Value
from prism.sdk.queue import DEAD_LETTERS, Delivery

from .connection import ITEM_BYTES, Connection
from .keyvalue import PAGE_BYTES
from .schema import LARGEST_ID

MADE_READY_AT_ONCE = 1_000
"""Messages whose time has come; bounds what one call has to write."""

_NEXT_ID = f"""UPDATE _prism_state SET value = 1 + max(value,
    coalesce((SELECT max(id) FROM _prism_queue WHERE id < {LARGEST_ID}), 0))
    WHERE name = 'queue'"""
_ENQUEUE = """INSERT INTO _prism_queue
    (id, namespace, queue, value, binary, enqueued_at, visible_at, deliveries)
    SELECT value, :namespace, :queue, :value, :binary, :enqueued_at, :visible_at, 0
    FROM _prism_state WHERE name = 'queue'"""
_MAKE_READY = """UPDATE _prism_queue SET visible_at = 0, receipt = NULL WHERE id IN (
    SELECT id FROM _prism_queue WHERE namespace = :namespace AND queue = :queue
    AND visible_at > 0 AND visible_at <= :now ORDER BY visible_at, id LIMIT :limit)"""
_NEXT = """SELECT id, value, binary, enqueued_at, deliveries FROM _prism_queue
    WHERE namespace = :namespace AND queue = :queue AND visible_at = 0
    ORDER BY id LIMIT 1"""
_HAND_OUT = """UPDATE _prism_queue
    SET deliveries = deliveries + 1, visible_at = :visible_at, receipt = :receipt WHERE id = :id"""
_BURY = "UPDATE _prism_queue SET queue = :dead, receipt = NULL, deliveries = 0 WHERE id = :id"
_HELD = "namespace = :namespace AND receipt = :receipt AND visible_at > :now"
_ACKNOWLEDGE = f"DELETE FROM _prism_queue WHERE {_HELD}"
_REJECT = f"UPDATE _prism_queue SET visible_at = :visible_at, receipt = NULL WHERE {_HELD}"
_COUNT = """SELECT count(*) FILTER (WHERE visible_at <= :now), count(*) FROM _prism_queue
    WHERE namespace = :namespace AND queue = :queue"""


class WorkQueue:
    """One namespace's queues. ``clock`` says what is due, ``wall`` is for people; both give
    seconds since 1970."""

    def __init__(
        self, namespace: str, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._namespace = namespace
        self._clock = clock
        self._wall = wall

    def enqueue(self, connection: Connection, queue: str, value: Value, delay: float) -> int:
        """Add a message that can be had after ``delay`` seconds; returns its id."""
        connection.execute(_NEXT_ID)
        parameters = self._parameters(
            queue=queue,
            value=value.data,
            binary=value.binary,
            enqueued_at=int(self._wall() * 1000),
            visible_at=self._in(delay),
        )
        return connection.execute(_ENQUEUE, parameters).lastrowid or 0

    def dequeue(
        self,
        connection: Connection,
        queue: str,
        limit: int,
        visibility_timeout: float,
        max_deliveries: int,
    ) -> list[Delivery]:
        """Hand out up to ``limit`` messages, the oldest first.

        Fewer where they are large: an answer that fits no frame would be lost, and count
        as a delivery of every message in it.
        """
        connection.execute(_MAKE_READY, self._parameters(queue=queue, limit=MADE_READY_AT_ONCE))
        found: list[Delivery] = []
        size = 0
        while len(found) < limit:
            row = connection.execute(_NEXT, self._parameters(queue=queue)).fetchone()
            if row is None:
                break
            number, value, binary, enqueued_at, deliveries = row
            if deliveries >= max_deliveries and not queue.endswith(DEAD_LETTERS):
                connection.execute(_BURY, {"id": number, "dead": queue + DEAD_LETTERS})
                continue
            if found and size + len(value) > PAGE_BYTES:
                break
            size += len(value)
            connection.fetched_bytes += len(value) + ITEM_BYTES
            receipt = secrets.token_urlsafe(16)
            handed = {"id": number, "receipt": receipt, "visible_at": self._in(visibility_timeout)}
            connection.execute(_HAND_OUT, handed)
            message = Value(value, binary=bool(binary))
            found.append(Delivery(number, receipt, message, deliveries + 1, enqueued_at / 1000))
        return found

    def acknowledge(self, connection: Connection, receipt: str) -> bool:
        """The message is dealt with and gone; False when it was no longer this receipt's."""
        return connection.execute(_ACKNOWLEDGE, self._parameters(receipt=receipt)).rowcount == 1

    def reject(self, connection: Connection, receipt: str, delay: float) -> bool:
        """Give the message back, to be had after ``delay`` seconds; False as above."""
        parameters = self._parameters(receipt=receipt, visible_at=self._in(delay))
        return connection.execute(_REJECT, parameters).rowcount == 1

    def size(self, connection: Connection, queue: str) -> tuple[int, int]:
        """(messages that can be had now, messages that are delayed or handed out)."""
        ready, all_of_them = connection.execute(_COUNT, self._parameters(queue=queue)).fetchone()
        return ready, all_of_them - ready

    def _in(self, seconds: float) -> int:
        """When something is due; 0 for now."""
        return math.ceil((self._clock() + seconds) * 1000) if seconds else 0

    def _parameters(self, **parameters: object) -> dict[str, object]:
        return {"namespace": self._namespace, "now": int(self._clock() * 1000), **parameters}
