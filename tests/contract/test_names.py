import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.errors import InvalidRequest
from prism.contract.names import VERSION, namespace_name, operation_name


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


@pytest.mark.parametrize("text", ["v1", "1.2", "2024-01-31", "1.0.0+build_7", "A" * 63])
def test_versions(text):
    assert re.fullmatch(VERSION, text)


@pytest.mark.parametrize("text", ["", ".1", "-1", "v 1", "v1/2", "v1\n", "A" * 64, "é"])
def test_no_versions(text):
    assert not re.fullmatch(VERSION, text)
