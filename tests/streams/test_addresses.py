import pytest

from prism.streams.addresses import (
    Address,
    WebSocketURL,
    bracketed,
    can_be_listened_on,
    check_socket_path,
    is_loopback,
    parse_endpoint,
    parse_store_url,
    unix_path,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a.example.com:1", ("a.example.com", 1)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("[::1]:20100", ("::1", 20100)),
    ],
)
def test_an_endpoint(text: str, address: tuple[str, int]) -> None:
    assert parse_endpoint(text) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "host:port"),
        ("a", "host:port"),
        (":1", "host:port"),
        ("a:", "the port"),
        ("a:0", "the port"),
        ("a:65536", "the port"),
        ("a:99999999999", "the port"),
        ("a:1x", "the port"),
        ("a:²", "the port"),
        ("https://a:1", "without a scheme"),
        ("a:1/b", "without a scheme"),
        ("::1:20100", "brackets"),
    ],
)
def test_not_an_endpoint(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_endpoint(text)


def test_the_url_of_a_listener() -> None:
    assert str(Address("http", "127.0.0.1", 80)) == "http://127.0.0.1:80"
    assert str(Address("https", "::1", 443)) == "https://[::1]:443"
    assert str(Address("http", "/run/prism/admin", 0)) == "unix:/run/prism/admin"


@pytest.mark.parametrize(
    ("url", "parts", "authority"),
    [
        ("wss://a.example", (True, "a.example", 443, "/"), "a.example"),
        ("ws://localhost:80/p", (False, "localhost", 80, "/p"), "localhost"),
        ("ws://127.0.0.1:8080/p?q=1", (False, "127.0.0.1", 8080, "/p?q=1"), "127.0.0.1:8080"),
        ("wss://[::1]:8443/", (True, "::1", 8443, "/"), "[::1]:8443"),
    ],
)
def test_the_url_of_a_websocket(
    url: str, parts: tuple[bool, str, int, str], authority: str
) -> None:
    parsed = WebSocketURL.parse(url)
    assert parsed == parts
    assert parsed.authority == authority


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://a", "write wss"),
        ("a:1", "write wss"),
        ("wss:///path", "write wss"),
        ("wss://user@a/", "user names"),
        ("wss://a/#part", "fragments"),
        ("wss://a:70000/", "the port"),
        ("wss://a:x/", "the port"),
        ("wss://a:0/", "the port"),
        ("wss://[::1", "write wss"),
        ("wss://user:hunter2\u2100@a/", "write wss"),
    ],
)
def test_not_the_url_of_a_websocket(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        WebSocketURL.parse(url)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("redis://a", (False, "a", 6379, 0)),
        ("rediss://a:1/7", (True, "a", 1, 7)),
        ("redis://[::1]:6380/", (False, "::1", 6380, 0)),
    ],
)
def test_the_url_of_a_limits_store(url: str, parts: tuple[bool, str, int, int]) -> None:
    assert parse_store_url(url) == parts


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("a:6379", "write rediss"),
        ("redis:///0", "write rediss"),
        ("redis://[::1", "write rediss"),
        ("redis://:hunter2@a", "user and password"),
        ("redis://:hunter2\u2100@a", "write rediss"),
        ("redis://a:0", "the port"),
        ("redis://a:x", "the port"),
        ("redis://a/x", "a database"),
        ("redis://a/0?x=hunter2", "a database"),
    ],
)
def test_not_the_url_of_a_limits_store(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        parse_store_url(url)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LocalHost.", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("x", False),
        ("", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("0.0.0.0", True), ("::", True), ("example.com", False), ("", False)],
)
def test_what_can_be_listened_on(host: str, expected: bool) -> None:
    assert can_be_listened_on(host) is expected


def test_the_path_of_a_unix_address() -> None:
    assert unix_path("unix:/run/a b") == "/run/a b"
    assert unix_path("127.0.0.1") is None


def test_the_longest_path_of_a_socket() -> None:
    check_socket_path("/" + "x" * 106)
    with pytest.raises(ValueError, match="has 108 bytes; at most 107"):
        check_socket_path("/" + "x" * 107)
    with pytest.raises(ValueError, match="has 109 bytes; at most 107"):
        check_socket_path("/" + "é" * 54)


def test_only_ipv6_has_brackets() -> None:
    assert [bracketed(host) for host in ("::1", "127.0.0.1", "a")] == ["[::1]", "127.0.0.1", "a"]
