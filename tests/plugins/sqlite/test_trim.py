import sqlite3
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from prism_plugins.sqlite.trim import replace_trim

FUNCTIONS = ("trim", "ltrim", "rtrim")
TEXTS = st.text(st.sampled_from("ab c\u00e9\U0001f600\u3000"), max_size=8)
NUMBERS = (
    st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([0.0, 1.0, -1.5, 0.1, 1e20, 1e-7, 1e15, 123456789012345680.0, 1e300])
    | st.floats(-1e6, 1e6).filter(bool)  # SQLite's versions differ on -0.0
)


@given(value=TEXTS | NUMBERS | st.none(), characters=TEXTS | st.integers(0, 99) | st.none())
def test_the_answers_are_sqlites_own(value, characters):
    with closing(sqlite3.connect(":memory:")) as own, closing(sqlite3.connect(":memory:")) as ours:
        replace_trim(ours)
        for name in FUNCTIONS:
            query = f"SELECT {name}(?, ?), {name}(?)"
            parameters = (value, characters, value)
            expected = own.execute(query, parameters).fetchone()
            assert ours.execute(query, parameters).fetchone() == expected


def test_bytes_are_their_text():
    with closing(sqlite3.connect(":memory:")) as connection:
        replace_trim(connection)
        assert connection.execute("SELECT trim(x'616261', 'a')").fetchone() == ("b",)


async def test_long_texts_take_no_time(open_plugin):
    """SQLite's own takes half an hour for each of these, and cannot be interrupted."""
    long = "printf('%.*c', 1000000, 'a')"
    async with open_plugin() as sqlite:
        for name in FUNCTIONS:
            sql = f"SELECT {name}({long}, printf('%.*c', 1000000, 'b') || 'a')"
            assert (await sqlite.call("query", sql=sql))["rows"] == [[""]]
