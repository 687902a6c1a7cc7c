"""The server's certificate, replaceable while connections are open.

``SSLContext.load_cert_chain`` with a bad file raises and also leaves the context
useless: every later handshake fails. So a new certificate always goes into a new
context, and the old one stays in place unless that succeeds.
"""

import ssl
from pathlib import Path
from typing import cast

from hypercorn.config import Config

from prism.contract.exceptions import ConfigError, ConfigProblem


class ServerTLS:
    """Certificate, key and the CA that clients must be signed by (``None``: no client
    certificates). All are paths of PEM files.

    Raises:
        ConfigError: a file cannot be read or does not fit; here and in ``replace``.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self.context = _build(certificate, key, client_ca)

    def replace(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """Use these files for connections accepted from now on. Old ones live on."""
        self.context = _build(certificate, key, client_ca)


def _build(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    config = Config()
    config.certfile, config.keyfile = str(certificate), str(key)
    if client_ca is not None:
        config.ca_certs = str(client_ca)
        config.verify_mode = ssl.VerifyMode.CERT_REQUIRED
    try:
        context = cast("ssl.SSLContext", config.create_ssl_context())
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(str(path) for path in (certificate, key, client_ca) if path is not None)
        reason = error.strerror or getattr(error, "reason", None) or type(error).__name__
        problem = ConfigProblem(files, 0, 0, "tls", f"cannot be used for TLS: {reason}")
        raise ConfigError([problem]) from error
    context.options |= ssl.OP_NO_RENEGOTIATION  # hypercorn's options drop Python's default
    return context
