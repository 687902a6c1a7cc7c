import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.errors import PluginError
from prism_plugins.postgres.placeholders import parse


@pytest.mark.parametrize(
    ("sql", "rewritten", "names"),
    [
        ("SELECT :a, :b, :a", "SELECT $1, $2, $1", ("a", "b")),
        ("SELECT :a::int8", "SELECT $1::int8", ("a",)),
        ("SELECT '2026'::date, :a", "SELECT '2026'::date, $1", ("a",)),
        ("SELECT f(x := :a)", "SELECT f(x := $1)", ("a",)),
        ("SELECT v[1:n], v[:a]", "SELECT v[1:n], v[$1]", ("a",)),
        ("SELECT v[low:high], (x):y", "SELECT v[low:high], (x):y", ()),
        ("SELECT v[:a::int:4]", "SELECT v[$1::int:4]", ("a",)),
        ("SELECT ':a', \":a\" , U&':a', U&\":a\"", None, ()),
        (
            "SELECT 'it''s :a', 'ends with \\' , :b",
            "SELECT 'it''s :a', 'ends with \\' , $1",
            ("b",),
        ),
        (r"SELECT E'\' :a', :b", r"SELECT E'\' :a', $1", ("b",)),
        ("SELECT E'a'\n 'b\\' :a', :b", "SELECT E'a'\n 'b\\' :a', $1", ("b",)),
        ("SELECT E'a' -- why\n 'b\\' :a', :b", "SELECT E'a' -- why\n 'b\\' :a', $1", ("b",)),
        ("SELECT E'a' 'b', :b", "SELECT E'a' 'b', $1", ("b",)),
        (
            "SELECT $$ :a $$, $x$ :a $$ $y$ $x$, :b",
            "SELECT $$ :a $$, $x$ :a $$ $y$ $x$, $1",
            ("b",),
        ),
        ("SELECT a$b$, :a, c$d$", "SELECT a$b$, $1, c$d$", ("a",)),
        ("SELECT 1 -- :a\n, :b", "SELECT 1 -- :a\n, $1", ("b",)),
        ("SELECT 1 /* :a /* :b */ :c */ , :d", "SELECT 1 /* :a /* :b */ :c */ , $1", ("d",)),
        ("SELECT '{\"a\": 1}'::jsonb ? 'a', :b", "SELECT '{\"a\": 1}'::jsonb ? 'a', $1", ("b",)),
        ("SELECT 'open :a", None, ()),
        ('SELECT "open :a', None, ()),
        ("SELECT $$open :a", None, ()),
        ("SELECT /* open :a", None, ()),
        ("SELECT :größe", "SELECT $1öße", ("gr",)),  # names are ASCII
    ],
)
def test_named_placeholders(sql: str, rewritten: str | None, names: tuple[str, ...]) -> None:
    parsed = parse(sql)
    assert parsed.sql == (rewritten or sql)
    assert parsed.names == names


@pytest.mark.parametrize(
    ("sql", "numbered"),
    [
        ("SELECT $1", True),
        ("SELECT '$1', \"$1\", a$1, $$ $1 $$ -- $1", False),
        ("SELECT 1.5e3, 0x1F", False),
    ],
)
def test_numbers(sql: str, numbered: bool) -> None:
    assert parse(sql).numbered is numbered


@pytest.mark.parametrize(
    ("sql", "first"),
    [
        ("/* a */ -- b\n (( Select 1))", "select"),
        ("INSERT INTO t", "insert"),
        (";begin", ";"),
        ("", ""),
    ],
)
def test_first_words(sql: str, first: str) -> None:
    assert parse(sql).first == first


def test_both_kinds_are_refused() -> None:
    with pytest.raises(PluginError, match="both"):
        parse("SELECT $1, :a")


TEXT = st.text(alphabet="ab:$'\"\\/*-E \n", max_size=8)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def escaped(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


INERT = st.one_of(
    TEXT.map(quoted),
    TEXT.map(escaped),
    TEXT.map(lambda text: '"' + text.replace('"', '""') + 'x"'),
    TEXT.map(lambda text: f"$tag${text.replace('$', '')}$tag$"),
    TEXT.map(lambda text: "/*" + text.replace("*", "").replace("/", "") + "*/"),
    TEXT.map(lambda text: "--" + text.replace("\n", "") + "\n"),
    st.sampled_from(["a", "1", "::int", "a$1", "x := ", "(", ")", ",", "a[1:n]"]),
)
NAMES = st.sampled_from(["a", "b_2", "C"])


@given(st.lists(st.one_of(INERT.map(lambda text: (text, None)), NAMES.map(lambda n: (None, n)))))
def test_any_mixture(parts: list[tuple[str | None, str | None]]) -> None:
    names: dict[str, int] = {}
    sql, wanted = "", ""
    for text, name in parts:
        if text is not None:
            sql += text
            wanted += text
        else:
            number = names.setdefault(str(name), len(names) + 1)
            sql += f" :{name}"
            wanted += f" ${number}"
        sql += " , "  # E'a' 'b' would be one string only with a line's end between
        wanted += " , "
    parsed = parse(sql)
    assert parsed.sql == wanted
    assert parsed.names == tuple(names)


@given(st.text(alphabet="ab:$'\"\\/*-E[] \n\r\0é"))
def test_nothing_breaks_it(sql: str) -> None:
    parsed = parse(sql.replace("$", "$ "))
    assert len(parsed.sql) >= len(sql) - 100 * len(parsed.names) - 100
