"""How much text views and WITH put into a statement, before SQLite does it."""

import pytest

from prism.sdk import PluginError, StatusCode
from prism_plugins.sqlite.authorizer import Ended
from prism_plugins.sqlite.expansion import COPIED_BYTES, Expansion

V = "CREATE VIEW v AS SELECT a FROM t"
NO_VIEWS = Expansion(())


def of(*views):
    return Expansion((view.split()[2], "", view) for view in views)


@pytest.mark.parametrize(
    ("sql", "times"),
    [
        ("SELECT 1", 0),
        ("SELECT a FROM t", 0),
        ("SELECT a FROM v", 1),
        ("SELECT a FROM V AS x, main.v y", 2),
        ("SELECT a FROM \"v\", `v`, [v], 'v'", 4),
        ("SELECT a FROM vv -- v\n /* v */", 0),
        ("SELECT (SELECT (SELECT a FROM v))", 1),
        ("SELECT 'it''s v', a FROM v", 1),
    ],
)
def test_a_view_counts_wherever_it_is_named(sql, times):
    assert of(V).copied(sql) == times * len(V)


def test_views_within_views():
    views = [V.replace("v", "v0")]
    views += [f"CREATE VIEW v{n} AS SELECT a FROM v{n - 1}, v{n - 1}" for n in range(1, 30)]
    expansion = of(*views)
    assert len(views[0]) * 2**29 < expansion.copied("SELECT * FROM v29") < 100 * 2**29
    assert expansion.copied("SELECT * FROM v1") == len(views[1]) + 2 * len(views[0])


def test_a_view_that_is_its_own_and_one_of_hundreds():
    assert of("CREATE VIEW v AS SELECT a FROM v").copied("SELECT a FROM v") > 0
    views = [f"CREATE VIEW v{n} AS SELECT a FROM v{n + 1}" for n in range(2000)]
    assert of(*views).copied("SELECT a FROM v0") > COPIED_BYTES


def test_a_long_text_is_counted_no_longer_than_its_time():
    asked = []

    def must_end():
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(Ended):
        of(V).copied("SELECT " + "a," * 100_000 + "a FROM v", must_end)
    assert len(asked) == 3


def test_what_was_ended_is_counted_anew():
    expansion = of(V)
    for ends in (True, False):
        asked = iter([False, ends])
        try:
            copied = expansion.copied("SELECT a FROM v", lambda asked=asked: next(asked))
        except Ended:
            continue
        assert copied == len(V)


def test_a_trigger_counts_with_its_table():
    trigger = "CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO u SELECT a FROM v; END"
    expansion = Expansion([("v", "", V), ("x", "t", trigger)])
    assert expansion.copied("INSERT INTO t VALUES (1)") == len(trigger) + len(V)


@pytest.mark.parametrize(
    ("sql", "copied"),
    [
        ("WITH a AS (SELECT 1) SELECT 2", ""),
        ("WITH a AS (SELECT 1) SELECT * FROM a", "(SELECT 1)"),
        ("WITH a(x, y) AS NOT MATERIALIZED (SELECT 1, 2) SELECT * FROM a, a", "(SELECT 1, 2)" * 2),
        (
            "WITH RECURSIVE a AS (SELECT 1 UNION SELECT a + 1 FROM a) SELECT * FROM a",
            "(SELECT 1 UNION SELECT a + 1 FROM a)",
        ),
        (
            "WITH a AS (SELECT 1), b AS (SELECT * FROM a, a) SELECT * FROM b",
            "(SELECT * FROM a, a)(SELECT 1)(SELECT 1)",
        ),
        (
            "WITH b AS (WITH a AS (SELECT 1) SELECT * FROM a) SELECT * FROM b",
            "(WITH a AS (SELECT 1) SELECT * FROM a)(SELECT 1)",
        ),
        ("SELECT * FROM (SELECT 1) AS a, (SELECT 2) b; with", ""),
        ("WITH a AS (SELECT 1", ""),
    ],
)
def test_an_expression_counts_where_it_is_named(sql, copied):
    assert NO_VIEWS.copied(sql) == len(copied)


@pytest.mark.parametrize("sql", ["WITH ) AS ( AS ) AS (a) a", "with as as (", ")))", "with '"])
def test_what_is_no_sql_is_counted_all_the_same(sql):
    of(V).copied(sql)  # whatever comes of it: SQLite refuses it


@pytest.mark.parametrize("operation", ["query", "execute"])
async def test_what_could_not_be_ended_while_it_is_compiled_is_not_begun(open_plugin, operation):
    names = ", ".join(f"a{n}" for n in range(50))
    async with open_plugin() as sqlite:
        await sqlite.call("execute", sql=f"CREATE TABLE t ({names})")
        await sqlite.call("execute", sql=f"CREATE VIEW v0 AS SELECT {names} FROM t")
        for n in range(10):
            both = f"SELECT {names} FROM v{n}"
            sql = f"CREATE VIEW v{n + 1} AS {both} UNION ALL {both}"
            await sqlite.call("execute", sql=sql)
        assert (await sqlite.call(operation, sql="SELECT a0 FROM v7"))["rows"] == []
        for sql in (
            "SELECT v10.a0 FROM v10, v10 AS b",
            "WITH x AS (SELECT 1 FROM v10) SELECT * FROM x, x y",
        ):
            with pytest.raises(PluginError, match="name each fewer times") as raised:
                await sqlite.call(operation, sql=sql)
            assert raised.value.status is StatusCode.RESOURCE_EXHAUSTED
        await sqlite.call("execute", sql="DROP VIEW v10")
        await sqlite.call("execute", sql="CREATE VIEW v10 AS SELECT 1 AS a0")
        assert (await sqlite.call(operation, sql="SELECT v10.a0 FROM v10, v10 AS b"))["rows"] == [
            [1]
        ]
