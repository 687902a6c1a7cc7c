"""Components: the example, built with its own tools, and faulty ones written as text."""

import pytest
import trio

from prism.contract.errors import PluginError
from prism.contract.messages import HealthStatus
from prism.contract.status import StatusCode
from tests.hosts.wasm.conftest import LIMIT, wait_until
from tests.hosts.wasm.modules import OFFERS

OK = "(i32.const 512)"
"""Where ``ok("{}")`` lies."""
TEXTS = '(param "operation" string) (param "params" string)'


def component(
    *,
    run: str = OK,
    params: str = TEXTS,
    imports: str = "",
    left_out: str = "",
    memory: int = 1,
    core: str = "",
) -> str:
    """A component that answers ``{}`` to all, or what the core code ``run`` gives of an execute of
    an operation that begins with r. It is as wit-component builds them."""
    offers = OFFERS.replace('"', '\\"')
    kinds = {
        "initialize": '(param "settings" string)',
        "execute": params,
        "stream": TEXTS,
        "health": "",
    }
    lifted = '(memory (core memory $i "memory")) (realloc (core func $i "cabi_realloc"))'
    functions = "\n".join(
        f"(func ${name} {kind} (result (result string (error $failure)))"
        f' (canon lift (core func $i "{name}") {lifted}))'
        for name, kind in kinds.items()
    )
    exported = {name: kind for name, kind in kinds.items() if name != left_out}
    passed = "\n".join(
        f'(import "import-{name}" (func ${name} {kind} (result (result string (error $in)))))'
        for name, kind in exported.items()
    )
    shown = "\n".join(
        f'(export "{name}" (func ${name}) (func {kind} (result (result string (error $out)))))'
        for name, kind in exported.items()
    )
    given = " ".join(f'(with "import-{name}" (func ${name}))' for name in exported)
    record = '(record (field "status" u8) (field "detail" string))'
    return f"""(component
      {imports}
      (core module $m
        (memory (export "memory") {memory})
        (global $next (mut i32) (i32.const 8192))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
          (global.get $next)
          (global.set $next (i32.add (global.get $next) (local.get 3))))
        (func (export "initialize") (param i32 i32) (result i32) (i32.const 528))
        (func (export "execute") (param $at i32) (param i32 i32 i32) (result i32)
          (if (i32.eq (i32.load8_u (local.get $at)) (i32.const {ord("r")}))
            (then (return {run}))) {OK})
        (func (export "stream") (param i32 i32 i32 i32) (result i32) {OK})
        (func (export "health") (result i32) {OK})
        (data (i32.const 512) "\\00\\00\\00\\00\\80\\02\\00\\00\\02\\00\\00\\00")
        (data (i32.const 528) "\\00\\00\\00\\00\\a0\\02\\00\\00\\{len(OFFERS):02x}\\00\\00\\00")
        (data (i32.const 640) "{{}}")
        (data (i32.const 672) "{offers}")
        {core})
      (core instance $i (instantiate $m))
      (type $failure {record})
      {functions}
      (component $shim
        (type $inner {record})
        (import "import-failure" (type $in (eq $inner)))
        {passed}
        (type $outer {record})
        (export $out "failure" (type $outer))
        {shown})
      (instance $handler
        (instantiate $shim (with "import-failure" (type $failure)) {given}))
      (export "prism:plugin/handler@1.0.0" (instance $handler)))"""


async def refused(run, module, **settings):
    with pytest.raises(PluginError) as caught:
        async with run(module, **settings):
            pass
    assert caught.value.status is StatusCode.FAILED_PRECONDITION
    return caught.value.detail


async def fails(plugin):
    with trio.fail_after(LIMIT), pytest.raises(PluginError) as caught:
        await plugin.call("run")
    return caught.value


async def test_the_example(run, counter):
    async with run(counter, grants={"key_value_bytes": 10_000}, instances=2) as plugin:
        counts = [await plugin.call("count", key=key) for key in ("a", "a", "b")]
        assert counts == [{"count": 1}, {"count": 2}, {"count": 1}]
        assert [number async for number in plugin.stream("numbers")] == list(range(10))
        with pytest.raises(PluginError, match="it needs a parameter") as caught:
            await plugin.call("count")
        assert caught.value.status is StatusCode.INVALID_ARGUMENT
        assert (await plugin.health()).status is HealthStatus.HEALTHY


async def test_the_example_without_its_grant(run, counter):
    said = await refused(run, counter)
    assert "imports prism:plugin/key-value@1.0.0, which is not granted" in said
    assert "`key_value_bytes: 1048576`" in said


async def test_it_answers(run):
    async with run(component()) as plugin:
        assert await plugin.call("run") == {}
        assert plugin.plugin.version == "2.1.0"
        assert (await plugin.health()).status is HealthStatus.HEALTHY
        assert [message async for message in plugin.stream("pour")] == []


async def test_a_loop_ends_when_nobody_wants_the_call(run):
    async with run(component(run="(loop $again (br $again)) unreachable"), instances=1) as plugin:
        pool = plugin.plugin._pool
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plugin.call, "run")
            await wait_until(lambda: pool.busy == 1)
            nursery.cancel_scope.cancel()
        await wait_until(lambda: pool.busy == 0)
        assert pool.traps == 0
        assert await plugin.call("other") == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("unreachable", "unreachable"),
        ("(call $deeper)", "call stack exhausted"),
        ("(i32.const 0x7fffff00)", "out of bounds"),
        ("(i32.const 1000000)", "out of bounds"),
        ("(call $long)", "out of"),
        ("(call $bytes)", "utf"),
        ("(call $text)", "not JSON"),
        ("(call $variant)", "discriminant"),
    ],
)
async def test_what_it_answers_wrong(run, caplog, body, said):
    def answer(name: str, size: int, at: int = 640, kind: int = 0) -> str:
        return f"""(func ${name} (result i32)
          (i32.store (i32.const 600) (i32.const {kind}))
          (i32.store (i32.const 604) (i32.const {at}))
          (i32.store (i32.const 608) (i32.const {size}))
          (i32.const 600))"""

    core = (
        "(func $deeper (result i32) (call $deeper))"
        + answer("long", -1)
        + answer("bytes", 2, at=660)
        + answer("text", 1)
        + answer("variant", 2, kind=7)
        + '(data (i32.const 660) "\\ff\\fe")'
    )
    async with run(component(run=body, core=core), instances=1) as plugin:
        error = await fails(plugin)
        assert error.status is StatusCode.INTERNAL
        assert "error id" in error.detail
        assert said in caplog.text.lower() or said in caplog.text
        assert await plugin.call("other") == {}


async def test_its_own_failure(run):
    core = """(func $failed (result i32)
      (i32.store (i32.const 600) (i32.const 1))
      (i32.store (i32.const 604) (i32.const 5))
      (i32.store (i32.const 608) (i32.const 640))
      (i32.store (i32.const 612) (i32.const 2))
      (i32.const 600))"""
    async with run(component(run="(call $failed)", core=core)) as plugin:
        error = await fails(plugin)
        assert (error.status, error.detail) == (StatusCode.NOT_FOUND, "{}")
        assert plugin.plugin._pool.traps == 0


async def test_memory(run):
    assert "memory" in await refused(run, component(memory=100), memory_bytes=65536)
    grow = """(loop $again
      (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (if (i32.ne (memory.size) (i32.const 5)) (then unreachable))"""
    body = f"(block (result i32) {grow} {OK})"
    async with run(component(run=body), memory_bytes=5 * 65536) as plugin:
        assert await plugin.call("run") == {}


async def test_fuel(run):
    module = component(run="(loop $again (br $again)) unreachable")
    async with run(module, fuel=100_000) as plugin:
        assert (await fails(plugin)).status is StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wasi:random/random@0.2.0", "`random: true`"),
        ("wasi:clocks/wall-clock@0.2.0", "`clock: true`"),
        ("wasi:sockets/tcp@0.2.0", "which there is not"),
        ("wasi:http/outgoing-handler@0.2.0", "which there is not"),
        ("prism:plugin/logging@1.0.0", "`log: true`"),
        ("prism:plugin/http@1.0.0", "http:"),
        ("prism:plugin/calls@2.0.0", "which there is not"),
        ("some:other/thing", "which there is not"),
    ],
)
async def test_imports_that_are_not_granted_or_not_there(run, name, said):
    assert said in await refused(run, component(imports=f'(import "{name}" (instance))'))


async def test_an_import_that_is_of_another_type(run):
    wrong = """(import "prism:plugin/calls@1.0.0" (instance
      (export "send" (func (param "number" u32)))))
      (alias export 0 "send" (func $send))"""
    async with run(component(imports=wrong)) as plugin:
        assert await plugin.call("run") == {}  # what it never calls does no harm


async def test_exports_that_are_missing_or_wrong(run):
    said = await refused(run, "(component)")
    assert "it does not export prism:plugin/handler@1.0.0" in said
    said = await refused(run, component(left_out="health"))
    assert "it does not export health of prism:plugin/handler@1.0.0" in said
    wrong = '(param "operation" string) (param "number" u64) (param "more" u8)'
    module = component(params=wrong).replace(
        '(func (export "execute") (param $at i32) (param i32 i32 i32)',
        '(func (export "execute") (param $at i32) (param i32 i64 i32)',
    )
    async with run(module) as plugin:
        assert (await fails(plugin)).status is StatusCode.INTERNAL
