"""Which calls are handed to a recording, and when."""

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.calls.policies.record import Record
from prism.config.types import RecordConfig
from prism.contract.errors import CallCancelled, PluginError
from prism.contract.messages import ExecuteResponse
from prism.contract.status import StatusCode


class Recorder:
    """Takes all records."""

    def __init__(self, namespace, config):
        self.namespace, self.config = namespace, config
        self.records = []
        self.written = self.dropped = self.waiting = 0
        self.trouble = ""
        self.closed = False

    def add(self, record):
        assert not self.closed
        self.records.append(record)

    def close(self):
        self.closed = True


@pytest.fixture
def opened():
    """The recorders, in their order."""
    return []


@pytest.fixture
def recorded(make_namespace, opened):
    """Makes a namespace that is recorded."""

    def open_recording(name, config):
        opened.append(Recorder(name, config))
        return opened[-1]

    def make(*answer, **config):
        namespace = make_namespace(*answer)
        namespace.recorder = open_recording
        configure(namespace, **config)
        return namespace

    return make


def configure(namespace, *, on=True, **config):
    record = RecordConfig(**{"file": "calls.jsonl", **config}) if on else None
    namespace.update(msgspec.structs.replace(namespace.config, record=record))


async def test_a_call_is_recorded_when_it_is_over(recorded, opened, make_call):
    namespace = recorded()
    call = make_call(namespace, body=b'{"key": "a"}')
    call.principal, call.metadata = "ada", {"x-tenant": "t"}
    call.proceed()
    assert not opened[0].records
    await call.outcome()
    (record,) = opened[0].records
    assert (record.operation, record.params, record.principal) == ("get", b'{"key": "a"}', "ada")
    assert record.response.result_json == '{"key": "a"}'
    assert record.metadata == {"x-tenant": "t"}
    assert record.instance == "kv/1"
    assert record.declared.name == "get"


async def test_failures_are_recorded_and_refusals_are_not(recorded, opened, ask):
    async def fail(request):
        return ExecuteResponse(error="no luck", error_code=StatusCode.NOT_FOUND)

    namespace = recorded(fail)
    with pytest.raises(PluginError):
        await ask(namespace)
    with pytest.raises(Exception, match="no operation"):
        await ask(namespace, "nope")
    with pytest.raises(Exception, match="JSON"):
        await ask(namespace, body=b"{")
    (record,) = opened[0].records
    assert record.response.error_code == StatusCode.NOT_FOUND


async def test_calls_without_an_answer_are_recorded_with_the_reason(recorded, opened, make_call):
    async def hang(request):
        await trio.sleep_forever()

    call = make_call(recorded(hang))
    call.proceed()
    await wait_all_tasks_blocked()
    call.end(CallCancelled("the client left"))
    (record,) = opened[0].records
    assert record.response is None
    assert record.error.status is StatusCode.CANCELLED


async def test_a_share_of_none_records_nothing(recorded, opened, ask):
    namespace = recorded(share=0.0)
    await ask(namespace)
    assert not opened[0].records
    configure(namespace, share=1.0)
    await ask(namespace)
    assert len(opened) == 1
    assert len(opened[0].records) == 1


async def test_another_file_is_another_recording_and_none_ends_it(recorded, opened, ask):
    namespace = recorded()
    configure(namespace, file="other.jsonl")
    assert [each.closed for each in opened] == [True, False]
    await ask(namespace)
    assert len(opened[1].records) == 1
    configure(namespace, on=False)
    assert opened[1].closed
    assert not any(isinstance(each, Record) for each in namespace.policies)
    await ask(namespace)


async def test_a_namespace_that_is_removed_ends_its_recording(recorded, opened):
    recorded().detach()
    assert opened[0].closed


async def test_state_and_metrics(recorded, opened, ask):
    namespace = recorded()
    opened[0].written, opened[0].dropped = 7, 2
    policy = next(each for each in namespace.policies if isinstance(each, Record))
    assert policy.state()["written"] == 7
    assert [value for _, _, value in policy.measure()] == [7, 2]
