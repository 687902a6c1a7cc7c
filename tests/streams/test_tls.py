import datetime
import logging
import os
import re
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from traceback import walk_stack

import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from prism.streams.errors import TLSFilesError
from prism.streams.tls import (
    ServerTLS,
    TLSFiles,
    _load,
    client_context,
    load_client_context,
    server_problems,
    use_revocation_lists,
)


class Files:
    """An authority, and the PEM files of a certificate it issued."""

    def __init__(self, directory: Path) -> None:
        self.authority = trustme.CA()
        self.ca, self.cert, self.key = (directory / name for name in ("ca", "cert", "key"))
        self.authority.cert_pem.write_to_path(self.ca)
        self.issue()

    def issue(self, not_after: datetime.datetime | None = None) -> None:
        issued = self.authority.issue_cert("localhost", not_after=not_after)
        self.cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())

    def encrypt_key(self, form: PrivateFormat = PrivateFormat.PKCS8) -> None:
        key = load_pem_private_key(self.key.read_bytes(), None)
        protected = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))
        self.key.write_bytes(protected)

    def server(self) -> ServerTLS:
        return ServerTLS(self.cert, self.key)

    def client(self, **changes: str) -> ssl.SSLContext:
        return load_client_context(TLSFiles(ca_cert=str(self.ca), **changes))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def agree(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """The client's side after a handshake; raises what either side raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    while waiting:
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    return ends[0]


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_both_versions_of_http_are_agreed_on(files: Files, protocol: str) -> None:
    client = files.client()
    client.set_alpn_protocols([protocol])
    agreed = agree(files.server().context, client)
    assert (agreed.selected_alpn_protocol(), agreed.version()) == (protocol, "TLSv1.3")


@pytest.mark.parametrize(
    "cipher",
    [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ],
)
def test_a_client_of_tls_1_2_chooses_among_good_ciphers(files: Files, cipher: str) -> None:
    client = files.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    others = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256"
    client.set_ciphers(f"{cipher}:{others}")
    agreed = agree(files.server().context, client)
    assert agreed.version() == "TLSv1.2"
    assert agreed.cipher()[0] == cipher


@pytest.mark.parametrize(
    "cipher", ["ECDHE-ECDSA-AES128-SHA256", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-SHA"]
)
def test_without_forward_secrecy_or_authenticated_encryption_there_is_no_agreement(
    files: Files, cipher: str
) -> None:
    client = files.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(cipher)
    with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
        agree(files.server().context, client)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_are_refused_on_both_sides(files: Files) -> None:
    old = files.client()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="PROTOCOL"):
        agree(files.server().context, old)
    assert files.client().minimum_version == ssl.TLSVersion.TLSv1_2


def test_nothing_is_negotiated_twice(files: Files) -> None:
    assert files.server().context.options & ssl.OP_NO_RENEGOTIATION
    assert files.server().context.options & ssl.OP_NO_COMPRESSION


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(
    files: Files, form: PrivateFormat
) -> None:
    files.encrypt_key(form)
    with pytest.raises(TLSFilesError, match=f"^{files.key}: .*protected by a passphrase"):
        files.server()
    with pytest.raises(TLSFilesError, match=f"^{files.key}: .*protected by a passphrase"):
        files.client(cert=str(files.cert), key=str(files.key))
    both = files.cert.read_bytes() + files.key.read_bytes()
    files.cert.write_bytes(both)
    with pytest.raises(TLSFilesError, match=f"^{files.cert}: .*protected by a passphrase"):
        files.client(cert=str(files.cert))


async def test_reading_the_files_again_counts_and_never_raises(files: Files) -> None:
    tls = files.server()
    first = tls.certificate
    files.issue()
    assert await tls.reload()
    assert tls.certificate != first
    context, second = tls.context, tls.certificate
    files.encrypt_key()
    assert not await tls.reload()
    files.cert.write_text("not a certificate")
    assert not await tls.reload()
    assert (tls.context, tls.certificate) == (context, second)
    assert (tls.reloads, tls.failed_reloads) == (3, 2)


async def test_a_file_that_cannot_be_read_now_holds_up_nobody(files: Files) -> None:
    tls = files.server()
    context = tls.context
    files.cert.unlink()
    os.mkfifo(files.cert)  # to open it waits for somebody who writes
    with trio.move_on_after(0.05) as waiting:
        await tls.reload()
    assert waiting.cancelled_caught
    assert tls.context is context
    with trio.move_on_after(0.05) as waiting:
        await client_context(TLSFiles(ca_cert=str(files.cert)))
    assert waiting.cancelled_caught
    # Let both threads end: who waits may open it, and who comes to open it again finds none.
    os.close(os.open(files.cert.rename(files.cert.with_name("moved")), os.O_RDWR))
    with trio.fail_after(60):
        while at_work(_load, load_client_context):  # noqa: ASYNC110 - they tell nobody
            await trio.sleep(0.01)


def at_work(*functions: Callable[..., object]) -> bool:
    """Is any thread in one of these functions?"""
    codes = {function.__code__ for function in functions}
    frames = sys._current_frames().values()
    return any(frame.f_code in codes for top in frames for frame, _ in walk_stack(top))


@pytest.mark.parametrize("name", ["cert", "key", "ca"])
def test_a_file_that_is_missing_or_something_else_is_named(files: Files, name: str) -> None:
    file = getattr(files, name)
    file.write_text("not PEM")
    with pytest.raises(TLSFilesError, match=f"{file}.*expected .* in PEM"):
        ServerTLS(files.cert, files.key, files.ca)
    file.unlink()
    with pytest.raises(TLSFilesError, match=f"^{file}: cannot be used for TLS: No such file"):
        ServerTLS(files.cert, files.key, files.ca)
    file.mkdir()
    with pytest.raises(TLSFilesError, match=f"^{file}: cannot be used for TLS: Is a directory"):
        files.client(cert=str(files.cert), key=str(files.key))


def test_a_key_of_another_certificate(files: Files, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Files(tmp_path / "other")
    with pytest.raises(TLSFilesError, match=f"{files.cert}, {other.key}: .* not the certificate's"):
        ServerTLS(files.cert, other.key)


@pytest.mark.parametrize(
    ("days", "level"), [(-1, logging.ERROR), (3, logging.WARNING), (60, logging.INFO)]
)
def test_the_end_of_the_certificate_is_logged(
    files: Files, caplog: pytest.LogCaptureFixture, days: int, level: int
) -> None:
    caplog.set_level(logging.INFO, "prism.server")
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days, minutes=1)
    files.issue(not_after=end)
    files.server()
    [record] = [record for record in caplog.records if "certificate" in record.getMessage()]
    assert record.levelno == level
    said = record.getMessage()
    assert f"{end:%Y-%m-%d}" in said
    assert said.startswith(f"the certificate in {files.cert} (")
    assert "for localhost" in said


async def test_a_certificate_that_is_good_stays_against_one_that_has_expired(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    tls = files.server()
    context, certificate = tls.context, tls.certificate
    files.issue(not_after=past)
    assert not await tls.reload()
    assert (tls.context, tls.certificate) == (context, certificate)
    assert (tls.reloads, tls.failed_reloads) == (1, 1)
    assert "the certificate in use stays, which is good until " in caplog.text
    assert re.search(f": the one in {files.cert} .* expired at 2020-01-01", caplog.text)
    expired = files.server()  # of two that have expired, the newer
    files.issue(not_after=past + datetime.timedelta(days=1))
    assert await expired.reload()


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o640, 0), (0o644, 1)])
def test_a_key_that_any_user_may_read_draws_a_warning(
    files: Files, caplog: pytest.LogCaptureFixture, mode: int, warned: int
) -> None:
    files.key.chmod(mode)
    files.server()
    assert caplog.text.count(f"any user may read the private key {files.key}") == warned


def test_files_that_any_user_may_change_are_refused(files: Files) -> None:
    why = "any user may change it (mode 0646); chmod it to 0600"
    for file in (files.cert, files.key):
        mode = file.stat().st_mode
        file.chmod(0o646)
        with pytest.raises(TLSFilesError, match=re.escape(why)):
            files.server()
        assert dict(server_problems(files.cert, files.key, None))[file] == why
        file.chmod(mode)
    authority = files.cert.with_name("authority.pem")
    authority.write_bytes(files.cert.read_bytes())
    load_client_context(TLSFiles(str(authority)))
    authority.chmod(0o646)
    with pytest.raises(TLSFilesError, match=re.escape(why)):
        load_client_context(TLSFiles(str(authority)))
    with pytest.raises(TLSFilesError, match=re.escape(why)):
        use_revocation_lists(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), authority)


def test_every_file_of_a_server_that_does_not_fit_is_named(files: Files) -> None:
    def problems(client_ca: Path | None = None) -> dict[Path, str]:
        return dict(server_problems(files.cert, files.key, client_ca))

    assert problems(files.cert) == {}
    none = files.cert.with_name("none.pem")
    assert problems(none) == {none: "No such file or directory"}
    files.issue(not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    assert "expired at 2020-01-01" in problems()[files.cert]
    good = files.cert.read_bytes()
    files.cert.write_text("no certificate")
    assert problems() == {files.cert: "expected a certificate in PEM"}
    files.cert.write_bytes(good)
    files.key.write_text("no key")
    assert "expected a certificate and its key in PEM" in problems()[files.key]
    files.key.unlink()
    files.cert.unlink()
    missing = "No such file or directory"
    assert problems(none) == dict.fromkeys((files.cert, files.key, none), missing)


@pytest.mark.parametrize("serial", [1, 0x80, 0xABC, 2**150 + 1])
def test_the_serial_number_is_written_as_openssl_does(files: Files, serial: int) -> None:
    """In whole bytes; and the first certificate of the file is the server's own."""
    key = load_pem_private_key(files.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial)
    end = datetime.datetime(2099, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    dated = builder.not_valid_before(end - datetime.timedelta(1)).not_valid_after(end)
    chain = files.cert.read_bytes()
    signed = dated.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    files.cert.write_bytes(signed + chain)
    found = files.server().certificate
    assert found is not None
    assert int(found.serial, 16) == serial
    assert len(found.serial) % 2 == 0
    assert found.expires == end.timestamp()


def test_a_certificate_that_only_openssl_reads_serves(tmp_path):
    """With an address of X.400 among its names."""
    x400 = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("2.5.29.17"), bytes.fromhex("3007a30530030c0161")
    )
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name, end = x509.Name([]), now + datetime.timedelta(days=30)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, end, [])
    made = made.add_extension(x400, critical=False).sign(key, hashes.SHA256())
    file = tmp_path / "server.pem"
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(made.public_bytes(Encoding.PEM) + plain)
    assert ServerTLS(file, file).certificate.names == ()
