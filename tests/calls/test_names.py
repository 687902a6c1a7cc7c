import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.calls.names import namespace_name, operation_name
from prism.contract.errors import InvalidRequest


@pytest.mark.parametrize("raw", [b"a", b"0", b"user-profiles", b"a-", b"x" * 63])
def test_namespaces(raw):
    assert namespace_name(raw) == raw.decode()


@pytest.mark.parametrize("raw", [b"a", b"get", b"compare_and_swap", b"x" * 64])
def test_operations(raw):
    assert operation_name(raw) == raw.decode()


@pytest.mark.parametrize("parse", [namespace_name, operation_name])
@pytest.mark.parametrize(
    "raw", [b"", b"A", b"-a", b"_a", b"a\n", b"a.b", b"..", b"a%62", b"a/b", b"x" * 65, b"\xc3\xa9"]
)
def test_no_names(parse, raw):
    with pytest.raises(InvalidRequest):
        parse(raw)


@given(raw=st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
def test_a_name_has_one_spelling(raw):
    for parse in (namespace_name, operation_name):
        try:
            name = parse(raw)
        except InvalidRequest:
            continue
        assert name.encode() == raw
        assert name == name.lower().strip()
        assert not set(name) & set("/.%\\ \n")
