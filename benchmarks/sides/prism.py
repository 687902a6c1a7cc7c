"""Prism: its HTTP server alone, and ``prism serve`` with generated configurations."""

import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trustme
import yaml

from benchmarks.lineup import Unavailable
from benchmarks.load.target import Target
from benchmarks.processes import ROOT, children, module, server

NGHTTP2, H2 = "nghttp2", "h2"
CODECS = (NGHTTP2, H2)
"""The HTTP/2 codecs, fastest first."""
Namespace = dict[str, Any]

WAYS = LOCAL, SPAWN, REMOTE = "in-process", "spawned", "mTLS"
"""How the proxy reaches a plugin."""
ECHO_PLUGIN = "sides.echo_plugin"
IN_PROCESS = {"type": "in_process", "module": "benchmarks.sides.echo_plugin:Echo"}
SPAWNED = {
    "type": "sidecar",
    "command": module(ECHO_PLUGIN, "trio", "msgpack"),
    "working_directory": str(ROOT),
}
LARGEST_BODY = 16 * 1024 * 1024
COMPILED = ROOT / "build" / "compiled" / "site"
"""Where ``make bench`` puts the Prism whose calls mypyc has compiled."""


def side_name(what: str, codec: str, *, compiled: bool = False) -> str:
    """How the tables call Prism with that codec, doing ``what``."""
    name = f"Prism, {what}, {codec}" if what else f"Prism, {codec}"
    return f"{name}, compiled" if compiled else name


def codec_environment(codec: str) -> dict[str, str]:
    """The environment that makes a proxy use ``codec``.

    Raises:
        Unavailable: it is not there.
    """
    if importlib.util.find_spec("prism.server.http2.implementation") is None:
        if codec == H2:
            return {}
        raise Unavailable("not part of this version")
    implementation = importlib.import_module("prism.server.http2.implementation")
    try:
        implementation.choose(codec)
    except implementation.CodecUnavailable as error:
        raise Unavailable(error.reason) from None
    return {implementation.CODEC_VARIABLE: codec}


def compiled_environment() -> dict[str, str]:
    """The environment that makes a proxy run as compiled.

    Raises:
        Unavailable: it was not built.
    """
    if not (COMPILED / ".built").exists():
        raise Unavailable("not built; make bench does")
    return {"PYTHONPATH": f"{COMPILED}:{ROOT}", "PYTHONSAFEPATH": "1"}


def fastest_codec() -> str:
    """The first of ``CODECS`` that is there."""
    for codec in CODECS:
        with suppress(Unavailable):
            codec_environment(codec)
            return codec
    raise AssertionError("h2 is always there")


@contextmanager
def constant(codec: str) -> Iterator[Target]:
    """Prism's HTTP server with the constant application."""
    environment = codec_environment(codec)
    with server(module("sides.prism_constant"), "(http:.*)", environment=environment) as (pid, url):
        yield Target(url, [pid])


@contextmanager
def prism(
    folder: Path,
    namespaces: Sequence[Namespace],
    codec: str,
    settings: Mapping[str, Any] | None = None,
    *,
    compiled: bool = False,
) -> Iterator[tuple[int, str]]:
    """A running proxy: its pid and URL. ``folder`` gets its configuration.

    Raises:
        Unavailable: ``codec`` is not there, or nothing is ``compiled``.
    """
    environment = codec_environment(codec) | (compiled_environment() if compiled else {})
    file = folder / f"prism-{codec}.yaml"
    file.write_text(yaml.safe_dump({"namespaces": list(namespaces), **(settings or {})}))
    command = [sys.executable, "-m", "prism", "serve", "--config", str(file)]
    with server(
        [*command, "--port", "0", "--admin-port", "0"],
        r"Prism serves \d+ namespaces? on (http:\S+)",  # all of them are ready then
        environment=environment,
    ) as up:
        yield up


@contextmanager
def echoes(
    codec: str, *, compiled: bool = False, settings: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Target]]:
    """One proxy with the echo plugin reached in ``WAYS``: a side for each way."""
    name_of = partial(side_name, codec=codec, compiled=compiled)
    with (
        tempfile.TemporaryDirectory() as name,
        remote_echo(Path(name)) as (remote_pid, remote),
        prism(
            Path(name),
            [echo("local", IN_PROCESS), echo("spawned", SPAWNED), echo("remote", remote)],
            codec,
            settings,
            compiled=compiled,
        ) as (pid, url),
    ):
        (spawned_pid,) = children(pid, ECHO_PLUGIN)
        yield {
            name_of(LOCAL): Target(f"{url}/v1/local/echo", [pid]),
            name_of(SPAWN): Target(f"{url}/v1/spawned/echo", [pid], [spawned_pid]),
            name_of(REMOTE): Target(f"{url}/v1/remote/echo", [pid], [remote_pid]),
        }


def echo(name: str, plugin: dict[str, Any]) -> Namespace:
    """A namespace with the echo plugin, run as ``plugin`` says."""
    limits = {"max_payload_bytes": LARGEST_BODY}
    return {"name": name, "backend": "echo", "plugin": plugin, "limits": limits}


def sqlite(name: str, file: Path) -> Namespace:
    """A namespace on SQLite."""
    return {"name": name, "backend": "sqlite", "config": {"path": str(file)}}


@contextmanager
def remote_echo(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """An echo plugin that listens on TCP with mutual TLS: its pid, and how to reach it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    files = {}
    for who in ("plugin", "proxy"):
        identity = authority.issue_cert("localhost")
        files[who] = str(folder / f"{who}.pem"), str(folder / f"{who}.key")
        identity.cert_chain_pems[0].write_to_path(files[who][0])
        identity.private_key_pem.write_to_path(files[who][1])
    command = [
        *module(ECHO_PLUGIN, "trio", "msgpack", "--listen", "tcp:127.0.0.1:0"),
        *("--tls-cert", files["plugin"][0], "--tls-key", files["plugin"][1]),
        *("--tls-client-ca", str(folder / "ca.pem")),
    ]
    with server(command, r"listening on tcp:127\.0\.0\.1:(\d+)", log=True) as (pid, port):
        tls = {
            "ca_cert": str(folder / "ca.pem"),
            "cert": files["proxy"][0],
            "key": files["proxy"][1],
        }
        yield pid, {"type": "remote", "endpoint": f"localhost:{port}", "tls": tls}
