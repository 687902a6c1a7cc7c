"""The text of signatures: one way to write each, and nothing else is one."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.config.fields import WEAK_KEYS, is_weak, public_bytes
from prism.contract import names
from prism.verification import signature
from prism.verification.content import FILE, TREE, Digest
from prism.verification.signature import (
    NotASignature,
    Statement,
    is_signed_by,
    parse,
    public_text,
    render,
)

hexdigests = st.text("0123456789abcdef", min_size=64, max_size=64)
file_names = st.text(min_size=1, max_size=20).filter(lambda name: name.isprintable())
statements = st.builds(
    Statement,
    st.builds(Digest, st.sampled_from([FILE, TREE]), hexdigests),
    st.text("0123456789abcdef", min_size=16, max_size=16),
    name=st.none() | st.from_regex(names.PLUGIN, fullmatch=True),
    version=st.none() | st.from_regex(names.VERSION, fullmatch=True),
    files=st.dictionaries(file_names, hexdigests, max_size=4),
)
signatures = st.binary(min_size=64, max_size=64)
SAMPLE = Statement(
    Digest(TREE, "ab" * 32), "0123456789abcdef", "orders", "v1.3", {"a.py": "cd" * 32}
)
WRITTEN = render(SAMPLE, bytes(range(64)))


@given(statements, signatures)
def test_what_is_written_is_read(statement: Statement, signed: bytes) -> None:
    assert parse(render(statement, signed)) == (statement, signed)


@given(st.binary(max_size=400))
def test_other_bytes_are_none(content: bytes) -> None:
    with pytest.raises(NotASignature):
        parse(content)


@pytest.mark.parametrize("length", range(len(WRITTEN)))
def test_a_part_of_one_is_none(length: int) -> None:
    with pytest.raises(NotASignature):
        parse(WRITTEN[:length])


@given(st.integers(0, len(WRITTEN) - 1), st.binary(max_size=3))
def test_a_change_is_noticed(place: int, instead: bytes) -> None:
    """Either it is none any more, or it says something else and was signed as that."""
    changed = WRITTEN[:place] + instead + WRITTEN[place + 1 :]
    try:
        statement, signed = parse(changed)
    except NotASignature:
        return
    assert render(statement, signed) == changed
    assert changed == WRITTEN or (statement, signed) != (SAMPLE, bytes(range(64)))


@given(st.permutations(WRITTEN.splitlines(keepends=True)))
def test_the_lines_have_one_order(lines: list[bytes]) -> None:
    content = b"".join(lines)
    if content != WRITTEN:
        with pytest.raises(NotASignature):
            parse(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1 does not read"),
        (b"\xff", "byte 1 is not UTF-8"),
        (WRITTEN.replace(b"v1\n", b"v2\n", 1), 'line 1 does not read "prism plugin signature v1"'),
        (WRITTEN.replace(b"\n", b"\r\n"), "line 1 does not read"),
        (WRITTEN.replace(b"sha256-tree", b"sha512"), '"digest: sha256:" and 64 hex digits'),
        (WRITTEN.replace(b"key: 0", b"key: X"), "16 hex digits"),
        (WRITTEN + b"\n", "its last line"),
        (WRITTEN[:-1], "its last line"),
        (WRITTEN.replace(b"file: cd", b"file: aa" + b"a" * 62 + b" z\nfile: cd"), "the one way"),
        (b"x" * (signature.MAX_BYTES + 1), "more than"),
    ],
)
def test_what_is_wrong_is_said(content: bytes, message: str) -> None:
    with pytest.raises(NotASignature, match=message):
        parse(content)


def test_base64_with_stray_bits_is_none() -> None:
    one = WRITTEN.rstrip(b"\n").removesuffix(b"==")
    for last in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        other = one[:-1] + bytes([last]) + b"==\n"
        if other != WRITTEN and last not in b"AQ":  # with a, g, w: the four without stray bits
            with pytest.raises(NotASignature):
                parse(other)


def test_the_page_s_way_to_check_one_with_openssl(release, tmp_path) -> None:
    """`openssl pkeyutl` agrees on what was signed, and with which key."""
    file = tmp_path / "plugin"
    file.write_text("content")
    written = release.sign(file, name="orders", version="v1.3").read_bytes()
    payload, _, last = written.rpartition(b"signature: ")
    (tmp_path / "payload").write_bytes(payload)
    (tmp_path / "raw").write_bytes(parse(written)[1])
    assert last.endswith(b"==\n")
    done = subprocess.run(
        "openssl pkeyutl -verify -rawin -in payload -sigfile raw -inkey release.key",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "Signature Verified Successfully" in done.stdout, done


def test_a_proxy_that_checks_no_signatures_loads_no_cryptography() -> None:
    code = (
        "import sys, prism.app, prism.cli.main, prism.verification.signing;"
        "print([name for name in sys.modules if name.startswith('cryptography')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# -- keys -------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32), signatures, st.binary(max_size=50))
def test_no_bytes_make_checking_fail(public: bytes, signed: bytes, payload: bytes) -> None:
    assert not is_signed_by(public, signed, payload)


@pytest.mark.parametrize("point", sorted(WEAK_KEYS), ids=bytes.hex)
@pytest.mark.parametrize("sign", [0, 0x80])
def test_nobody_signs_for_a_point_that_is_no_key(point: bytes, sign: int) -> None:
    """The library lets forged signatures pass for these; we do not."""
    public = point[:-1] + bytes([point[-1] | sign])
    for number in range(64):  # R is the point with y = 1, S is 0: good for some payloads
        forged = b"\x01" + bytes(63)
        assert not is_signed_by(public, forged, bytes([number]))
    assert is_weak(public)


def test_the_configuration_s_form_of_a_key(release) -> None:
    public = release.private.public
    assert public_bytes(public_text(public)) == public
    assert len(release.id) == 16
