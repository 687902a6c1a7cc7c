import os
import socket
import ssl
import stat

import anyio
import pytest
import trustme
from anyio.streams.tls import TLSStream
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from prism.sdk import endpoints
from prism.sdk.endpoints import Address, EndpointError
from prism.sdk.options import Options


@pytest.mark.parametrize("text", ["unix:/run/s", "tcp:127.0.0.1:1", "tcp:h.example:65535"])
def test_addresses_are_written_as_they_are_read(text):
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize("text", ["", "unix:", "tcp:", "tcp::1", "tcp:h:", "tcp:h:x", "http://x"])
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match="is not an address"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("h", False)],
)
def test_is_loopback(host, loopback):
    assert Address(host=host, port=1).is_loopback is loopback


async def test_an_inherited_socket_is_not_passed_on():
    ours, theirs = socket.socketpair()
    stream = endpoints.inherited(theirs.detach())
    ours.sendall(b"hello")
    assert await stream.receive() == b"hello"
    assert not os.get_inheritable(stream._socket.fileno())
    await stream.aclose()
    ours.close()


@pytest.mark.parametrize("descriptor", [9999, 2**70])
def test_a_descriptor_that_is_no_socket(descriptor):
    with pytest.raises(EndpointError, match="is not a connected socket"):
        endpoints.inherited(descriptor)


def test_an_unconnected_socket():
    with pytest.raises(EndpointError, match="not connected"):
        endpoints.inherited(socket.socket(socket.AF_UNIX).detach())


async def test_a_unix_socket_is_private_and_a_dead_one_replaced(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    options = Options(listen=Address.unix(str(path)))
    async with await endpoints.listen(options) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert endpoints.bound_address(listener) == f"unix:{path}"
        with pytest.raises(EndpointError, match="Address already in use"):
            await endpoints.listen(options)
        await endpoints.dial(Address.unix(str(path))).aclose()
    with pytest.raises(ConnectionRefusedError):
        endpoints.dial(Address.unix(str(path)))


async def test_what_is_not_a_socket_is_left_alone(tmp_path):
    path = anyio.Path(tmp_path / "s")
    await path.write_text("precious")
    with pytest.raises(EndpointError, match="cannot listen on unix:"):
        await endpoints.listen(Options(listen=Address.unix(str(path))))
    assert await path.read_text() == "precious"


async def test_tcp_says_its_port_and_when_it_is_taken():
    async with await endpoints.listen(Options(listen=Address.parse("tcp:127.0.0.1:0"))) as first:
        where = endpoints.bound_address(first)
        assert where.startswith("tcp:127.0.0.1:")
        with pytest.raises(EndpointError, match="Address already in use"):
            await endpoints.listen(Options(listen=Address.parse(where)))


async def test_tls_files_that_cannot_be_used(tmp_path):
    bad = tmp_path / "bad.pem"
    bad.write_text("not PEM")
    address = Address.parse("tcp:127.0.0.1:0")
    for file, reason in ((str(bad), "PEM"), ("/nowhere", "No such file")):
        with pytest.raises(EndpointError, match=f"cannot use the TLS files.*{reason}"):
            await endpoints.listen(Options(listen=address, tls_cert=file, tls_key=file))


async def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(tmp_path):
    issued = trustme.CA().issue_cert("localhost")
    cert, locked = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    protection = BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    options = Options(
        listen=Address.parse("tcp:127.0.0.1:0"), tls_cert=str(cert), tls_key=str(locked)
    )
    with pytest.raises(EndpointError, match=f"{locked}.: the key is protected by a passphrase"):
        await endpoints.listen(options)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_host_whose_handshake_fails_is_told_why(tmp_path, version):
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    cert, key, ca = (str(tmp_path / name) for name in ("cert.pem", "key.pem", "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    options = Options(
        listen=Address.parse("tcp:127.0.0.1:0"), tls_cert=cert, tls_key=key, tls_client_ca=ca
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.maximum_version = version

    async def handler(stream):
        raise AssertionError("a host without a certificate is served")

    async def shake_hands(plain):
        secure = await TLSStream.wrap(
            plain, hostname="localhost", ssl_context=context, standard_compatible=False
        )
        await secure.receive()  # TLS 1.3 tells only after the handshake

    async with (
        await endpoints.listen(options) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, handler)
        port = Address.parse(endpoints.bound_address(listener)).port
        async with await anyio.connect_tcp("127.0.0.1", port) as plain:
            with pytest.raises(ssl.SSLError, match="ALERT"):
                await shake_hands(plain)
        tasks.cancel_scope.cancel()
