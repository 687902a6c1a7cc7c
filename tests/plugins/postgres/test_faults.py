"""What goes wrong on a real server, and what callers see of it."""

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import psycopg
import pytest
import trio
import trio.testing

from prism.contract.errors import PluginError
from prism.contract.messages import HealthStatus
from prism.contract.status import StatusCode
from tests.services.fixtures import StartServer
from tests.services.postgres import PASSWORD, USER, DebianPostgreSQL, PgBouncer, PostgreSQL18

from .conftest import CREDENTIALS, Database, Running, eventually, new_name, refused, status_of
from .proxy import FaultProxy

pytestmark = pytest.mark.slow
in_thread = trio.to_thread.run_sync


@pytest.fixture
async def proxy(database: Database) -> AsyncIterator[FaultProxy]:
    proxy = FaultProxy(database.server.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield proxy
        nursery.cancel_scope.cancel()


@pytest.fixture
def through(proxy: FaultProxy, database: Database) -> Callable[..., Any]:
    """A plugin whose connections go through the proxy."""

    def plugin(**config: Any) -> Any:
        address = database.connection_string().replace(str(database.server.port), str(proxy.port))
        return database.plugin(new_name(), connection_string=address, **config)

    return plugin


async def until_it_answers(pg: Running) -> None:
    with trio.fail_after(60):
        while True:
            try:
                await pg.call("get", key="k")
                await pg.call("query", sql="SELECT 1")
                return
            except PluginError as error:
                if error.status is not StatusCode.UNAVAILABLE:
                    raise
                await trio.sleep(0.02)


@pytest.mark.parametrize("kind", [DebianPostgreSQL, PostgreSQL18])
async def test_a_server_that_is_killed_under_load(
    kind: type[DebianPostgreSQL], start_server: StartServer
) -> None:
    """Nothing that was answered as done is lost; all is well again without a restart of ours."""
    server = start_server(kind)
    async with Database(server, "postgres").plugin(pool_size=4) as pg:
        await pg.call("execute", sql="CREATE TABLE t (id int PRIMARY KEY)")
        stored: list[int] = []
        inserted: list[int] = []
        statuses: set[StatusCode] = set()
        numbers = iter(range(1_000_000))
        ends = False

        async def write() -> None:
            while not ends:
                number = next(numbers)
                try:
                    await pg.call("set", key=f"k{number}", value=number)
                    stored.append(number)
                    if number % 4 == 0:
                        insert = "INSERT INTO t VALUES ($1)"
                        await pg.call("execute", sql=insert, params=[number])
                        inserted.append(number)
                except PluginError as error:
                    statuses.add(error.status)
                    await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(write)
            for _ in range(2):
                so_far = len(stored)
                await eventually(
                    lambda least=so_far: len(inserted) > 20 and len(stored) > least + 200
                )
                await in_thread(server.kill)
                await eventually(lambda: statuses)
                assert (await pg.health()).status is HealthStatus.UNHEALTHY
                await in_thread(server.restart)
                await until_it_answers(pg)
            ends = True
        assert statuses == {StatusCode.UNAVAILABLE}
        found = {item["key"] async for item in pg.stream("scan", keys_only=True)}
        assert not {f"k{number}" for number in stored} - found
        rows = (await pg.call("query", sql="SELECT id FROM t", max_rows=1000))["rows"]
        total = (await pg.call("query", sql="SELECT count(*) FROM t"))["rows"][0][0]
        assert total >= len(inserted)
        assert total > 1000 or not set(inserted) - {row[0] for row in rows}
        with trio.fail_after(60):  # the other shared connections come back a little later
            while (await pg.health()).status is not HealthStatus.HEALTHY:  # noqa: ASYNC110 - as above
                await trio.sleep(0.02)
        assert pg.plugin.pool.idle == pg.plugin.pool.count <= 4


async def test_the_first_query_after_a_restart_is_answered(start_server: StartServer) -> None:
    server = start_server(DebianPostgreSQL)
    async with Database(server, "postgres").plugin() as pg:
        for _ in range(3):
            assert (await pg.call("query", sql="SELECT 1"))["rows"] == [[1]]
            await in_thread(server.restart)
            assert (await pg.call("query", sql="SELECT 1"))["rows"] == [[1]]


async def test_a_server_that_comes_back_with_other_tables(start_server: StartServer) -> None:
    """What was prepared, and known, of those before is of no use, and nobody notices."""
    server = start_server(DebianPostgreSQL)
    database = Database(server, "postgres")
    async with database.plugin() as pg:
        await pg.call("execute", sql="CREATE TABLE t AS SELECT 1 AS a")
        select = {"sql": "SELECT * FROM t"}
        assert (await pg.call("query", **select))["columns"] == ["a"]
        await in_thread(server.kill)
        await in_thread(server.restart)
        database.ask("ALTER TABLE t ADD b text, ALTER a TYPE text")
        found = await pg.call("query", **select)
        assert (found["columns"], found["rows"]) == (["a", "b"], [["1", None]])


async def test_a_query_whose_connection_ends_under_it_is_asked_again(pg: Running) -> None:
    """Once, where that does no harm; a write is not."""
    own = "pg_terminate_backend(pg_backend_pid())"
    await pg.call("query", sql="SELECT 1")
    error = await refused(pg.call("execute", sql=f"SELECT {own}"))
    assert error.status is StatusCode.UNAVAILABLE
    await pg.call("query", sql="SELECT 1")
    pid = (await pg.call("query", sql="SELECT pg_backend_pid()"))["rows"][0][0]
    sql = f"SELECT CASE WHEN pg_backend_pid() = {pid} THEN {own}::int ELSE 7 END"
    assert (await pg.call("query", sql=sql))["rows"] == [[7]]
    assert pg.plugin.pool.idle == pg.plugin.pool.count == 1


async def test_a_frozen_server(start_server: StartServer) -> None:
    """Callers are answered by their deadlines; health says it; the end of the plugin is bounded."""
    server = start_server(DebianPostgreSQL)
    database = Database(server, "postgres")
    with trio.fail_after(120):
        async with database.plugin(sql_timeout_seconds=1, pool_size=2) as pg:
            await pg.call("set", key="k", value=1)
            await pg.call("query", sql="SELECT 1")
            server.freeze()
            try:
                for _ in range(3):
                    status = await status_of(pg.call("query", sql="SELECT 1"))
                    assert status is StatusCode.DEADLINE_EXCEEDED
                assert (await pg.health()).status is HealthStatus.UNHEALTHY
            finally:
                server.thaw()
            await until_it_answers(pg)
            await eventually(lambda: pg.plugin.pool.idle == pg.plugin.pool.count)
            server.freeze()
            stuck = trio.Event()

            async def ask() -> None:
                stuck.set()
                await refused(pg.call("query", sql="SELECT 1"))

            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
                    await stuck.wait()
                    with trio.fail_after(30):
                        await pg.plugin.stop()
            finally:
                server.thaw()


async def test_a_connection_that_is_cut_under_a_query(
    through: Callable[..., Any], proxy: FaultProxy
) -> None:
    async with through(key_value=False) as pg:
        await pg.call("query", sql="SELECT 1")
        statuses = []

        async def run(operation: str) -> None:
            try:
                await pg.call(operation, sql="SELECT pg_sleep(1), 1")
                statuses.append(StatusCode.OK)
            except PluginError as error:
                statuses.append(error.status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "execute")
            await eventually(lambda: pg.plugin.pool.count - pg.plugin.pool.idle == 1)
            await trio.testing.wait_all_tasks_blocked(0.05)
            proxy.cut()
        assert statuses == [StatusCode.UNAVAILABLE]
        assert (await pg.call("query", sql="SELECT 1"))["rows"] == [[1]]


async def test_a_cut_in_the_middle_of_a_large_result(
    through: Callable[..., Any], proxy: FaultProxy
) -> None:
    async with through(key_value=False) as pg:
        stream = pg.stream("query", sql="SELECT repeat('x', 1000), generate_series(1, 1000000)")
        with pytest.raises(PluginError, match="lost"):  # noqa: PT012 - the stream's loop is the test
            async with aclosing(stream):
                async for message in stream:
                    if "rows" in message:
                        proxy.cut()
        await eventually(lambda: pg.plugin.pool.count == pg.plugin.pool.idle)


async def test_a_path_that_swallows_everything(
    through: Callable[..., Any], proxy: FaultProxy
) -> None:
    """No error, no end: only clocks tell."""
    async with through(sql_timeout_seconds=0.5, connect_timeout=1) as pg:
        await pg.call("query", sql="SELECT 1")
        proxy.hold()
        started = time.monotonic()
        assert await status_of(pg.call("query", sql="SELECT 1")) is StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started < 30
        proxy.release()
        await until_it_answers(pg)


async def test_a_slow_query_is_cancelled_on_the_server(database: Database) -> None:
    async with database.plugin(pool_size=1) as pg:
        pid = (await pg.call("query", sql="SELECT pg_backend_pid()"))["rows"][0][0]
        state = "SELECT state, query FROM pg_stat_activity WHERE pid = %s"
        for operation in ("query", "execute"):
            with trio.CancelScope() as scope:  # as at a caller's deadline
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        lambda op=operation: pg.call(op, sql="SELECT pg_sleep(3600)")
                    )
                    await eventually(
                        lambda: [row for row in database.ask(state, pid) if "3600" in row[1]]
                    )
                    scope.cancel()
            await eventually(lambda: database.ask(state, pid)[0][0] == "idle")
            await eventually(lambda: pg.plugin.pool.idle == 1)
            again = await pg.call("query", sql="SELECT pg_backend_pid()")
            assert again["rows"] == [[pid]]  # the same connection, in order
        statement = {"sql": "SELECT pg_sleep(3600)"}
        with trio.move_on_after(0.3):
            await pg.call("transaction", statements=[statement])
        await eventually(lambda: pg.plugin.pool.idle == 1)
        assert pg.plugin.pool.recovered == 3


async def test_a_statement_has_no_longer_than_configured(database: Database) -> None:
    async with database.plugin(pool_size=1, sql_timeout_seconds=0.2) as pg:
        error = await refused(pg.call("query", sql="SELECT pg_sleep(3600)"))
        assert error.status is StatusCode.DEADLINE_EXCEEDED
        assert "sql_timeout_seconds" in error.detail
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%sleep(3600)%%'"
        mine = f"{running} AND state = 'active' AND pid <> pg_backend_pid()"
        own = f"{mine} AND datname = current_database()"
        await eventually(lambda: database.ask(own) == [(0,)])


async def test_a_pool_that_is_exhausted(database: Database) -> None:
    async with database.plugin(pool_size=2, pool_timeout=0.2) as pg:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(lambda: pg.call("execute", sql="SELECT pg_sleep(3600)"))
            await eventually(lambda: pg.plugin.pool.count == 2)
            error = await refused(pg.call("query", sql="SELECT 1"))
            assert error.status is StatusCode.RESOURCE_EXHAUSTED
            assert "pool_size" in error.detail
            await pg.call("set", key="k", value=1)  # has connections of its own
            nursery.cancel_scope.cancel()
        await eventually(lambda: pg.plugin.pool.idle == 2)
        assert pg.plugin.pool.count == 2


async def test_a_statements_time_counts_the_wait_and_the_connecting(
    through: Callable[..., Any], proxy: FaultProxy
) -> None:
    """Whatever ``pool_timeout`` and ``connect_timeout`` are: together they take no longer."""
    longer = {"pool_timeout": 3600, "connect_timeout": 3600}
    async with through(pool_size=1, sql_timeout_seconds=1, key_value=False, **longer) as pg:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_holds, pg)
                await eventually(lambda: pg.plugin.pool.count == 1 and not pg.plugin.pool.idle)
                waited = await refused(pg.call("execute", sql="SELECT 1"))
                assert waited.status is StatusCode.DEADLINE_EXCEEDED
                nursery.cancel_scope.cancel()
            await eventually(lambda: pg.plugin.pool.idle == 1)
            proxy.cut()
            await eventually(lambda: not proxy.open)
            proxy.hold()
            connects = proxy.connections
            connecting = await refused(pg.call("execute", sql="SELECT 1"))
            assert connecting.status is StatusCode.DEADLINE_EXCEEDED
            assert proxy.connections > connects
            proxy.release()
            assert (await pg.call("query", sql="SELECT 1"))["rows"] == [[1]]
        assert pg.plugin.pool.count == pg.plugin.pool.idle


async def _holds(pg: Running) -> None:
    """The only connection, as a slow stream does, which no time of a statement ends."""
    async with aclosing(pg.stream("query", sql="SELECT generate_series(1, 1000000)")) as stream:
        await anext(stream)
        await trio.sleep_forever()


async def test_waiting_callers_make_health_degraded(database: Database) -> None:
    async with (
        database.plugin(pool_size=1, pool_timeout=60) as pg,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(lambda: pg.call("execute", sql="SELECT pg_sleep(3600)"))
        await eventually(lambda: pg.plugin.pool.waiting == 2)
        health = await pg.health()
        assert health.status is HealthStatus.DEGRADED
        assert "pool_size" in health.message
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("calls", [2_000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_a_storm_of_cancelled_calls(database: Database, calls: int) -> None:
    """The count of connections is exact after it, and each is in order."""
    async with database.plugin(pool_size=5, pool_timeout=60) as pg:
        numbers = random.Random(1)
        limiter = trio.CapacityLimiter(40)
        wrong: list[Any] = []

        async def call(number: int) -> None:
            async with limiter:
                with trio.move_on_after(numbers.random() * 0.03):
                    kind = number % 4
                    if kind == 0:
                        statement = {"sql": "SELECT $1::int", "params": [number]}
                        result = await pg.call("transaction", statements=[statement])
                        rows = result["results"][0]["rows"]
                    else:
                        sql = "SELECT $1::int, pg_sleep(0.005)" if kind == 1 else "SELECT $1::int"
                        operation = "execute" if kind == 2 else "query"
                        rows = (await pg.call(operation, sql=sql, params=[number]))["rows"]
                    if rows[0][0] != number:
                        wrong.append((number, rows))

        async with trio.open_nursery() as nursery:
            for number in range(calls):
                nursery.start_soon(call, number)
        assert not wrong
        pool = pg.plugin.pool
        await eventually(lambda: pool.idle == pool.count)
        assert 0 < pool.count <= 5
        assert pool.waiting == 0
        sql = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'prism/test'"
        )
        shared = len(pg.plugin.readers) + len(pg.plugin.writers)
        await eventually(lambda: database.ask(sql) == [(pool.count + shared,)])
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(call, number * 4)
        assert not wrong


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"credentials": CREDENTIALS | {"password": "wrong"}}, ["credentials.password"]),
        ({"credentials": {"username": "nobody"}}, ["credentials.password"]),
        ({"database": "nowhere"}, ['database "nowhere" does not exist']),
        ({"parameters": {"sslmode": "verify-full"}}, ["sslmode is verify-full", "sslmode=disable"]),
        ({"parameters": {"sslmode": ""}}, ["sslmode is verify-full", "sslmode=disable"]),
    ],
)
async def test_starts_that_are_refused(
    database: Database, change: dict[str, Any], words: list[str]
) -> None:
    place = Database(database.server, change.pop("database", database.name))
    if change.get("parameters") == {"sslmode": ""}:
        change = {"connection_string": place.connection_string().partition("?")[0]}
    error = await refused(place.plugin(**change).__aenter__())
    assert error.status is StatusCode.FAILED_PRECONDITION
    for word in words:
        assert word in error.detail
    assert "wrong" not in error.detail
    assert PASSWORD not in error.detail


async def test_a_server_that_is_not_there(start_server: StartServer) -> None:
    server = start_server(DebianPostgreSQL)
    database = Database(server, "postgres")
    await in_thread(server.kill)
    assert await status_of(database.plugin().__aenter__()) is StatusCode.UNAVAILABLE
    await in_thread(server.restart)
    async with database.plugin() as pg:
        assert (await pg.call("query", sql="SELECT 1"))["rows"] == [[1]]


async def test_no_connection_left_on_the_server(start_server: StartServer) -> None:
    settings = {"max_connections": "6", "superuser_reserved_connections": "0"}
    server = start_server(DebianPostgreSQL, settings=settings)
    async with Database(server, "postgres").plugin(pool_size=20, key_value=False) as pg:
        held = [psycopg.connect(server.url()) for _ in range(5)]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: pg.call("execute", sql="SELECT pg_sleep(3600)"))
                await eventually(lambda: pg.plugin.pool.count == 1 and not pg.plugin.pool.idle)
                status = await status_of(pg.call("query", sql="SELECT 1"))
                assert status is StatusCode.RESOURCE_EXHAUSTED
                nursery.cancel_scope.cancel()
        finally:
            for connection in held:
                connection.close()
        await eventually(lambda: pg.plugin.pool.idle)
        await pg.call("query", sql="SELECT 1")


async def test_a_role_with_few_permissions(database: Database) -> None:
    role, schema = new_name(), new_name()
    database.ask(f"CREATE ROLE {role} LOGIN PASSWORD 'its: password'")
    credentials = {"username": role, "password": "its: password"}
    try:
        start = database.plugin(credentials=credentials, schema=schema)
        error = await refused(start.__aenter__())
        assert error.status is StatusCode.FAILED_PRECONDITION
        assert "GRANT CREATE" in error.detail
        assert "config.key_value: false" in error.detail
        async with (
            database.plugin(schema=schema),
            database.plugin(credentials=credentials, key_value=False) as pg,
        ):
            sql = f"SELECT * FROM {schema}.keyvalue"
            assert await status_of(pg.call("query", sql=sql)) is StatusCode.PERMISSION_DENIED
        # With the tables made by another role, and rights on them, it need not create any.
        database.ask(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        database.ask(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}")
        database.ask(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role}")
        async with database.plugin(credentials=credentials, schema=schema) as pg:
            await pg.call("set", key="k", value=1)
            database.ask(f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}")
            error = await refused(pg.call("get", key="k"))
            assert error.status is StatusCode.FAILED_PRECONDITION
            assert "permission denied" in error.detail
    finally:
        database.ask(f"DROP OWNED BY {role}")
        database.ask(f"DROP ROLE {role}")


async def test_a_server_that_is_read_only(database: Database) -> None:
    schema = new_name()
    database.ask(
        f"ALTER ROLE {USER} IN DATABASE {database.name} SET default_transaction_read_only = on"
    )
    try:
        error = await refused(database.plugin(schema=schema).__aenter__())
        assert "read-only" in error.detail
        async with database.plugin(key_value=False) as pg:
            assert (await pg.call("query", sql="SELECT 1"))["rows"] == [[1]]
            error = await refused(pg.call("execute", sql="CREATE TABLE t (a int)"))
            assert error.status is StatusCode.FAILED_PRECONDITION
            own = {"sql": "SELECT pg_backend_pid()"}  # the session can be reset there as well
            pids = [(await pg.call("execute", **own))["rows"] for _ in range(3)]
            assert pids[0] == pids[1] == pids[2]
    finally:
        sql = f"ALTER ROLE {USER} IN DATABASE {database.name} RESET default_transaction_read_only"
        with psycopg.connect(database.server.url(database.name)) as connection:
            connection.execute("SET TRANSACTION READ WRITE")
            connection.execute(sql)


async def test_a_server_that_becomes_read_only(start_server: StartServer) -> None:
    """As a standby that takes the place of its primary: what reads goes on."""
    server = start_server(DebianPostgreSQL)
    database = Database(server, "postgres")
    async with database.plugin() as pg:
        await pg.call("set", key="k", value=1)
        for value, status in (("on", HealthStatus.DEGRADED), ("off", HealthStatus.HEALTHY)):
            with psycopg.connect(server.url(), autocommit=True) as connection:
                connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
                connection.execute("SELECT pg_reload_conf()")
            with trio.fail_after(60):
                while (health := await pg.health()).status is not status:  # noqa: ASYNC110 - as above
                    await trio.sleep(0.02)
            assert (await pg.call("get", key="k"))["value"] == 1
            assert (await pg.call("query", sql="SELECT 1"))["rows"] == [[1]]
            if value == "on":
                assert "read-only" in health.message
                error = await refused(pg.call("set", key="k", value=2))
                assert error.status is StatusCode.FAILED_PRECONDITION
        assert await pg.call("set", key="k", value=2) == {"stored": True}


async def test_metrics_tell_of_connections_and_statements(database: Database) -> None:
    async with database.plugin(pool_size=3, key_value_connections=2) as pg:
        await pg.health()
        before = pg.plugin.metrics.queries_executed
        for number in range(10):
            await pg.call("set", key=f"k{number}", value=1)
            await pg.call("query", sql="SELECT 1")
        health = await pg.health()
        assert health.metrics is not None
        assert health.metrics.queries_executed >= before + 20
        assert health.metrics.connections_idle == 1
        assert health.metrics.connections_active == 4  # the shared ones
        assert health.details["pool"] == "1 idle of 1; at most 3"


async def test_a_password_that_changes_is_read_with_the_next_connection(
    database: Database,
) -> None:
    """The new one is proven by a start of its own; connections of the old go on meanwhile."""
    role = new_name()
    database.ask(f"CREATE ROLE {role} LOGIN PASSWORD 'old'")
    try:
        old = {"username": role, "password": "old"}
        async with database.plugin(credentials=old, key_value=False) as pg:
            await pg.call("query", sql="SELECT 1")
            database.ask(f"ALTER ROLE {role} PASSWORD 'new'")
            await refused(
                database.plugin(
                    credentials=old | {"password": "typo"}, key_value=False
                ).__aenter__()
            )
            assert (await pg.call("query", sql="SELECT 1"))["rows"] == [[1]]
            new = old | {"password": "new"}
            async with database.plugin(credentials=new, key_value=False) as successor:
                assert (await successor.call("query", sql="SELECT 1"))["rows"] == [[1]]
    finally:
        database.ask(f"DROP ROLE {role}")


async def test_idle_connections_are_closed(database: Database) -> None:
    async with database.plugin(idle_timeout=0.2, key_value=False) as pg:
        await pg.call("query", sql="SELECT 1")
        assert pg.plugin.pool.count == 1
        await eventually(lambda: pg.plugin.pool.count == 0)
        assert (await pg.call("query", sql="SELECT 1"))["rows"] == [[1]]


async def test_a_connection_has_a_longest_life(database: Database) -> None:
    async with database.plugin(max_lifetime=1e-6, key_value=False) as pg:
        pids = [(await pg.call("query", sql="SELECT pg_backend_pid()"))["rows"] for _ in range(3)]
        assert pids[0] != pids[1] != pids[2]
        assert pg.plugin.pool.count == 0


async def test_a_connection_that_has_grown_is_not_kept(pg: Running) -> None:
    """libpq's buffers keep the size of the largest message."""
    ask = {"sql": "SELECT pg_backend_pid()"}
    first = await pg.call("query", **ask)
    assert await pg.call("query", **ask) == first
    await pg.call("query", sql="SELECT repeat('x', 2000000)")
    assert pg.plugin.pool.count == 0
    assert await pg.call("query", **ask) != first
    huge = "SELECT repeat('x', 100000000)"
    assert await status_of(pg.call("query", sql=huge)) is StatusCode.RESOURCE_EXHAUSTED
    assert pg.plugin.pool.count == pg.plugin.pool.idle


async def test_behind_a_pooler(pgbouncer: PgBouncer) -> None:
    """In transaction mode, where each transaction may be on another session."""
    pooled = Database(pgbouncer, "postgres")
    async with pooled.plugin(new_name(), statement_cache_size=0) as pg:
        table = new_name()
        await pg.call("execute", sql=f"CREATE TABLE {table} (a int, b timestamptz)")
        await pg.call("set", key="k", value=[1])

        async def use(number: int) -> None:
            insert = f"INSERT INTO {table} VALUES ($1, '2026-01-01 00:00:00+02')"
            await pg.call("execute", sql=insert, params=[number])
            found = await pg.call(
                "query",
                sql=f"SELECT b, '1 day'::interval FROM {table} WHERE a = $1",
                params=[number],
            )
            assert found["rows"] == [["2025-12-31T22:00:00Z", "P1D"]]
            assert (await pg.call("get", key="k"))["value"] == [1]
            await pg.call("execute_many", sql=insert, params_list=[[-1], [-2]])
            await pg.call("transaction", statements=[{"sql": insert, "params": [-3]}])

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(use, number)
        rows = [m async for m in pg.stream("query", sql=f"SELECT a FROM {table}")][1:]
        assert sum(len(message["rows"]) for message in rows) == 80
        await pg.call("execute", sql=f"DROP TABLE {table}")


async def test_a_pooler_that_was_not_told_of(
    pgbouncer: PgBouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to set: at the start, and, where the pooler lets that pass, when
    prepared statements get lost."""
    pooled = Database(pgbouncer, "postgres")
    error = await refused(pooled.plugin(key_value=False).__aenter__())
    assert "statement_cache_size: 0" in error.detail
    monkeypatch.setattr("prism_plugins.postgres.config.SETTINGS", {})
    async with pooled.plugin(new_name(), key_value=False) as pg:
        details = []

        async def ask() -> None:
            for number in range(20):
                try:
                    await pg.call("query", sql=f"SELECT {number % 3}")
                except PluginError as error:
                    details.append(error.detail)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
    assert any("statement_cache_size: 0" in detail for detail in details)
