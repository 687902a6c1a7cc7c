"""Durable queues, on a table: rows that a consumer has are passed over by the others."""

from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

import anyio

from prism.sdk import Value
from prism.sdk.queue import DEAD_LETTERS, Delivery, QueueStore

from .errors import invalid
from .own_tables import OwnTables, integer, number

ANSWER_BYTES = 512 * 1024
"""A dequeue ends with the message that reaches this."""
BURIED_AT_ONCE = 1_000
"""Messages that become dead letters with one dequeue."""

_IN = "clock_timestamp() + {} * interval '1 second'"
_HELD = "namespace = $1 AND receipt = $2 AND visible_at > clock_timestamp()"
_READY = "namespace = $1 AND queue = $2 AND visible_at <= clock_timestamp()"

WRITING = {
    "enqueue": f"""INSERT INTO {{schema}}.queue (namespace, queue, value, "binary", visible_at)
        VALUES ($1, $2, $3, $4, {_IN.format("$5::float8")}) RETURNING id""",  # noqa: S608 - constants
    "dequeue": f"""WITH buried AS (UPDATE {{schema}}.queue
            SET queue = $2 || '{DEAD_LETTERS}', receipt = NULL, deliveries = 0
            WHERE id IN (SELECT id FROM {{schema}}.queue
                WHERE {_READY} AND deliveries >= $5::int AND right($2, 5) <> '{DEAD_LETTERS}'
                LIMIT {BURIED_AT_ONCE} FOR UPDATE SKIP LOCKED)),
        picked AS (SELECT id, octet_length(value) AS size FROM {{schema}}.queue
            WHERE {_READY} AND (deliveries < $5::int OR right($2, 5) = '{DEAD_LETTERS}')
            ORDER BY id LIMIT $3::int FOR UPDATE SKIP LOCKED),
        sized AS (SELECT id, size, sum(size) OVER (ORDER BY id) AS total FROM picked)
        UPDATE {{schema}}.queue AS q SET deliveries = deliveries + 1,
            visible_at = {_IN.format("$4::float8")}, receipt = gen_random_uuid()::text
        FROM sized WHERE q.id = sized.id AND sized.total - sized.size < {ANSWER_BYTES}
        RETURNING q.id, q.receipt, q.value, q."binary", q.deliveries::int8,
            (extract(epoch FROM q.enqueued_at) * 1000)::int8""",  # noqa: S608 - constants
    "acknowledge": f"DELETE FROM {{schema}}.queue WHERE {_HELD}",  # noqa: S608 - constants
    "reject": f"""UPDATE {{schema}}.queue
        SET visible_at = {_IN.format("$3::float8")}, receipt = NULL WHERE {_HELD}""",  # noqa: S608 - constants
}
FORMATS = {
    "enqueue": (0, 0, 1, 0, 0), "dequeue": (0,) * 5, "acknowledge": (0, 0), "reject": (0, 0, 0),
}  # fmt: skip
_SIZE = """SELECT count(*) FILTER (WHERE visible_at <= clock_timestamp()), count(*)
    FROM {schema}.queue WHERE namespace = $1 AND queue = $2"""


class PostgresQueueStore(QueueStore):
    """The queues in ``tables``."""

    def __init__(self, tables: OwnTables, *, max_value_bytes: int) -> None:
        self._tables = tables
        self._arrivals = WeakValueDictionary[str, _Arrival]()
        self.max_value_bytes = max_value_bytes

    async def enqueue(self, queue: str, value: Value, delay: float) -> int:
        binary = b"t" if value.binary else b"f"
        answer = await self._tables.write(
            "enqueue", _name(queue), value.data, binary, number(delay)
        )
        self._arrived(queue)
        return integer(answer.rows[0][0])

    async def dequeue(
        self, queue: str, limit: int, visibility_timeout: float, max_deliveries: int
    ) -> list[Delivery]:
        answer = await self._tables.write(
            "dequeue",
            _name(queue),
            b"%d" % limit,
            number(visibility_timeout),
            b"%d" % max_deliveries,
        )
        found = [
            Delivery(
                integer(row[0]),
                (row[1] or b"").decode(),
                Value(row[2] or b"", binary=row[3] == b"\1"),
                integer(row[4]),
                integer(row[5]) / 1000,
            )
            for row in answer.rows
        ]
        return sorted(found, key=lambda delivery: delivery.id)

    async def acknowledge(self, receipt: str) -> bool:
        return bool((await self._tables.write("acknowledge", _name(receipt))).affected)

    async def reject(self, receipt: str, delay: float) -> bool:
        answer = await self._tables.write("reject", _name(receipt), number(delay))
        if not delay:
            for queue in list(self._arrivals):
                self._arrived(queue)
        return bool(answer.affected)

    async def size(self, queue: str) -> tuple[int, int]:
        answer = await self._tables.alone(_SIZE, _name(queue), repeatable=True)
        ready, all_of_them = (integer(cell) for cell in answer.rows[0])
        return ready, all_of_them - ready

    def next_arrival(self, queue: str) -> Callable[[], Awaitable[object]]:
        """By this instance; of others', who waits learns when it looks again."""
        return self._arrivals.setdefault(queue, _Arrival()).wait

    def _arrived(self, queue: str) -> None:
        if (event := self._arrivals.pop(queue, None)) is not None:
            event.set()


class _Arrival:
    """Of a message in a queue; forgotten when nobody waits for it any more."""

    def __init__(self) -> None:
        event = anyio.Event()
        self.set = event.set
        self._wait = event.wait

    async def wait(self) -> None:
        await self._wait()


def _name(text: str) -> bytes:
    """A parameter; PostgreSQL's text has no U+0000.

    Raises:
        PluginError: INVALID_ARGUMENT
    """
    if "\0" in text:
        raise invalid("the name of a queue, or a receipt, has the character U+0000")
    return text.encode()
