from prism.wire.outbox import MAX_WRITE, Outbox
from prism.wire.parts import LARGE, size_of


def test_empty():
    assert Outbox().take() == b""


def test_urgent_frames_leave_first_each_lane_in_order():
    outbox = Outbox()
    outbox.put(b"a")
    outbox.put_urgent(b"1")
    outbox.put(b"b")
    outbox.put_urgent(b"2")
    assert outbox.size == 4
    assert outbox.take() == b"12ab"
    assert outbox.size == 0


def test_a_frame_put_after_another_never_passes_it():
    outbox = Outbox()
    outbox.put(b"x" * MAX_WRITE)
    ticket = outbox.put(b"OPEN")
    outbox.put(b"z")
    assert outbox.take() == b"x" * MAX_WRITE
    outbox.put_after(ticket, b"CANCEL")
    assert outbox.take() == b"OPENzCANCEL"
    outbox.put(b"y")
    outbox.put_after(ticket, b"CANCEL")
    assert outbox.take() == b"CANCELy"


def test_writes_are_bounded_and_large_frames_go_whole():
    outbox = Outbox()
    for letter in (b"a", b"b", b"c"):
        outbox.put(letter * (MAX_WRITE // 2))
    outbox.put(b"d" * 2 * MAX_WRITE)
    assert [len(outbox.take()) for _ in range(4)] == [
        MAX_WRITE,
        MAX_WRITE // 2,
        2 * MAX_WRITE,
        0,
    ]


def test_urgent_frames_do_not_hold_up_a_large_one_for_good():
    outbox = Outbox()
    outbox.put(b"m" * (MAX_WRITE + 1))
    outbox.put_urgent(b"1")
    assert outbox.take() == b"1" + b"m" * (MAX_WRITE + 1)
    assert outbox.size == 0


def test_large_pieces_are_handed_on_as_they_are():
    outbox, first, second = Outbox(), bytearray(b"l" * LARGE), b"L" * LARGE
    outbox.put(b"a")
    outbox.put((b"header", b"before", first, b"after"))
    outbox.put(b"b")
    outbox.put((b"header", second))
    outbox.put_urgent(b"1")
    assert outbox.size == 2 * LARGE + 26
    taken = outbox.take()
    assert taken == (b"1aheaderbefore", first, b"afterbheader", second)
    assert taken[1] is first
    assert taken[3] is second
    assert outbox.size == 0
    outbox.put(b"c")
    assert outbox.take() == b"c"


def test_pieces_count_like_whole_frames():
    outbox, large = Outbox(), b"x" * MAX_WRITE
    outbox.put((b"header", large))
    ticket = outbox.put(b"OPEN")
    assert size_of(outbox.take()) == len(large) + 6
    outbox.put_after(ticket, b"CANCEL")
    assert outbox.take() == b"OPENCANCEL"


def test_of_small_pieces_no_tuple_is_left():
    outbox = Outbox()
    outbox.put((b"small", b"pieces"))
    assert outbox.take() == b"smallpieces"
