"""What modules do wrong, and on purpose: it costs their own call, and says what it was."""

import logging
import subprocess
import sys

import pytest
import trio

from prism.contract.errors import PluginError
from prism.contract.messages import HealthStatus
from prism.contract.status import StatusCode
from prism.hosts.wasm import guest, jobs
from prism.hosts.wasm import plugin as host
from tests.hosts.wasm.conftest import LIMIT, wait_until
from tests.hosts.wasm.modules import save, wat

LOOP = "(loop $again (br $again))"


async def refused(run, module, **settings):
    """What Initialize says of a module that will not run."""
    with pytest.raises(PluginError) as caught:
        async with run(module, **settings):
            pass
    assert caught.value.status is StatusCode.FAILED_PRECONDITION
    return caught.value.detail


async def fails(plugin, operation="run"):
    with trio.fail_after(LIMIT), pytest.raises(PluginError) as caught:
        await plugin.call(operation)
    return caught.value


async def cancel_while_it_runs(plugin, operation="run"):
    """Call it, and give it up once it runs."""
    pool = plugin.plugin._pool
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plugin.call, operation)
        await wait_until(lambda: pool.busy == 1)
        nursery.cancel_scope.cancel()
    await wait_until(lambda: pool.busy == 0)


# -- while it runs ---------------------------------------------------------------------------


async def test_a_loop_ends_when_nobody_wants_the_call_and_costs_it_alone(run):
    async with run(wat(run=LOOP), instances=1) as plugin:
        await cancel_while_it_runs(plugin)
        assert await plugin.call("other") == {}
        assert plugin.plugin._pool.traps == 0  # it was asked to end


async def test_a_loop_ends_at_the_deadline_of_its_call(run):
    async with run(wat(run=LOOP), instances=1) as plugin:
        with trio.move_on_after(0.05) as scope:
            await plugin.call("run")
        assert scope.cancelled_caught
        with trio.fail_after(LIMIT):
            assert await plugin.call("other") == {}


async def test_loops_in_all_instances_hold_up_others_until_their_calls_end(run):
    results = []

    async def call_other():
        results.append(await plugin.call("other"))

    async with run(wat(run=LOOP), instances=3) as plugin, trio.open_nursery() as nursery:
        pool = plugin.plugin._pool
        async with trio.open_nursery() as looping:
            for _ in range(3):
                looping.start_soon(plugin.call, "run")
            await wait_until(lambda: pool.busy == 3)
            health = await plugin.health()  # it is not asked of a module that has no time
            assert health.status is HealthStatus.HEALTHY
            assert "busy" in health.message
            nursery.start_soon(call_other)
            await wait_until(lambda: pool._waiting == 1)
            assert results == []
            looping.cancel_scope.cancel()
        await wait_until(lambda: results == [{}])


async def test_a_call_that_is_given_up_before_it_begins_never_runs(run):
    counting = "(global.set $counter (i64.add (global.get $counter) (i64.const 1)))"
    module = wat(
        run=LOOP,
        other=f"{counting} (i32.store8 (i32.const 1025) "
        "(i32.add (i32.const 48) (i32.wrap_i64 (global.get $counter)))) "
        "(return (call $say (i32.const 1024) (i32.const 2)))",
    )
    async with run(module, instances=1) as plugin:
        assert await plugin.call("other") == 1
        pool = plugin.plugin._pool
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plugin.call, "run")
            await wait_until(lambda: pool.busy == 1)
            async with trio.open_nursery() as waiting:
                waiting.start_soon(plugin.call, "other")
                await wait_until(lambda: pool._waiting == 1)
                waiting.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
        assert await plugin.call("other") == 1  # a new instance, whose counter began at 0


async def test_endless_recursion_is_a_trap(run, caplog):
    module = wat(run="(call $deeper)", extra="(func $deeper (call $deeper))")
    async with run(module) as plugin:
        error = await fails(plugin)
        assert error.status is StatusCode.INTERNAL
        assert "call stack exhausted" in caplog.text  # for operators, under the error's id
        assert "stack" not in error.detail
        assert await plugin.call("other") == {}
        assert (await plugin.health()).details["traps"] == "1"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("unreachable", "unreachable"),
        ("(drop (i32.load (i32.const 0x7fffffff)))", "out of bounds"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "divide by zero"),
    ],
)
async def test_a_trap_throws_the_instance_away(run, caplog, body, said):
    count = "(global.set $counter (i64.const 7))"
    tell = (
        "(if (i64.ne (global.get $counter) (i64.const 0)) (then unreachable))"
        "(return (call $say (i32.const 1024) (i32.const 3)))"
    )
    async with run(wat(run=count + body, other=tell), instances=1) as plugin:
        error = await fails(plugin)
        assert error.status is StatusCode.INTERNAL
        assert "error id" in error.detail
        assert said in caplog.text
        assert await plugin.call("other") == {}  # what the first one had set is gone


async def test_memory_grows_to_the_limit_and_no_further(run):
    grow = """(loop $again
        (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (i32.store8 (i32.const 1025) (i32.add (i32.const 48) (memory.size)))
      (return (call $say (i32.const 1024) (i32.const 2)))"""
    async with run(wat(run=grow), memory_bytes=6 * 65536) as plugin:
        assert await plugin.call("run") == 6


async def test_more_memory_than_allowed_at_its_start(run):
    said = await refused(run, wat(memory='(memory (export "memory") 100)'), memory_bytes=65536)
    assert "memory" in said


async def test_a_table_without_end(run):
    said = await refused(run, wat(extra="(table 200000000 funcref)"))
    assert "table" in said


async def test_fuel(run):
    async with run(wat(run=LOOP), fuel=100_000) as plugin:
        error = await fails(plugin)
        assert error.status is StatusCode.RESOURCE_EXHAUSTED
        assert error.detail == "the call used up its fuel (plugin.wasm.fuel)"
        assert [await plugin.call("other") for _ in range(3)] == [{}, {}, {}]  # each has its own


# -- what it answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("(return (call $say (i32.const 0x7ffffff0) (i32.const 3)))", "outside of its memory"),
        ("(return (call $say (i32.const -1) (i32.const 16)))", "outside of its memory"),
        ("(return (call $say (i32.const 262140) (i32.const 100)))", "outside of its memory"),
        ("(return (call $say (i32.const 1024) (i32.const -1)))", "4294967295 bytes"),
        ("(return (i64.const -1))", "4294967295 bytes"),
        ("(return (i64.const 0))", "empty"),
        ("(return (call $say (i32.const 1024) (i32.const 2)))", "not JSON"),
        ("(return (call $say (i32.const 1024) (i32.const 1)))", "not JSON"),
        (
            "(i64.store (i32.const 3000) (i64.const 0x22ff2200)) "
            "(return (call $say (i32.const 3000) (i32.const 4)))",
            "not JSON",
        ),
    ],
)
async def test_an_answer_that_is_none(run, caplog, body, said):
    async with run(wat(run=body)) as plugin:
        error = await fails(plugin)
        assert error.status is StatusCode.INTERNAL
        assert said in caplog.text
        assert await plugin.call("other") == {}


async def test_a_buffer_that_is_not_in_its_memory(run):
    assert "prism_alloc" in await refused(run, wat(alloc="(i32.const 0x7fffffff)"))
    assert "prism_alloc" in await refused(run, wat(alloc="(i32.const 0)"))


@pytest.mark.parametrize("status", [1, 5, 16, 17, 255])
async def test_its_own_failures(run, status):
    body = f"(i32.store (i32.const 3000) (i32.const {status + (0x6F6E << 8)}))" + (
        "(return (call $say (i32.const 3000) (i32.const 3)))"
    )
    async with run(wat(run=body), instances=1) as plugin:
        error = await fails(plugin)
        assert error.status == (status if status <= 16 else StatusCode.UNKNOWN)
        assert error.detail == "no"
        assert plugin.plugin._pool.traps == 0


@pytest.mark.parametrize(
    ("offers", "said"),
    [
        ("{", "its answer to initialize cannot be used"),
        ('{"operations": [{"name": "No"}]}', "no client can call an operation 'No'"),
        ('{"operations": [{"name": "a"}, {"name": "a"}]}', "twice"),
        ('{"operations": [{}]}', "missing required field"),
        ('{"operations": [{"name": "a", "access": "root"}]}', "root"),
    ],
)
async def test_offers_that_are_none(run, offers, said):
    assert said in await refused(run, wat(offers=offers))


# -- what it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("(module)", 'it does not export its memory as "memory"'),
        ('(module (memory (export "memory") 1))', "it does not export prism_abi () -> (i32)"),
        (wat(abi="(i32.const 2)"), "it is built for version 2 of the interface; this is 1"),
        ('(module (func (export "_start")))', "it is a program (_start), not a plugin"),
        (
            wat(extra='(func (export "prism_health") (param i32))'),
            "its export prism_health is (i32) -> (); it has to be () -> (i64)",
        ),
        (
            wat(extra='(global (export "prism_health") i32 (i32.const 0))'),
            "its export prism_health is no function",
        ),
    ],
)
async def test_exports_that_are_missing_or_wrong(run, module, said):
    assert said in await refused(run, module)


@pytest.mark.parametrize(
    ("imported", "said"),
    [
        ('(import "prism" "random" (func (param i32 i32) (result i32)))', "`random: true`"),
        ('(import "prism" "clock" (func (result i64)))', "`clock: true`"),
        ('(import "prism" "log" (func (param i32 i32 i32)))', "`log: true`"),
        ('(import "prism" "get" (func (param i32 i32) (result i32)))', "key_value_bytes"),
        ('(import "prism" "fetch" (func (param i32 i32) (result i32)))', "http:"),
        (
            '(import "wasi_snapshot_preview1" "clock_time_get" '
            "(func (param i32 i64 i32) (result i32)))",
            "`clock: true`",
        ),
        ('(import "prism" "system" (func))', "which there is not"),
        ('(import "env" "system" (func))', "which there is not"),
        ('(import "wasi_snapshot_preview1" "x" (table 1 funcref))', "which there is not"),
        ('(import "prism" "take" (func (param i64)))', "as something else"),
        ('(import "prism" "take" (global i32))', "as something else"),
    ],
)
async def test_imports_that_are_not_granted_or_not_there(run, imported, said):
    assert said in await refused(run, wat(imports=imported))


async def test_files_and_sockets_can_be_imported_and_give_nothing(run):
    """As a C library does that never calls them: each answers ENOTCAPABLE."""
    wasi = "wasi_snapshot_preview1"
    module = wat(
        imports=f"""
          (import "{wasi}" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32)
            (result i32)))
          (import "{wasi}" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
          (import "{wasi}" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))""",
        run="""
          (i32.store8 (i32.const 1025) (i32.add (i32.const 48) (i32.and
            (i32.and
              (i32.eq (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 0) (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 0))
                (i32.const 76))
              (i32.eq (call $accept (i32.const 3) (i32.const 0) (i32.const 0)) (i32.const 76)))
            (i32.eq (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0))
              (i32.const 76)))))
          (return (call $say (i32.const 1024) (i32.const 2)))""",
    )
    async with run(module) as plugin:
        assert await plugin.call("run") == 1


async def test_numbers_that_lead_outside_are_answered_and_read_nothing(run):
    wasi = "wasi_snapshot_preview1"
    module = wat(
        imports=f"""
          (import "prism" "take" (func $take (param i32 i32) (result i32)))
          (import "prism" "context" (func $context (result i32)))
          (import "prism" "get" (func $get (param i32 i32) (result i32)))
          (import "prism" "set" (func $set (param i32 i32 i32 i32) (result i32)))
          (import "prism" "log" (func $log (param i32 i32 i32)))
          (import "prism" "random" (func $random (param i32 i32) (result i32)))
          (import "prism" "send" (func $send (param i32 i32) (result i32)))
          (import "{wasi}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))""",
        run="""
          (drop (call $context))
          (if (i32.ne (call $take (i32.const -8) (i32.const 100)) (i32.const -1))
            (then unreachable))
          (if (i32.ne (call $get (i32.const -1) (i32.const -1)) (i32.const -1))
            (then unreachable))
          (if (call $set (i32.const 0) (i32.const 4) (i32.const 262000) (i32.const 4000))
            (then unreachable))
          (if (call $random (i32.const 262000) (i32.const 4000)) (then unreachable))
          (if (call $random (i32.const 0) (i32.const -1)) (then unreachable))
          (if (i32.ne (call $send (i32.const 0) (i32.const -1)) (i32.const -1))
            (then unreachable))
          (call $log (i32.const -5) (i32.const -1) (i32.const -1))
          (if (i32.ne (call $write (i32.const 1) (i32.const -1) (i32.const -1) (i32.const 0))
            (i32.const 21)) (then unreachable))
          (return (call $say (i32.const 1024) (i32.const 3)))""",
    )
    grants = {"log": True, "random": True, "key_value_bytes": 10_000}
    async with run(module, grants=grants) as plugin:
        assert await plugin.call("run") == {}


async def test_a_start_function_that_loops_is_interrupted(run, monkeypatch):
    """It is given up with Initialize, which has the time that ``start_timeout_seconds`` gives."""
    pools = []

    def make_pool(*arguments):
        pools.append(jobs.Pool(*arguments))
        return pools[0]

    monkeypatch.setattr(host, "Pool", make_pool)
    looping = wat(extra=f"(func $begin {LOOP}) (start $begin)")

    async def start():
        async with run(looping):
            raise AssertionError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        await wait_until(lambda: pools and pools[0].busy)
        nursery.cancel_scope.cancel()
    await wait_until(lambda: not pools[0].busy)


async def test_what_is_no_module(run, tmp_path, monkeypatch):
    path = tmp_path / "text.wasm"
    path.write_text("(module)")
    assert "neither a WebAssembly module nor a component" in await refused(run, path)
    path.write_bytes(b"\0asm\x01\0\0\0garbage")
    assert "it cannot be compiled" in await refused(run, path)
    path.write_bytes(b"\0asm\x63\0\0\0")
    assert "neither" in await refused(run, path)
    assert "it cannot be read" in await refused(run, tmp_path / "nowhere.wasm")


async def test_a_huge_module(run, tmp_path):
    path = save(tmp_path / "huge.wasm", wat())
    with path.open("r+b") as file:
        file.truncate(guest.MAX_CODE + 1)
    assert f"it has more than {guest.MAX_CODE} bytes" in await refused(run, path)


# -- what it says ------------------------------------------------------------------------------


async def test_a_flood_of_lines_is_counted_and_a_long_one_is_cut(run, caplog):
    flood = """(local $left i32) (local.set $left (i32.const 5000))
      (loop $again
        (call $log (i32.const 1) (i32.const 0) (i32.const 200000))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $again (local.get $left)))
      (return (call $say (i32.const 1024) (i32.const 3)))"""
    module = wat(
        imports='(import "prism" "log" (func $log (param i32 i32 i32)))',
        extra=f"(func $flood (result i64) {flood} unreachable)",
        run="(return (call $flood))",
    )
    caplog.set_level(logging.INFO)
    async with run(module, grants={"log": True}) as plugin:
        assert await plugin.call("run") == {}
    lines = [record for record in caplog.records if record.name == "prism.plugin.module"]
    assert len(lines) == 101
    assert {len(record.getMessage()) for record in lines[:100]} == {8192}
    assert lines[-1].getMessage() == "4900 more lines of one call were dropped"


async def test_a_later_instance_that_will_not_start_is_not_its_caller_s_fault(run, caplog):
    """The first one starts; the table says to the second that there was one."""
    module = wat(
        imports='(import "prism" "increment" (func $add (param i32 i32 i64) (result i64)))',
        initialize="""(if (i64.gt_s (call $add (i32.const 0) (i32.const 1) (i64.const 1))
            (i64.const 1)) (then
          (i32.store (i32.const 3000) (i32.const 0x74656e10))
          (return (call $say (i32.const 3000) (i32.const 4)))))""",
        run="unreachable",
    )
    async with run(module, instances=1, grants={"key_value_bytes": 1000}) as plugin:
        await fails(plugin)
        error = await fails(plugin, "other")
        assert error.status is StatusCode.UNAVAILABLE
        assert "net" not in error.detail
        assert "a new instance would not start: net" in caplog.text


def test_addresses_that_are_few_are_enough(tmp_path):
    """Where a process may have few (RLIMIT_AS); wasmtime would reserve 4 GiB for each memory."""
    module = save(tmp_path / "module.wasm", wat(run="(drop (i32.load (i32.const 0x7fffffff)))"))
    script = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (2 << 30,) * 2)
import logging
from prism.hosts.wasm.guest import Limits, Trapped
from prism.hosts.wasm.jobs import Job
from prism.hosts.wasm.plugin import compiled
from prism.hosts.wasm.services import Grants, Services
services = Services(Grants(), logging.getLogger())
code = compiled({str(module)!r}, Limits(64 << 20), services)
guests = [code.guest() for _ in range(8)]
for guest in guests:
    guest.job = Job("execute", bytes)
    guest.start(b"{{}}")
    assert guest.call("execute", "other", "{{}}") == b"{{}}"
    try:
        guest.call("execute", "run", "{{}}")
    except Trapped as error:
        assert "out of bounds" in str(error)
        print("bounded")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["bounded"] * 8, done.stderr
