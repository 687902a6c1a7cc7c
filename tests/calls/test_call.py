"""What one call does that goes wrong in its answer, and who else notices."""

import pytest
import trio

from prism.calls import policies
from prism.calls.policies import POLICIES
from prism.calls.policies.policy import Policy, Witness
from prism.calls.stream import ClientStream
from prism.config.plugin_types import BalanceConfig
from prism.contract.errors import CallCancelled, DeadlineExceeded, PluginError
from prism.contract.messages import ExecuteResponse
from prism.contract.status import StatusCode
from prism.supervision.balance import Balance


class Silent(ClientStream):
    """A client's stream on which nothing is said."""

    async def begin(self):
        pass

    async def send(self, response):
        pass

    async def end(self, error):
        pass


@pytest.fixture
def break_answers(monkeypatch):
    """Make the answers of a call impossible to send, as by a bug in a front end."""

    def break_answers(call):
        def fail(*arguments):
            raise RuntimeError("a bug in the front end")

        broken_off = []
        kind = type(call)
        subclass = type(
            "Broken",
            (kind,),
            {
                "__slots__": (),
                "send_result": fail,
                "send_error": fail,
                "break_off": lambda self: broken_off.append(self),
            },
        )
        call.__class__ = subclass
        return broken_off

    return break_answers


async def test_a_fault_in_one_answer_costs_no_other_call(
    make_namespace, make_call, break_answers, caplog
):
    namespace = make_namespace()
    broken, good = make_call(namespace), make_call(namespace)
    broken_off = break_answers(broken)
    broken.proceed()
    good.proceed()
    assert await good.outcome() == b"{}"
    await trio.testing.wait_all_tasks_blocked()
    assert broken_off == [broken]
    assert broken.observed == 1
    assert namespace.in_flight == 0
    assert "a bug in the front end" in caplog.text


async def test_nor_does_it_stop_the_deadlines(
    make_namespace, make_call, break_answers, autojump_clock
):
    async def hang(request):
        await trio.sleep_forever()

    namespace = make_namespace(hang)
    broken, good = make_call(namespace, timeout=1), make_call(namespace, timeout=2)
    break_answers(broken)
    broken.proceed()
    good.proceed()
    with pytest.raises(DeadlineExceeded):
        await good.outcome()
    assert broken.observed == 1


@pytest.mark.parametrize("ending", ["answer", "deadline"])
async def test_nor_does_a_fault_in_what_judges_its_instance(
    make_namespace, make_call, caplog, autojump_clock, ending
):
    faulty = False

    def now():
        if faulty:
            raise OverflowError("a bug in the balance")
        return 0.0

    async def answer(request):
        await trio.sleep(1)
        return ExecuteResponse(success=True)

    namespace = make_namespace(answer)
    instance = namespace.slot.current
    instance.replica = Balance(BalanceConfig(), "", now).add("a")
    faulty = True
    calls = [make_call(namespace, timeout=2 if ending == "answer" else 0.5) for _ in range(2)]
    for call in calls:
        call.proceed()
    for call in calls:
        if ending == "answer":
            assert await call.outcome() == b"{}"
        else:
            with pytest.raises(DeadlineExceeded):
                await call.outcome()
    assert (namespace.in_flight, instance.leases, instance.lost) == (0, 0, 0)
    assert caplog.text.count("OverflowError: a bug in the balance") == 2


async def test_a_call_ends_once(make_namespace, make_call, autojump_clock):
    call = make_call(make_namespace())
    call.proceed()
    assert await call.outcome() == b"{}"
    call.end(CallCancelled("the client left"))
    call.end(CallCancelled("the client left"))
    await trio.sleep(100)
    assert (call.error, call.observed) == (None, 1)


async def test_a_fault_in_a_policy_or_a_witness_costs_neither_the_answer_nor_the_others(
    make_namespace, make_call, caplog, monkeypatch
):
    class Faulty(Policy):
        def leave(self, call):
            raise RuntimeError("a bug in a policy")

    class FaultyWitness(Witness):
        def began(self, call):
            raise RuntimeError("a bug in a witness")

        def answered(self, call, response):
            raise RuntimeError("a bug in a witness")

        def ended(self, call, error):
            raise RuntimeError("a bug in a witness")

    class Seeing(Witness):
        def began(self, call):
            seen.append((call, "began"))

        def answered(self, call, response):
            seen.append((call, response.success))

        def ended(self, call, error):
            seen.append((call, error))

    seen = []
    # Behind the one that counts the calls, so that it is left before.
    monkeypatch.setattr(policies, "POLICIES", (*POLICIES, Faulty))

    async def answer(request):
        if request.operation == "set":
            await trio.sleep_forever()
        return ExecuteResponse(success=request.params_json == "{}", error_code=StatusCode.NOT_FOUND)

    namespace = make_namespace(answer)
    answered, ended = make_call(namespace), make_call(namespace, "set")
    refused = make_call(namespace, body=b'{"key": "a"}')
    for call in (answered, ended, refused):
        call.witnesses = (FaultyWitness(), Seeing())
        call.proceed()
    assert await answered.outcome() == b"{}"
    with pytest.raises(PluginError):
        await refused.outcome()
    assert namespace.in_flight == 1
    error = CallCancelled("the client left")
    ended.end(error)
    with pytest.raises(CallCancelled):
        await ended.outcome()
    assert [what for call, what in seen if call is answered] == ["began", True, None]
    assert [what for call, what in seen if call is refused] == ["began", False, refused.error]
    assert [what for call, what in seen if call is ended] == ["began", error]
    assert namespace.in_flight == 0
    assert namespace.slot.current.leases == 0
    assert caplog.text.count("RuntimeError: a bug in a policy") == 3
    assert caplog.text.count("RuntimeError: a bug in a witness") == 8


async def test_a_fault_in_giving_up_an_attempt_costs_neither_the_answer_nor_the_place(
    make_namespace, make_call, caplog, monkeypatch
):
    async def answer(_request):
        await trio.sleep_forever()

    def fail(*_arguments):
        raise RuntimeError("a bug")

    namespace = make_namespace(answer)
    instance = namespace.slot.current
    monkeypatch.setattr(instance.channel, "cancel", fail)
    call = make_call(namespace)
    call.proceed()
    call.end(CallCancelled("the client left"))
    with pytest.raises(CallCancelled):
        await call.outcome()
    assert (namespace.in_flight, instance.leases, instance.cancelled) == (0, 0, 1)
    assert not namespace.deadlines._calls
    assert "RuntimeError: a bug" in caplog.text


async def test_bytes_that_come_with_the_end_of_their_call_are_not_counted(
    make_namespace, make_call
):
    namespace = make_namespace()
    call, came = make_call(namespace), trio.Event()

    async def read():
        await came.wait()
        call.hold(100_000)

    call.wait_in_task(read)
    await trio.testing.wait_all_tasks_blocked()
    came.set()
    call.end(CallCancelled("the client left"))
    await trio.testing.wait_all_tasks_blocked()
    assert namespace.requests.used == namespace.requests.parent.used == 0


async def test_the_params_of_a_stream_are_counted_for_as_long_as_it_goes_on(
    make_namespace, make_call
):
    namespace = make_namespace()
    body = b'{"a":"%b"}' % (b"x" * 100_000)
    call = make_call(namespace, "watch", body, stream=Silent())
    call.proceed()
    assert namespace.requests.used == len(body)
    call.hold(50)
    assert namespace.requests.used == len(body) + 50
    call.end(CallCancelled("the client left"))
    assert namespace.requests.used == 0
