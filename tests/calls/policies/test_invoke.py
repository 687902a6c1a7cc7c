import pytest

from prism.calls.policies.invoke import MAX_DETAIL, Invoke
from prism.calls.request import Reply
from prism.contract.errors import InvalidRequest, PluginError, PluginUnavailable, UnknownOperation
from prism.contract.messages import ExecuteRequest, ExecuteResponse, PluginMetrics
from prism.contract.status import StatusCode


async def test_what_the_plugin_gets_and_gives(make_namespace, make_request, autojump_clock):
    namespace = make_namespace()
    request = make_request()
    request.params.text = '{"key":1}'
    assert await Invoke(namespace)(request) == Reply(b'{"key":1}')
    instance = namespace.slot.current
    assert instance.channel.requests == [
        ExecuteRequest(operation="get", params_json='{"key":1}', metadata={"prism-namespace": "kv"})
    ]
    assert (request.record.instance, request.record.plugin_seconds) == ("kv/1", 0.0)
    assert instance.leases == 0


@pytest.mark.parametrize(
    ("operation", "error", "says"),
    [
        ("nope", UnknownOperation, "it offers: get, set, watch"),
        ("watch", InvalidRequest, "answers with a stream"),
    ],
)
async def test_operations_not_offered(make_namespace, make_request, operation, error, says):
    request = make_request(operation)
    with pytest.raises(error, match=says):
        await Invoke(make_namespace())(request)
    assert request.record.plugin_seconds is None


async def test_no_instance(make_namespace, make_request):
    namespace = make_namespace()
    namespace.slot.clear(namespace.slot.current, "it crashed")
    with pytest.raises(PluginUnavailable, match="no plugin now"):
        await Invoke(namespace)(make_request())


async def test_the_plugins_error(make_namespace, make_request):
    async def refuse(request):
        return ExecuteResponse(error="x" * 10_000, error_code=6)

    with pytest.raises(PluginError) as caught:
        await Invoke(make_namespace(refuse))(make_request())
    assert (caught.value.status, caught.value.http_status) == (StatusCode.ALREADY_EXISTS, 409)
    assert len(caught.value.detail) == MAX_DETAIL


async def test_metrics_that_come_with_an_answer_are_kept(make_namespace, make_request):
    metrics = PluginMetrics(requests_total=1)

    async def answer(request):
        given = metrics if len(channel.requests) == 1 else None
        return ExecuteResponse(success=True, metrics=given)

    namespace = make_namespace(answer)
    channel = namespace.slot.current.channel
    for _ in range(2):
        await Invoke(namespace)(make_request())
    assert namespace.slot.current.metrics == metrics
