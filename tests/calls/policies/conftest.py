import pytest
import trio

from prism.calls.request import CallRecord, Params, Request
from prism.calls.trace import new_trace


class GivenParams(Params):
    """Parameters that are there already; ``limits`` keeps what was asked for."""

    def __init__(self, body):
        self.body = body
        self.limits = []

    async def read(self, limit):
        self.limits.append(limit)
        return self.body


@pytest.fixture
def make_request():
    def make(operation="get", body=b"{}", timeout=30.0):
        now = trio.current_time()
        return Request(
            namespace="kv",
            operation=operation,
            params=GivenParams(body),
            metadata={"prism-namespace": "kv"},
            principal="anonymous",
            deadline=now + timeout,
            record=CallRecord(now, "id", new_trace()),
        )

    return make
