from types import SimpleNamespace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.errors import CallCancelled, InvalidRequest, PayloadTooLarge
from prism.frontends.rest.streams.body import RequestLines


def lines_of(*chunks, whole=True):
    """The lines of a body that comes in ``chunks``; if not ``whole``, the client leaves then."""
    pending = list(chunks)

    async def read():
        await trio.lowlevel.checkpoint()
        if pending:
            return pending.pop(0)
        if not whole:
            raise CallCancelled("the client went away before its request was complete")
        return b""

    held: list[int] = []
    return RequestLines(
        SimpleNamespace(exchange=SimpleNamespace(read=read), bytes_in=0, hold=held.append)
    )


async def read_all(lines, limit=100):
    found = [(await lines.first(limit)).decode()]
    while (message := await lines.next_message()) is not None:
        found.append(message.params_json)
    return found


@given(
    st.lists(st.sampled_from(['{"a":1}', '{"b":"\\n"}', "{}"]), min_size=1, max_size=6),
    st.integers(1, 30),
    st.booleans(),
)
def test_lines_arrive_however_they_are_cut(texts, step, ends_with_a_break):
    data = "\n\n".join(texts).encode() + b"\n" * ends_with_a_break
    chunks = [data[start : start + step] for start in range(0, len(data), step)]
    assert trio.run(read_all, lines_of(*chunks)) == texts


async def test_no_line_at_all_is_no_params():
    lines = lines_of(b"\n \n")
    assert await lines.first(10) == b""
    assert await lines.next_message() is None


@pytest.mark.parametrize("line", [b"nonsense", b"[1]", b'{"a":1,"a":2}', b"\xff"])
async def test_a_bad_line_is_said_and_costs_the_stream(line):
    lines = lines_of(b"{}\n", line + b"\n{}\n")
    await lines.first(100)
    with pytest.raises(InvalidRequest):
        await lines.next_message()


@pytest.mark.parametrize(
    "chunks", [[b"x" * 200], [b"x" * 60, b"x" * 60, b"\n"], [b"x" * 101 + b"\n"]]
)
async def test_a_line_over_the_limit_is_refused_before_it_is_whole(chunks):
    with pytest.raises(PayloadTooLarge, match="limit of 100 bytes"):
        await lines_of(*chunks).first(100)


async def test_the_limit_is_a_lines_not_the_streams():
    lines = lines_of(*[b'{"a":"' + b"x" * 80 + b'"}\n'] * 50)
    assert len(await read_all(lines)) == 50


async def test_a_client_that_goes_away_is_gone():
    lines = lines_of(b"{}\n", b'{"a"', whole=False)
    await lines.first(100)
    with pytest.raises(CallCancelled):
        await lines.next_message()


async def test_what_came_is_counted_and_each_line_has_its_place():
    lines = lines_of(b"{}\n", b'\n{"a":1}\n')
    await lines.first(100)
    assert lines.place == "line 1 of the body"
    await lines.next_message()
    assert lines.place == "line 3 of the body"
    assert lines._call.bytes_in == 12
