"""The bound on ``%c``, and that everything else is SQLite's own."""

import sqlite3
from contextlib import closing

import pytest

from prism_plugins.sqlite.printf import bound_printf


@pytest.fixture
def bounded():
    with closing(sqlite3.connect(":memory:")) as connection:
        bound_printf(connection)
        yield connection


def run(connection, arguments):
    marks = ", ".join("?" * len(arguments))
    return connection.execute(f"SELECT printf({marks}), format({marks})", arguments * 2).fetchone()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (None,),
        (5,),
        (b"%d", 5),
        ("%d %s %q %Q %w", 1, "a", "it's", None, 'a"b'),
        ("%.3f|%+08.2e|%,d|%-5d|", 2.5, 3.75, 1234567, 8),
        ("%*d %.*f", 8, 5, 2, 1.2345),
        ("%c%5c%.5c%%c", "abc", "d", "e"),
        ("%.*c %d", 3, "x", 5_000_000),
        ("%d %.*c", 5_000_000, "3", "x"),
        ("%*.*c|", 9, 3, "x"),
        ("%.c%.lc%.2llc", "x", "y", "z"),
        ("%y %.*c", 2_000_000_000, "x"),
        ("%n%.3c", "x"),
        ("no conversion", 2_000_000_000),
        ("%s", b"bytes"),
        ("%c", None),
    ],
)
def test_as_sqlite_does_it(bounded, arguments):
    with closing(sqlite3.connect(":memory:")) as plain:
        if "%y" in str(arguments):  # the format ends there; the rest is not looked at by SQLite
            with pytest.raises(sqlite3.DataError):
                run(bounded, arguments)
        else:
            assert run(bounded, arguments) == run(plain, arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("%.*c", 100_000_000, "x"),
        ("%.*c", -100_000_000, "x"),
        ("%.*c", 2**40, "x"),
        ("%.*c", "100000000", "x"),
        ("%.*c", 1e9, "x"),
        ("%.*c", float("inf"), "x"),
        ("%.999999999c", "x"),
        ("%,#.999999999lc", "x"),
        ("%.1000c" * 2000, "x"),
        (b"%.999999999c", "x"),
        ("%*.*c", 1, 2_000_000_000, "x"),
        ("%d%s%.*c", 1, "a", 2_000_000_000, "x"),
        ("%s", "x" * 1_048_577),
    ],
)
def test_too_much(bounded, arguments):
    with pytest.raises(sqlite3.DataError, match="too big"):
        run(bounded, arguments)
