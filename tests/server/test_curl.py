"""The client most people begin with."""

import shutil
import subprocess

import pytest
import trio
import trustme

from prism.streams.tls import ServerTLS

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


async def curl(*arguments: str) -> str:
    command = ["curl", "-sS", "-m", "60", "-w", " HTTP/%{http_version} %{http_code}", *arguments]
    done = await trio.run_process(
        command, capture_stdout=True, stderr=subprocess.STDOUT, check=False
    )
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("options", "version"),
    [
        ([], "1.1"),
        (["--http1.0"], "1.0"),  # curl shows what the server answers with: see below
        (["--http2"], "1.1"),  # its Upgrade to h2c is ignored
        (["--http2-prior-knowledge"], "2"),
    ],
)
async def test_a_get(start_server, helpers, options, version):
    async def app(scope, receive, send):
        assert scope["http_version"] == version
        await helpers.respond(send, 200, b"hello")

    server = await start_server(app)
    answer = await curl(*options, f"{server.address}/x")
    # RFC 9112, 2.3: a server answers HTTP/1.0 with its own highest minor version
    assert answer == f"hello HTTP/{'1.1' if version == '1.0' else version} 200"


@pytest.mark.parametrize("options", [["--http1.1"], ["--http2"], ["--http2-prior-knowledge"]])
async def test_a_post(start_server, options):
    server = await start_server()
    answer = await curl(*options, "-d", "x" * 3000, f"{server.address}/")
    assert answer.startswith("x" * 3000 + " ")
    assert answer.endswith(" 200")


@pytest.mark.parametrize("options", [["--http1.1"], ["--http2-prior-knowledge"]])
async def test_a_413_before_the_body_is_read(start_server, helpers, options, tmp_path):
    async def app(scope, receive, send):
        await helpers.respond(send, 413, b"too large")

    server = await start_server(app)
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(3_000_000))
    answer = await curl(
        *options, "-H", "expect:", "--data-binary", f"@{upload}", f"{server.address}/"
    )
    assert answer.startswith("too large ")
    assert answer.endswith(" 413")


@pytest.mark.parametrize(("option", "version"), [("--http1.1", "1.1"), ("--http2", "2")])
async def test_alpn_chooses_the_protocol(start_server, tmp_path, option, version):
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    ca_file, cert, key = tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    server = await start_server(tls=ServerTLS(cert, key))
    answer = await curl(option, "--cacert", str(ca_file), "-d", "hello", f"{server.address}/")
    assert answer == f"hello HTTP/{version} 200"
