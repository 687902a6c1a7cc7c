"""The task of a limits store. With a real one: tests/calls/policies/test_shared_rate_limit.py."""

from typing import Any, NoReturn

import trio
import trio.testing

from prism.config.types import LimitsStoreConfig, SecretsConfig
from prism.limits.store import LimitsStore


class Breaking(LimitsStore):
    """One whose connection breaks in the moment in which it is cancelled."""

    async def _load(self) -> Any:
        return None

    async def _use(self, *_: object) -> NoReturn:
        try:
            await trio.sleep_forever()
        finally:
            raise ConnectionError("it broke")


async def test_a_connection_that_breaks_as_the_store_is_exchanged_ends_nothing() -> None:
    store = Breaking()
    store.configure(LimitsStoreConfig(url="redis://127.0.0.1:1/0"), SecretsConfig())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        await trio.testing.wait_all_tasks_blocked()
        store.configure(None, SecretsConfig())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
