"""The examples, built by their own compilers."""

import logging
import zlib

import msgspec
import pytest

from prism.contract.errors import PluginError
from prism.contract.messages import (
    ExecuteRequest,
    HealthStatus,
    OperationAccess,
    StreamRequest,
)
from prism.contract.status import StatusCode
from tests.hosts.wasm.modules import wat

GRANTS = {"log": True, "key_value_bytes": 10_000}


async def stream_in_messagepack(plugin, operation, *messages):
    async def requests():
        for message in ({}, *messages):
            yield StreamRequest(operation=operation, params_raw=msgspec.msgpack.encode(message))

    async for response in plugin.plugin.execute_stream(requests()):
        if not response.is_final:
            yield msgspec.msgpack.decode(response.result_raw)


async def test_rust(run, greeter, caplog):
    caplog.set_level(logging.INFO)
    async with run(greeter, grants=GRANTS, config={"greeting": "Grüß\n Gott"}) as plugin:
        assert 'greets with "Grüß\\n Gott"' in caplog.text
        said = await plugin.call("greet", name='Ada "Lovelace" \\ ü 𝄞\n')
        assert said == {"text": 'Grüß\n Gott, Ada "Lovelace" \\ ü 𝄞\n!'}
        visits = [await plugin.call("visits") for _ in range(3)]
        assert visits == [{"visits": number} for number in (1, 2, 3)]
        assert [number async for number in plugin.stream("count", upto=100)] == list(range(100))
        sent = [{"a": 1}, {"b": [2]}]
        assert [message async for message in plugin.stream("repeat", *sent)] == sent
        with pytest.raises(PluginError, match='parameter "name" is missing') as caught:
            await plugin.call("greet", other=1)
        assert caught.value.status is StatusCode.INVALID_ARGUMENT
        with pytest.raises(PluginError, match='a whole number, not "x"'):
            [each async for each in plugin.stream("count", upto="x")]
        assert (await plugin.health()).status is HealthStatus.HEALTHY


async def test_what_it_declares(run, greeter):
    async with run(greeter, grants=GRANTS) as plugin:
        host = plugin.plugin
        assert host.version == "1.0.0"
        greet, visits, count, _ = host.declarations()
        assert (greet.idempotent, greet.access) == (True, OperationAccess.READ)
        assert greet.description == "Greets somebody by name."
        assert '"name": {"type": "string"}' in greet.params_schema
        assert (visits.idempotent, visits.access) == (False, OperationAccess.UNDECLARED)
        assert count.streaming


async def test_large_params_and_results(run, greeter):
    """The host asks for a larger buffer, and uses it from then on."""
    async with run(greeter, grants=GRANTS, instances=1) as plugin:
        for size in (3_000_000, 10, 100_000):
            name = "x" * size
            assert await plugin.call("greet", name=name) == {"text": f"Hello, {name}!"}


async def test_for_callers_that_speak_messagepack(run, greeter):
    async with run(greeter, grants=GRANTS) as plugin:
        said = await plugin.request("greet", {"name": "Ada"}, binary=True)
        assert said == {"text": "Hello, Ada!"}
        ends = [{"name": "Ada"}, {"n": 2**53 + 1}]
        assert [each async for each in stream_in_messagepack(plugin, "repeat", *ends)] == ends


@pytest.mark.parametrize(
    ("params_json", "params_raw"),
    [
        ("{", b""),
        ("[]", b""),
        ("5", b""),
        ("[" * 100_000, b""),
        ("", b"\xc1"),
        ("", msgspec.msgpack.encode([])),
        ("", msgspec.msgpack.encode({("a", 1): 2})),
    ],
)
async def test_params_that_are_no_object_do_not_come_so_far(run, params_json, params_raw):
    request = ExecuteRequest(operation="run", params_json=params_json, params_raw=params_raw)
    async with run(wat(run="unreachable")) as plugin:
        answer = await plugin.plugin.execute(request)
        assert answer.error_code == StatusCode.INVALID_ARGUMENT
        assert plugin.plugin._pool.traps == 0


async def test_c(run, checksums, caplog):
    caplog.set_level(logging.INFO)
    async with run(checksums, grants={"log": True}) as plugin:
        assert "checksums, with " in caplog.text  # printf, which WASI's fd_write carries
        params = b'{"a":"b"}'
        expected = {"crc32": f"{zlib.crc32(params):08x}", "bytes": len(params)}
        assert await plugin.call("crc32", a="b") == expected
        assert [number async for number in plugin.stream("count", upto=5)] == list(range(5))


async def test_what_is_printed_without_a_grant_is_nowhere(run, checksums, caplog):
    caplog.set_level(logging.INFO)
    async with run(checksums) as plugin:
        assert (await plugin.call("crc32"))["bytes"] == 2
    assert "checksums, with" not in caplog.text
