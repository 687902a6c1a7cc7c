"""The queues that the SDK's operations ask: each method is one piece of work."""

from collections.abc import Awaitable, Callable

from prism.sdk import Value
from prism.sdk.queue import Delivery, QueueStore

from .connection import Connection
from .database import Database
from .work_queue import WorkQueue


class SQLiteQueueStore(QueueStore):
    """``queues`` in ``database``."""

    def __init__(self, database: Database, queues: WorkQueue, *, max_value_bytes: int) -> None:
        self._database = database
        self._queues = queues
        self.max_value_bytes = max_value_bytes

    async def enqueue(self, queue: str, value: Value, delay: float) -> int:
        return await self._database.write(
            lambda connection: self._queues.enqueue(connection, queue, value, delay)
        )

    async def dequeue(
        self, queue: str, limit: int, visibility_timeout: float, max_deliveries: int
    ) -> list[Delivery]:
        def work(connection: Connection) -> list[Delivery]:
            return self._queues.dequeue(
                connection, queue, limit, visibility_timeout, max_deliveries
            )

        return await self._database.write(work)

    async def acknowledge(self, receipt: str) -> bool:
        return await self._database.write(
            lambda connection: self._queues.acknowledge(connection, receipt)
        )

    async def reject(self, receipt: str, delay: float) -> bool:
        return await self._database.write(
            lambda connection: self._queues.reject(connection, receipt, delay)
        )

    async def size(self, queue: str) -> tuple[int, int]:
        return await self._database.read(lambda connection: self._queues.size(connection, queue))

    def next_arrival(self, queue: str) -> Callable[[], Awaitable[object]]:
        return self._database.next_commit().wait
