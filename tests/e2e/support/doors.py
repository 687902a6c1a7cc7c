"""The data port as clients meet it: in clear text or over TLS, with each HTTP/2 codec, and on
hypercorn."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from prism_process import Proxy

CODECS = ["h2", "nghttp2"]
SERVERS = [*CODECS, "hypercorn"]
DOORS = ["cleartext", "tls"]
SQLITE = {"name": "demo", "backend": "sqlite"}


def open_door(
    start: Callable[..., Proxy],
    directory: Path,
    door: str,
    codec: str,
    namespaces: list[dict[str, Any]] | None = None,
    *,
    limits: Mapping[str, int] | None = None,
    web_origins: Sequence[str] = (),
    quiet: bool = False,
) -> Proxy:
    """A proxy on ``codec``, whose data port is ``door``; its CA is ``directory / "ca.pem"``.

    ``codec`` is one of Prism's server, or ``hypercorn``. ``quiet``: it logs errors alone.
    """
    assert codec in SERVERS
    config: dict[str, Any] = {"namespaces": namespaces or [SQLITE]}
    if quiet:
        config["log"] = {"level": "error"}
    listen: dict[str, Any] = {"limits": limits or {}, "web_origins": list(web_origins)}
    if door == "tls":
        certificate, key = issue_certificate(directory)
        listen["tls"] = {"cert": certificate, "key": key}
    config["listen"] = listen
    if codec == "hypercorn":
        listen["server"] = codec
        return start(config)
    return start(config, environment={"PRISM_HTTP2_CODEC": codec})


def issue_certificate(directory: Path) -> tuple[str, str]:
    """A certificate for this machine, and its key; the CA's is ``directory / "ca.pem"``."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(directory / "ca.pem"))
    issued = ca.issue_cert("127.0.0.1", "localhost")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    return str(certificate), str(key)


def program(name: str, package: str) -> str:
    """The path of a program that ``scripts/tools.sh`` installs or builds.

    Without it the test is skipped, or, in CI, fails.
    """
    built = Path(sys.prefix) / "tools" / name
    found = str(built) if built.exists() else shutil.which(name)
    if found is None:
        wanted = f"{name} is missing: run scripts/tools.sh, or install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(wanted)
        pytest.skip(wanted)
    return found
