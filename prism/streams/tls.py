"""TLS at both ends, and the PEM files it is made of.

A server's certificate can be replaced while connections are open. ``load_cert_chain`` with a
bad file raises and also leaves the context useless: every later handshake fails. So files
always go into a new context, and the old one stays in place unless that succeeds.

Functions that read files block; the event loop has them run in a worker thread. None asks for
a passphrase: OpenSSL would do so on the terminal, of which a proxy often has none, and where it
has one would stand still until somebody types.
"""

import logging
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from prism.contract.files import PEMFile, exposed_key, unfit_pem
from prism.streams.errors import LaunchError, TLSFilesError

if TYPE_CHECKING:
    from cryptography import x509

logger = logging.getLogger("prism.server")

MINIMUM_VERSION = ssl.TLSVersion.TLSv1_2
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2, which lets the server choose: forward secrecy and authenticated encryption, as
HTTP/2 demands (RFC 9113, 9.2.2). TLS 1.3 has no others."""
ALPN = ("h2", "http/1.1")

EXPIRES_SOON = 7 * 86_400
"""Seconds before the end from which the log warns: whatever renews certificates should
have done so by then (ACME clients renew 30 days before the end)."""

_DAY = 86_400


class Certificate(NamedTuple):
    """``serial`` is hexadecimal, as openssl prints it; ``expires`` is Unix time; ``subject`` is as
    in RFC 4514, ``names`` are the hosts and addresses that it is for."""

    serial: str
    expires: float
    subject: str = ""
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = f" for {', '.join(self.names)}" if self.names else ""
        return f"{self.subject or 'no subject'}{names}"

    def ending(self) -> str:
        """When it expires or has expired, in words."""
        date = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.expires))
        left = self.expires - time.time()
        if left <= 0:
            return f"expired at {date}"
        return f"is good until {date}, {int(left // _DAY)} days from now"


class _Identity(NamedTuple):
    """What a server shows; ``certificate`` is ``None`` if only OpenSSL understands it."""

    context: ssl.SSLContext
    certificate: Certificate | None


class ServerTLS:
    """A server's certificate and key, and the CA that clients must be signed by (``None``: no
    client certificates). All are paths of PEM files. Clients need not present a certificate
    unless they ``must_present`` one; those in ``client_crl`` are refused. ``context`` is for new
    connections.

    ``reloads`` counts calls of ``reload`` that have ended, ``failed_reloads`` those of no use.

    Raises:
        TLSFilesError: a file cannot be read or does not fit.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_ca: Path | None = None,
        must_present: bool = True,
        client_crl: Path | None = None,
    ) -> None:
        self.reloads = self.failed_reloads = 0
        self._files = (certificate, key, client_ca)
        self._clients = (must_present, client_crl)
        self.context, self.certificate = _load(*self._files, *self._clients)
        self._log()

    async def reload(self) -> bool:
        """Read the same files again; connections that are open keep what they have.

        If the files cannot be used, or their certificate has expired and the one in use has
        not, say why in the log and keep what is in use. So does cancelling.
        """
        try:
            loaded = await trio.to_thread.run_sync(
                _load, *self._files, *self._clients, abandon_on_cancel=True
            )
        except TLSFilesError as error:
            self.reloads += 1
            self.failed_reloads += 1
            logger.error("the certificate in use stays: %s", error)
            return False
        self.reloads += 1
        found, used, now = loaded.certificate, self.certificate, time.time()
        if found is not None and used is not None and found.expires <= now < used.expires:
            self.failed_reloads += 1
            logger.error(
                "the certificate in use stays, which %s: the one in %s (%s) %s",
                used.ending(),
                self._files[0],
                found,
                found.ending(),
            )
            return False
        self.context, self.certificate = loaded
        self._log()
        return True

    def _log(self) -> None:
        if self.certificate is None:
            return
        left = self.certificate.expires - time.time()
        level = logging.WARNING if left < EXPIRES_SOON else logging.INFO
        logger.log(
            logging.ERROR if left <= 0 else level,
            "the certificate in %s (%s) %s",
            self._files[0],
            self.certificate,
            self.certificate.ending(),
        )


def _load(
    certificate: Path,
    key: Path,
    client_ca: Path | None,
    must_present: bool,
    client_crl: Path | None,
) -> _Identity:
    context = _context(ssl.Purpose.CLIENT_AUTH, client_ca)
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(ALPN)
    context.options |= ssl.OP_NO_RENEGOTIATION
    # All that is offered is good, and a client knows which its hardware does fast.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _present(context, certificate, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED if must_present else ssl.CERT_OPTIONAL
    if client_crl is not None:
        use_revocation_lists(context, client_crl)
    if exposed := exposed_key(key):
        logger.warning("%s", exposed)
    return _Identity(context, _described(certificate))


def _described(file: Path) -> Certificate | None:
    """What the file's first certificate says."""
    from cryptography import x509  # here: it costs 10 MB, which is for proxies with TLS alone

    try:
        [found, *_] = x509.load_pem_x509_certificates(file.read_bytes())
        return Certificate(
            serial_text(found.serial_number),
            found.not_valid_after_utc.timestamp(),
            found.subject.rfc4514_string(),
            _names(found),
        )
    except (OSError, ValueError, x509.InvalidVersion):
        return None


def serial_text(number: int) -> str:
    """A certificate's serial number, as openssl prints it."""
    digits = f"{number:X}"
    return digits.zfill(len(digits) + len(digits) % 2)


def _names(certificate: "x509.Certificate") -> tuple[str, ...]:
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.UnsupportedGeneralNameType,
        ValueError,
    ):
        return ()
    hosts = extension.value.get_values_for_type(x509.DNSName)
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return (*hosts, *map(str, addresses))


def use_revocation_lists(context: ssl.SSLContext, file: Path) -> None:
    """Have ``context`` refuse the certificates in ``file``, revocation lists in PEM; blocks.

    Raises:
        TLSFilesError: it cannot be used.
    """
    _check_file(file)
    try:
        context.load_verify_locations(file)
    except OSError as error:
        raise TLSFilesError(file, _reason(error, "revocation lists")) from error
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def server_problems(
    certificate: Path, key: Path, client_ca: Path | None
) -> Iterator[tuple[Path, str]]:
    """What is wrong with a server's files, each with its file; blocks.

    More than ``ServerTLS`` refuses: a certificate that has expired, too.
    """
    files = [certificate, key] if client_ca is None else [certificate, key, client_ca]
    unusable = set()
    for file in files:
        try:
            _check_file(file)
        except TLSFilesError as error:
            unusable.add(file)
            yield file, error.why
    if client_ca is not None and client_ca not in unusable:
        try:
            _context(ssl.Purpose.CLIENT_AUTH, client_ca)
        except TLSFilesError as error:
            yield client_ca, error.why
    if unusable & {certificate, key}:
        return
    found = _described(certificate)
    if found is None:
        yield certificate, "expected a certificate in PEM"
        return
    try:
        _present(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key)
    except TLSFilesError as error:
        yield key, error.why
    if found.expires <= time.time():
        yield certificate, f"the certificate ({found}) {found.ending()}"


@dataclass(frozen=True)
class TLSFiles:
    """The files of a TLS client, all PEM. Without ``ca_cert`` the system's CAs count, without
    ``key`` it stands in ``cert``."""

    ca_cert: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None


async def client_context(files: TLSFiles, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """A context that verifies the server, and shows our certificate where there is one.

    ``protocols`` are offered by ALPN. To load the system's CAs alone is tens of milliseconds of
    work, which a worker thread does.

    Raises:
        TLSFilesError: a file is missing or not what it should be.
    """
    context = await trio.to_thread.run_sync(load_client_context, files, abandon_on_cancel=True)
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def load_client_context(files: TLSFiles) -> ssl.SSLContext:
    """``client_context`` for programs without an event loop; blocks."""
    context = _context(ssl.Purpose.SERVER_AUTH, files.ca_cert)
    if files.cert is not None:
        _present(context, files.cert, files.key)
    return context


async def shake_hands(
    stream: trio.SocketStream, context: ssl.SSLContext, name: str, where: str
) -> trio.SSLStream[trio.SocketStream]:
    """Agree with a server on TLS, and verify that ``name`` is in its certificate.

    ``where`` is the server, for messages. If this raises or is cancelled, ``stream`` is closed.

    Raises:
        LaunchError: it is not who it should be, or speaks no TLS.
    """
    try:
        # Frames carry their length, so a cut connection shows without TLS's own end.
        secure = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
        await secure.do_handshake()
    except BaseException as error:
        await trio.aclose_forcefully(stream)
        if isinstance(error, trio.BrokenResourceError):
            cause = error.__cause__ or error
            detail = getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or cause
            raise LaunchError(f"TLS with {where} failed: {detail}") from None
        if isinstance(error, ValueError | TypeError):
            raise LaunchError(
                f"TLS with {where}: {name!r} cannot be a server's name: {error}"
            ) from None
        raise
    return secure


def _context(purpose: ssl.Purpose, authorities: PEMFile | None) -> ssl.SSLContext:
    """A context that trusts ``authorities``; a client's without them trusts the system's.

    Raises:
        TLSFilesError: they cannot be used.
    """
    if authorities is not None:
        _check_file(authorities)
    try:
        context = ssl.create_default_context(purpose, cafile=authorities)
    except OSError as error:  # ssl.SSLError is one
        why = _reason(error, "certificates of authorities")
        raise TLSFilesError(authorities or "the system's authorities", why) from error
    context.minimum_version = MINIMUM_VERSION
    return context


def _present(context: ssl.SSLContext, certificate: PEMFile, key: PEMFile | None) -> None:
    """Have ``context`` show this certificate.

    Raises:
        TLSFilesError: the files cannot be used.
    """

    def refuse() -> str:
        raise TLSFilesError(
            key or certificate,
            "the key is protected by a passphrase, for which nobody is asked; use one without "
            "(openssl pkey -in FILE -out NEW)",
        )

    _check_file(certificate)
    if key is not None:
        _check_file(key)
    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except OSError as error:
        files = certificate if key is None else f"{certificate}, {key}"
        raise TLSFilesError(files, _reason(error, "a certificate and its key")) from error


def _check_file(file: PEMFile) -> None:
    if why := unfit_pem(file):
        raise TLSFilesError(file, why)


def _reason(error: OSError, wanted: str) -> str:
    if not isinstance(error, ssl.SSLError):
        return error.strerror or type(error).__name__
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    return f"expected {wanted} in PEM" + (f" ({error.reason})" if error.reason else "")
