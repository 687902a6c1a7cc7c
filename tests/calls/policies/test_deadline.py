import pytest
import trio

from prism.calls.policies.deadline import Deadline
from prism.calls.request import Reply
from prism.contract.errors import DeadlineExceeded, RequestTimeout


async def hang(request):
    await trio.sleep_forever()


async def reply(request):
    return Reply(b"1")


async def test_answer_in_time(make_namespace, make_request):
    assert await Deadline(make_namespace(), reply)(make_request()) == Reply(b"1")


async def test_time_up_in_the_plugin(make_namespace, make_request, autojump_clock):
    request = make_request(timeout=1.5)
    request.params.text = "{}"
    request.record.plugin_seconds = 1.5
    with pytest.raises(DeadlineExceeded, match=r"within its 1\.5 s; it may have run"):
        await Deadline(make_namespace(), hang)(request)
    assert trio.current_time() - request.record.started == pytest.approx(1.5)


async def test_time_up_while_the_body_is_awaited(make_namespace, make_request, autojump_clock):
    with pytest.raises(RequestTimeout):
        await Deadline(make_namespace(), hang)(make_request())


async def test_the_callers_own_cancellation_passes(make_namespace, make_request, autojump_clock):
    with trio.move_on_after(1) as scope:
        await Deadline(make_namespace(), hang)(make_request())
    assert scope.cancelled_caught
