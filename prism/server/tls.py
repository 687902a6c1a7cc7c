"""The server's certificate, replaceable while connections are open.

``SSLContext.load_cert_chain`` with a bad file raises and also leaves the context
useless: every later handshake fails. So a new certificate always goes into a new
context, and the old one stays in place unless that succeeds.
"""

import logging
import re
import ssl
import time
from pathlib import Path
from typing import cast

from hypercorn.config import Config

from prism.config.errors import ConfigError, ConfigProblem
from prism.server.certificate import Certificate, read_certificate

logger = logging.getLogger("prism.server")

EXPIRES_SOON = 7 * 86_400
"""Seconds before the end from which the log warns: whatever renews certificates should
have done so by then (ACME clients renew 30 days before the end)."""

_DAY = 86_400
_FIRST_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class ServerTLS:
    """Certificate, key and the CA that clients must be signed by (``None``: no client
    certificates). All are paths of PEM files.

    ``reloads`` and ``failed_reloads`` count calls of ``reload``.

    Raises:
        ConfigError: a file cannot be read or does not fit; here and in ``replace``.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self.reloads = self.failed_reloads = 0
        self.replace(certificate, key, client_ca)

    def replace(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """Use these files for connections accepted from now on. Old ones live on."""
        context = _build(certificate, key, client_ca)
        # Only now: what could not be used must leave no trace.
        self.context = context
        self.certificate: Certificate | None = _read(certificate)
        self._files = (certificate, key, client_ca)
        self._log()

    def reload(self) -> bool:
        """Read the same files again. If they cannot be used, say why and keep what is in use."""
        self.reloads += 1
        try:
            self.replace(*self._files)
        except ConfigError as error:
            self.failed_reloads += 1
            logger.error("the certificate in use stays: %s", error)
            return False
        return True

    def _log(self) -> None:
        if self.certificate is None:
            return
        left = self.certificate.expires - time.time()
        date = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.certificate.expires))
        if left <= 0:
            logger.error("the certificate %s expired at %s", self.certificate.serial, date)
        else:
            level = logging.WARNING if left < EXPIRES_SOON else logging.INFO
            days = int(left // _DAY)
            message = "the certificate %s is good until %s, %d days from now"
            logger.log(level, message, self.certificate.serial, date, days)


def _read(file: Path) -> Certificate | None:
    """What the file's first certificate says; ``None`` if only OpenSSL understands it."""
    found = _FIRST_PEM.search(file.read_bytes())
    if found is None:
        return None
    try:
        return read_certificate(ssl.PEM_cert_to_DER_cert(found[0].decode("ascii")))
    except ValueError:
        return None


def _build(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    files = [path for path in (certificate, key, client_ca) if path is not None]
    for path in files:
        try:
            path.open("rb").close()
        except OSError as error:
            raise _unusable(str(path), error) from error
    config = Config()
    config.certfile, config.keyfile = str(certificate), str(key)
    if client_ca is not None:
        config.ca_certs = str(client_ca)
        config.verify_mode = ssl.VerifyMode.CERT_REQUIRED
    try:
        context = cast("ssl.SSLContext", config.create_ssl_context())
    except OSError as error:  # ssl.SSLError is one
        raise _unusable(", ".join(map(str, files)), error) from error
    context.options |= ssl.OP_NO_RENEGOTIATION  # hypercorn's options drop Python's default
    return context


def _unusable(files: str, error: OSError) -> ConfigError:
    reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
    problem = ConfigProblem(files, 0, 0, "tls", f"cannot be used for TLS: {reason}")
    return ConfigError([problem])
