import datetime
import ssl

import pytest
import trio
import trustme

from prism.streams import tcp
from prism.streams.errors import LaunchError
from prism.streams.tls import TLSFiles

PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def ca_file(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


async def dial(context, files, host="127.0.0.1"):
    """Dial a server with ``context`` (None: plain text); returns the first bytes read."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener, trio.open_nursery() as nursery:

        async def serve():
            stream = await listener.accept()
            try:
                if context is not None:
                    stream = trio.SSLStream(stream, context, server_side=True)
                await stream.send_all(b"hello")
                await stream.receive_some()
            except trio.BrokenResourceError:
                pass
            finally:
                await trio.aclose_forcefully(stream)

        nursery.start_soon(serve)
        try:
            stream = await tcp.dial(host, port, files)
            async with stream:
                return await stream.receive_some()
        finally:
            nursery.cancel_scope.cancel()


def server_context(authority, name="127.0.0.1", **options):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **options).configure_cert(context)
    return context


async def refusal(*args, **kwargs):
    """What the LaunchError says with which dialling fails."""
    with pytest.RaisesGroup(LaunchError) as caught:
        await dial(*args, **kwargs)
    return str(caught.value.exceptions[0])


async def test_tls(authority, ca_file):
    assert await dial(server_context(authority), TLSFiles(ca_cert=ca_file)) == b"hello"


async def test_the_name_may_be_stated(authority, ca_file):
    files = TLSFiles(ca_cert=ca_file, server_name="plugin.example.org")
    context = server_context(authority, "plugin.example.org")
    assert await dial(context, files) == b"hello"


async def test_an_expired_certificate(authority, ca_file):
    context = server_context(authority, not_before=PAST, not_after=PAST + datetime.timedelta(1))
    assert "expired" in await refusal(context, TLSFiles(ca_cert=ca_file))


async def test_another_name(authority, ca_file):
    context = server_context(authority, "other.example.org")
    assert "not valid for" in await refusal(context, TLSFiles(ca_cert=ca_file))


async def test_an_unknown_authority(ca_file):
    context = server_context(trustme.CA())
    assert "issuer" in await refusal(context, TLSFiles(ca_cert=ca_file))


async def test_a_server_without_tls(ca_file):
    assert "failed" in await refusal(None, TLSFiles(ca_cert=ca_file))


async def test_no_client_certificate_shows_at_the_latest_when_reading(authority, ca_file):
    context = server_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        received = await dial(context, TLSFiles(ca_cert=ca_file))
    except* (LaunchError, trio.BrokenResourceError):
        received = b""
    assert received == b""


async def test_plain_text_leaves_the_machine_never():
    with pytest.raises(LaunchError, match=r"refusing plain text to 192\.0\.2\.1:1"):
        await tcp.dial("192.0.2.1", 1, None)


async def test_plain_text_on_loopback():
    assert await dial(None, None) == b"hello"


async def test_nobody_listens():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(LaunchError, match=rf"127\.0\.0\.1:{port}: Connection refused"):
        await tcp.dial("127.0.0.1", port, None)


async def test_a_host_that_is_no_name(ca_file):
    with pytest.raises(LaunchError, match="cannot connect"):
        await tcp.dial("x" * 70 + ".example", 1, TLSFiles(ca_cert=ca_file))


@pytest.mark.parametrize("name", [".example", "a\0b"])
async def test_a_stated_name_that_is_no_name(authority, ca_file, name):
    files = TLSFiles(ca_cert=ca_file, server_name=name)
    assert "cannot be a server's name" in await refusal(server_context(authority), files)


async def test_files_that_cannot_be_used_are_told_before_anything_is_dialled():
    with pytest.raises(LaunchError, match="/nowhere: cannot be used for TLS: No such file"):
        await tcp.dial("192.0.2.1", 1, TLSFiles(ca_cert="/nowhere"))
