import contextlib
import shutil
import ssl
import struct

import pytest
import trio
import trio.testing
import trustme
from hypothesis import given
from hypothesis import strategies as st

from prism.server.proxy_protocol import (
    MAX_BINARY,
    MAX_LINE,
    SIGNATURE,
    ProxyHeader,
    ProxyHeaderError,
    parse,
)
from prism.streams.tls import ServerTLS

PORTS = st.integers(0, 65535)
V4, V6 = st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda address: not address.ipv4_mapped)
PAIRS = st.one_of(st.tuples(V4, V4), st.tuples(V6, V6))


def line(source, destination, port, other=443):
    return f"PROXY TCP{source.version} {source} {destination} {port} {other}\r\n".encode()


def binary(source, destination, port, other=443, tlv=b""):
    family = 0x11 if source.version == 4 else 0x21
    rest = source.packed + destination.packed + struct.pack("!HH", port, other) + tlv
    return raw(0x21, family, rest)


def raw(command, family, rest=b"", length=None):
    return SIGNATURE + struct.pack("!BBH", command, family, length or len(rest)) + rest


HEADERS = st.one_of(
    st.builds(lambda pair, *ports: (line(*pair, *ports), pair[0], ports[0]), PAIRS, PORTS, PORTS),
    st.builds(
        lambda pair, port, tlv: (binary(*pair, port, tlv=tlv), pair[0], port),
        PAIRS,
        PORTS,
        st.binary(max_size=300),
    ),
)


@given(HEADERS, st.binary(max_size=40))
def test_whom_a_header_names_whatever_follows(header, rest):
    data, source, port = header
    assert parse(data + rest) == ProxyHeader(len(data), (str(source), port))


@given(HEADERS)
def test_of_a_part_more_is_needed(header):
    data, *_ = header
    assert {parse(data[:size]) for size in range(len(data))} == {None}


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=200).map(lambda noise: b"PROXY " + noise + b"\r\n"),
        st.binary(max_size=300).map(lambda noise: SIGNATURE + noise),
        st.tuples(HEADERS, st.integers(0, 60), st.binary(min_size=1, max_size=3)).map(
            lambda made: made[0][0][: made[1]] + made[2] + made[0][0][made[1] + 1 :]
        ),
    )
)
def test_noise_is_refused_or_a_header_and_the_same_bytewise(data):
    def result(data):
        try:
            return parse(data)
        except ProxyHeaderError as error:
            return str(error)

    whole = result(data)
    parts = [result(data[:size]) for size in range(len(data) + 1)]
    settled = next((part for part in parts if part is not None), None)
    assert settled == whole
    if isinstance(whole, ProxyHeader):
        assert whole.size <= min(len(data), MAX_BINARY)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n",
        b"PROXY UNKNOWN ".ljust(MAX_LINE - 2, b"x") + b"\r\n",
        raw(0x20, 0x00),
        raw(0x20, 0x11, bytes(12)),
        raw(0x20, 0xFF, b"anything"),
        raw(0x21, 0x00, bytes(40)),
        raw(0x21, 0x12, bytes(12)),  # UDP's
        raw(0x21, 0x31, bytes(216)),  # a Unix socket's
        raw(0x20, 0x00, bytes(MAX_BINARY - 16)),
    ],
)
def test_headers_that_name_nobody(data):
    assert parse(data + b"GET") == ProxyHeader(len(data), None)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"PROXY\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 ::1 ::2 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY UNKNOWN ".ljust(MAX_LINE - 1, b"x") + b"\r\n",
        raw(0x11, 0x11, bytes(12)),
        raw(0x22, 0x11, bytes(12)),
        raw(0x21, 0x41, bytes(12)),
        raw(0x21, 0x13, bytes(12)),
        raw(0x21, 0x11, bytes(11)),
        raw(0x21, 0x21, bytes(35)),
        raw(0x21, 0x11, length=MAX_BINARY),
    ],
)
def test_what_is_no_header(data):
    with pytest.raises(ProxyHeaderError):
        parse(data)


def test_a_mapped_address_is_the_one_that_it_maps():
    header = parse(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n")
    assert header.client == ("192.0.2.1", 1)


# -- on sockets ---------------------------------------------------------------

GET = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-forwarded-for: 198.51.100.9\r\n\r\n"
V1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 443\r\n"
V2 = raw(0x21, 0x11, bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 4000, 443) + b"tlv")
TRUSTING = {"trusted_proxies": ("127.0.0.1",), "proxy_protocol": True}
HEADS = pytest.mark.parametrize("head", [V1, V2], ids=["v1", "v2"])


@pytest.fixture
def whose(helpers):
    async def app(scope, receive, send):
        await helpers.respond(send, 200, repr(scope["client"]).encode())

    return app


@pytest.fixture
def server_tls(tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return ServerTLS(cert, key), context, authority


@HEADS
async def test_the_client_is_whom_the_header_names(start_server, helpers, whose, head):
    server = await start_server(whose, **TRUSTING)
    stream = await server.connect()
    await stream.send_all(head + GET)
    assert b"('192.0.2.1', 4000)" in await helpers.read_all(stream)


@HEADS
async def test_a_header_in_pieces(start_server, helpers, whose, head):
    server = await start_server(whose, **TRUSTING)
    stream = await server.connect()
    for byte in head:
        await stream.send_all(bytes([byte]))
        await trio.testing.wait_all_tasks_blocked()
    await stream.send_all(GET)
    assert b"('192.0.2.1', 4000)" in await helpers.read_all(stream)


@HEADS
async def test_http2(start_server, h2_client, whose, head):
    server = await start_server(whose, **TRUSTING)
    stream = await server.connect()
    await stream.send_all(head)
    client = h2_client(stream)
    assert await client.response(await client.request()) == (200, b"('192.0.2.1', 4000)")


@HEADS
@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
async def test_before_tls(start_server, helpers, h2_client, whose, server_tls, head, protocol):
    tls, context, _ = server_tls
    server = await start_server(whose, tls=tls, **TRUSTING)
    stream = await server.connect()
    await stream.send_all(head)
    context.set_alpn_protocols([protocol])
    secure = trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)
    if protocol == "h2":
        client = h2_client(secure)
        assert await client.response(await client.request()) == (200, b"('192.0.2.1', 4000)")
    else:
        await secure.send_all(GET)
        assert b"('192.0.2.1', 4000)" in await helpers.read_all(secure)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_curl_says_its_own_address(start_server, whose, server_tls, secure, tmp_path):
    tls, _, authority = server_tls
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = await start_server(whose, tls=tls if secure else None, **TRUSTING)
    done = await trio.run_process(
        [
            *("curl", "-sS", "--haproxy-protocol", "--cacert", tmp_path / "ca.pem"),
            *("-w", " %{local_port}", str(server.address)),
        ],
        capture_stdout=True,
    )
    body, _, port = done.stdout.decode().rpartition(" ")
    assert body == f"('127.0.0.1', {port})"


@pytest.mark.parametrize("head", [b"PROXY UNKNOWN\r\n", raw(0x20, 0x00), raw(0x21, 0x00)])
async def test_where_nobody_is_named_the_proxy_is_the_client(start_server, helpers, whose, head):
    server = await start_server(whose, **TRUSTING)
    stream = await server.connect()
    port = stream.socket.getsockname()[1]
    await stream.send_all(head + GET)
    assert f"('127.0.0.1', {port})".encode() in await helpers.read_all(stream)


async def test_a_named_proxy_says_on_whose_behalf_it_asks(start_server, helpers, whose):
    trusted = ("127.0.0.1", "192.0.2.0/24")
    server = await start_server(whose, trusted_proxies=trusted, proxy_protocol=True)
    stream = await server.connect()
    await stream.send_all(V1 + GET)
    assert b"('198.51.100.9', 0)" in await helpers.read_all(stream)


@pytest.mark.parametrize("data", [GET, b"\x16\x03\x01\x02", V1[:20], V2[:20], V1[:-2] + b"x\r\n"])
async def test_a_proxy_without_a_header_is_refused(start_server, helpers, data, caplog):
    caplog.set_level("INFO", "prism.server")
    server = await start_server(**TRUSTING)
    stream = await server.connect()
    host, port = stream.socket.getsockname()
    await stream.send_all(data)
    with contextlib.suppress(trio.BrokenResourceError):  # it is closed before
        await stream.send_eof()
    assert await helpers.read_all(stream) == b""
    (record,) = [record for record in caplog.records if "PROXY" in record.getMessage()]
    assert record.fields == {"client": f"{host}:{port}"}


async def test_a_proxy_that_only_looks_whether_the_port_is_open(start_server, helpers, caplog):
    caplog.set_level("INFO", "prism.server")
    server = await start_server(**TRUSTING)
    stream = await server.connect()
    await stream.send_eof()
    assert await helpers.read_all(stream) == b""
    assert not caplog.records


async def test_a_header_has_as_long_as_a_handshake(start_server, helpers, caplog):
    caplog.set_level("INFO", "prism.server")
    server = await start_server(tls_handshake_timeout=0.05, **TRUSTING)
    stream = await server.connect()
    await stream.send_all(V2[:20])
    assert await helpers.read_all(stream) == b""
    assert [record.getMessage() for record in caplog.records] == [
        "a client was too slow; its connection is cut"
    ]


@HEADS
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_nobody_else_may_send_a_header(
    start_server, helpers, whose, server_tls, head, secure
):
    tls = server_tls[0] if secure else None
    server = await start_server(whose, tls=tls, trusted_proxies=("::1",), proxy_protocol=True)
    stream = await server.connect()
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(head + GET)
    assert b"192.0.2.1" not in await helpers.read_all(stream)
    if not secure:
        stream = await server.connect()
        await stream.send_all(GET)
        assert b"('127.0.0.1'" in await helpers.read_all(stream)


async def test_the_limit_per_address_is_for_whom_the_header_names(start_server, h2_client, helpers):
    server = await start_server(max_connections_per_peer=1, **TRUSTING)

    async def connect(header):
        stream = await server.connect()
        await stream.send_all(header)
        return h2_client(stream)

    first, other = await connect(V1), await connect(V2.replace(b"\xc0\0\2\1", b"\xc0\0\2\7"))
    for client in (first, other):
        assert (await client.response(await client.request()))[0] == 200
    refused = await server.connect()
    await refused.send_all(V2)
    assert await helpers.read_all(refused) == b""
    assert server.statistics.refused == 1
    await first.stream.aclose()
    while server.statistics.connections > 1:  # noqa: ASYNC110 - it has no event
        await trio.sleep(0.001)
    again = await connect(V2)
    assert (await again.response(await again.request()))[0] == 200
