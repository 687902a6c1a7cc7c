import ssl

import h2.connection
import h2.events
import pytest
import trio
import trustme
from cryptography import x509
from h2.errors import ErrorCodes

from prism.server import handshakes
from prism.server.connection import PREFACE
from prism.streams.tls import ServerTLS


class Files:
    """A CA and the PEM files of certificates it signed."""

    def __init__(self, directory):
        self.directory = directory
        self.ca = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))

    def server(self):
        issued = self.ca.issue_cert("127.0.0.1", "localhost")
        cert, key = self.directory / "server.pem", self.directory / "server.key"
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(cert), append=number > 0)
        issued.private_key_pem.write_to_path(str(key))
        return cert, key

    def client(self, certificate=None):
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
        return context


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


async def connect(server, context):
    stream = await server.connect()
    tls = trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)
    await tls.do_handshake()
    return tls


async def test_the_verified_client_certificate_is_in_the_scope(start_server, files, helpers):
    async def app(scope, receive, send):
        assert scope["scheme"] == "https"
        await helpers.respond(send, 200, scope["state"]["prism.peer"])

    server = await start_server(app, tls=ServerTLS(*files.server(), files.ca_file))
    certificate = files.ca.issue_cert("client-a@example.org")
    stream = await connect(server, files.client(certificate))
    await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    answer = await helpers.read_all(stream)
    peer = x509.load_der_x509_certificate(answer.partition(b"\r\n\r\n")[2])
    names = peer.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.RFC822Name) == ["client-a@example.org"]


async def test_a_client_without_certificate_is_refused_and_told_why(start_server, files, caplog):
    caplog.set_level("INFO", "prism.server")
    server = await start_server(tls=ServerTLS(*files.server(), files.ca_file))
    stream = await connect(server, files.client())  # TLS 1.3 tells only after the handshake
    await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError) as failed:
        await stream.receive_some()
    assert failed.value.__cause__.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    certificate = files.ca.issue_cert("client-a@example.org")
    await connect(server, files.client(certificate))


async def test_a_client_of_an_old_version_is_told_why(start_server, files):
    server = await start_server(tls=ServerTLS(*files.server(), files.ca_file))
    context = files.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(trio.BrokenResourceError) as failed:  # before the handshake is over
        await connect(server, context)
    assert "ALERT_HANDSHAKE_FAILURE" in failed.value.__cause__.reason


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 400 "),
        (b"DELETE / HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 400 "),
        (PREFACE + bytes(9), b"\0\0\0\x04"),
    ],
)
async def test_plain_http_on_the_tls_port_is_told_so(
    start_server, files, helpers, caplog, sent, told
):
    caplog.set_level("INFO", "prism.server")
    server = await start_server(tls=ServerTLS(*files.server()))
    stream = await server.connect()
    await stream.send_all(sent)
    answer = await helpers.read_all(stream)
    assert answer.startswith(told)
    assert b"use https" in answer
    (record,) = [each for each in caplog.records if "handshake failed" in each.message]
    assert "spoke plain HTTP to the TLS port" in record.message
    host, port = stream.socket.getsockname()
    assert record.fields == {"client": f"{host}:{port}"}


async def test_an_http2_client_without_tls_reads_why_it_is_told_to_go(start_server, files, helpers):
    server = await start_server(tls=ServerTLS(*files.server()))
    stream = await server.connect()
    client = h2.connection.H2Connection()
    client.initiate_connection()
    await stream.send_all(client.data_to_send())
    events = client.receive_data(await helpers.read_all(stream))
    (end,) = [event for event in events if isinstance(event, h2.events.ConnectionTerminated)]
    assert (end.error_code, end.last_stream_id) == (ErrorCodes.INADEQUATE_SECURITY, 0)
    assert end.additional_data == b"this port speaks TLS: use https:"


async def test_tls_on_the_plain_port_is_told_so(start_server, files, caplog):
    caplog.set_level("INFO", "prism.server")
    server = await start_server()
    with pytest.raises(trio.BrokenResourceError) as failed:
        await connect(server, files.client())
    assert failed.value.__cause__.reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}
    assert "a client spoke TLS to the plain port" in caplog.text
    assert "broke HTTP/1.1" not in caplog.text


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00" + bytes(600), b""]
)
async def test_what_is_not_tls_ends_that_connection(
    start_server, files, helpers, server_errors, sent
):
    server = await start_server(tls=ServerTLS(*files.server()), header_timeout=1)
    stream = await server.connect()
    await stream.send_all(sent)
    await helpers.read_all(stream)
    await connect(server, files.client())
    assert server_errors() == []


async def test_handshakes_that_stall_do_not_hold_up_others(start_server, files):
    server = await start_server(tls=ServerTLS(*files.server()), tls_handshake_timeout=1000)
    for _ in range(100):
        stream = await server.connect()
        await stream.send_all(b"\x16\x03\x01")
    await connect(server, files.client())


async def test_slow_handshakes_lose_their_turns_to_others(start_server, files, monkeypatch):
    monkeypatch.setattr(handshakes, "TURN", 0.05)
    server = await start_server(
        tls=ServerTLS(*files.server()), max_concurrent_handshakes=2, tls_handshake_timeout=1000
    )
    for _ in range(10):
        stream = await server.connect()
        await stream.send_all(b"\x16\x03\x01")
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(connect, server, files.client())


async def test_a_client_that_gave_up_while_it_waited_costs_no_handshake(start_server, files):
    server = await start_server(tls=ServerTLS(*files.server()), max_concurrent_handshakes=1)
    first = await server.connect()
    await first.send_all(b"\x16\x03\x01")
    await trio.testing.wait_all_tasks_blocked(0.02)
    second = await server.connect()
    await second.send_all(b"\x16\x03\x01")
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert server.statistics.handshakes_waiting == 1
    await second.aclose()
    await first.aclose()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert (server.statistics.handshakes_waiting, server.statistics.handshakes_failed) == (0, 2)
    await connect(server, files.client())


async def test_a_new_certificate_serves_new_connections_and_old_ones_live_on(
    start_server, files, helpers
):
    tls = ServerTLS(*files.server())
    server = await start_server(tls=tls)
    context = files.client()
    old = await connect(server, context)
    before = old.getpeercert(binary_form=True)
    files.server()  # another one in the same files
    assert await tls.reload()
    assert (await connect(server, context)).getpeercert(binary_form=True) != before
    await old.send_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert (await helpers.read_all(old)).startswith(b"HTTP/1.1 200")


async def test_a_bad_certificate_leaves_the_old_one_in_service(start_server, files):
    cert, key = files.server()
    tls = ServerTLS(cert, key)
    server = await start_server(tls=tls)
    cert.write_text("not a certificate")
    assert not await tls.reload()
    await connect(server, files.client())
