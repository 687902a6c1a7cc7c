"""What guests may use where it is granted: the clock, randomness, the table, the call's facts."""

import json
import threading
import time

import pytest
import trio

from prism.hosts.wasm.services import ENTRY_COST, MAX_KEY, Grants, KeyValues, needed_grant
from tests.hosts.wasm.modules import wat

GOOD = "(return (call $say (i32.const 1024) (i32.const 3)))"


def test_the_table():
    table = KeyValues(10_000)
    assert table.get(b"a") is None
    assert table.set(b"a", b"1")
    assert table.get(b"a") == b"1"
    assert table.delete(b"a")
    assert not table.delete(b"a")
    assert table.get(b"a") is None


def test_the_table_is_bounded_and_what_is_replaced_or_deleted_gives_room():
    table = KeyValues(4 * (ENTRY_COST + 10))
    assert all(table.set(b"%d" % number, b"x" * 9) for number in range(4))
    assert not table.set(b"4", b"")
    assert table.get(b"4") is None
    assert not table.set(b"0", b"x" * 10)
    assert table.get(b"0") == b"x" * 9  # as it was
    assert table.set(b"0", b"")
    assert table.delete(b"1")
    assert table.set(b"4", b"x" * 9)
    assert not table.set(b"k" * (MAX_KEY + 1), b"")


def test_a_table_of_no_size_takes_nothing():
    table = KeyValues(0)
    assert not table.set(b"", b"")
    assert table.increment(b"a", 1) == 0


@pytest.mark.parametrize(
    ("before", "by", "after"),
    [
        (None, 5, 5),
        (b"7", -10, -3),
        (b"text", 1, 1),
        (b"%d" % (2**63 - 1), 1, -(2**63)),
        (b"9" * 1000, 1, None),
    ],
)
def test_increments(before, by, after):
    table = KeyValues(10_000)
    if before is not None:
        table.set(b"n", before)
    found = table.increment(b"n", by)
    assert -(2**63) <= found < 2**63
    if after is not None:
        assert found == after
        assert table.get(b"n") == b"%d" % after


def test_increments_of_many_threads_are_all_counted():
    table = KeyValues(10_000)

    def count():
        for _ in range(2000):
            table.increment(b"n", 1)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table.get(b"n") == b"16000"


def test_grants():
    nothing, all_of_it = Grants(), Grants(clock=True, random=True, log=True, key_value_bytes=1)
    assert needed_grant(nothing, "") is None
    assert needed_grant(nothing, "clock") == "clock: true"
    assert needed_grant(nothing, "key_value") == "key_value_bytes: 1048576"
    for need in ("clock", "random", "log", "key_value"):
        assert needed_grant(all_of_it, need) is None
    assert needed_grant(all_of_it, "http")


async def test_instances_share_the_table(run):
    module = wat(
        imports='(import "prism" "increment" (func $add (param i32 i32 i64) (result i64)))',
        run="(drop (call $add (i32.const 1024) (i32.const 1) (i64.const 1))) unreachable",
        other="""(i32.store8 (i32.const 1025) (i32.add (i32.const 48) (i32.wrap_i64
            (call $add (i32.const 1024) (i32.const 1) (i64.const 0)))))
          (return (call $say (i32.const 1024) (i32.const 2)))""",
    )
    async with run(module, instances=1, grants={"key_value_bytes": 1000}) as plugin:
        for _ in range(3):
            with pytest.raises(Exception, match="error id"):
                await plugin.call("run")
        assert await plugin.call("other") == 3


async def test_the_clock_and_randomness(run):
    wasi = "wasi_snapshot_preview1"
    module = wat(
        imports=f"""
          (import "prism" "clock" (func $clock (result i64)))
          (import "{wasi}" "clock_time_get" (func $wasi_clock (param i32 i64 i32) (result i32)))
          (import "prism" "random" (func $random (param i32 i32) (result i32)))
          (import "{wasi}" "random_get" (func $wasi_random (param i32 i32) (result i32)))
          (import "prism" "set" (func $set (param i32 i32 i32 i32) (result i32)))""",
        run=f"""
          (i64.store (i32.const 3000) (call $clock))
          (if (call $wasi_clock (i32.const 0) (i64.const 1) (i32.const 3008)) (then unreachable))
          (if (call $wasi_clock (i32.const 1) (i64.const 1) (i32.const 3016)) (then unreachable))
          (if (i32.eqz (call $random (i32.const 3024) (i32.const 16))) (then unreachable))
          (if (call $wasi_random (i32.const 3040) (i32.const 16)) (then unreachable))
          (if (i32.eqz (call $set (i32.const 1024) (i32.const 1) (i32.const 3000) (i32.const 56)))
            (then unreachable)) {GOOD}""",
    )
    grants = {"clock": True, "random": True, "key_value_bytes": 1000}
    async with run(module, grants=grants) as plugin:
        began, began_monotonic = time.time_ns(), time.monotonic_ns()
        await plugin.call("run")
        seen = plugin.plugin._pool._services.table.get(b"\0")
        now, wasi_now, monotonic = (
            int.from_bytes(seen[at : at + 8], "little") for at in (0, 8, 16)
        )
        assert began <= now <= wasi_now <= time.time_ns()
        assert began_monotonic <= monotonic <= time.monotonic_ns()
        assert len({seen[24:40], seen[40:56], bytes(16)}) == 3


async def test_what_is_known_of_a_call(run):
    module = wat(
        imports="""
          (import "prism" "context" (func $context (result i32)))
          (import "prism" "take" (func $take (param i32 i32) (result i32)))""",
        extra="""(func $tell (result i64) (local $size i32)
          (local.set $size (call $context))
          (if (i32.ne (call $take (i32.const 8001) (i32.const 9000)) (local.get $size))
            (then unreachable))
          (if (call $take (i32.const 9000) (i32.const 1)) (then unreachable)) ;; it is forgotten
          (call $say (i32.const 8000) (i32.add (i32.const 1) (local.get $size))))""",
        run="(return (call $tell))",
    )
    metadata = {"prism-principal": "ada", "prism-request-id": "r-1", "x": "y"}
    async with run(module) as plugin:
        known = await plugin.request("run", {}, metadata=metadata)
        assert known == {
            "operation": "run",
            "milliseconds_left": -1,
            "namespace": "test",
            "principal": "ada",
            "request_id": "r-1",
            "traceparent": "",
            "metadata": metadata,
        }
        with trio.fail_after(600):
            assert 0 < (await plugin.call("run"))["milliseconds_left"] <= 600_000


async def test_settings(run):
    """What an instance is initialised with."""
    module = wat(
        imports='(import "prism" "set" (func $set (param i32 i32 i32 i32) (result i32)))',
        initialize="""(if (i32.eqz (call $set (i32.const 1024) (i32.const 1)
          (local.get $at) (local.get $size))) (then unreachable))""",
    )
    async with run(
        module,
        grants={"key_value_bytes": 10_000},
        config={"a": [1]},
        credentials={"password": "s3cret"},
    ) as plugin:
        said = json.loads(plugin.plugin._pool._services.table.get(b"\0"))
        assert said == {
            "namespace": "test",
            "config": {"a": [1]},
            "credentials": {"password": "s3cret"},
        }
