import os

from prism.calls.ids import HexSource


def test_identifiers_are_hexadecimal_and_differ():
    source = HexSource()
    taken = [source.take(32) for _ in range(2000)]
    assert len(set(taken)) == 2000
    assert all(len(text) == 32 and int(text, 16) >= 0 for text in taken)


def test_a_forked_child_has_its_own():
    source = HexSource()
    source.take(32)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, source.take(32).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as theirs:
        assert theirs.read() != source.take(32)
