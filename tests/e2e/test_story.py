"""The first minutes with Prism: serve, set, get, and the value is still there afterwards."""

import json
import re
import shlex
import signal

import pytest
import trustme

SET = {"key": "user:123", "value": {"name": "Ada"}}


def test_the_printed_curl_lines_work_as_printed(start_prism, curl):
    proxy = start_prism()
    assert "Prism serves 1 namespace on http://127.0.0.1:" in proxy.printed
    lines = re.findall(r"^ +curl (.+)$", proxy.printed, re.MULTILINE)
    assert len(lines) == 2
    first, second = (curl(*shlex.split(line)) for line in lines)
    assert json.loads(first) == {"stored": True}
    assert json.loads(second) == {"found": True, "value": {"name": "Ada"}, "version": "1"}
    assert (proxy.directory / "prism.db").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_values_survive_the_end_of_the_proxy(start_prism, number):
    proxy = start_prism()
    assert proxy.call("demo", "set", SET).json() == {"stored": True}
    assert proxy.stop(number) == (0 if number == signal.SIGTERM else -number)
    again = start_prism()
    assert again.call("demo", "get", {"key": "user:123"}).json() == {
        "found": True,
        "value": {"name": "Ada"},
        "version": "1",
    }


@pytest.fixture(scope="module")
def plain(start_shared_prism):
    return start_shared_prism()


@pytest.mark.parametrize(
    ("options", "version"),
    [
        (["--http1.1"], "1.1"),
        (["--http2-prior-knowledge"], "2"),
        (["--http1.0"], "1.1"),  # answered as a server of 1.1 does
    ],
)
def test_every_version_of_http(plain, curl, options, version):
    target = f"{plain.url}/v1/demo/"
    assert curl(*options, "-d", json.dumps(SET), target + "set") == '{"stored":true}'
    assert curl.version(*options, "-d", '{"key":"user:123"}', target + "get") == version


def test_a_client_that_asks_for_h2c_is_answered_over_http_1_1(plain, curl):
    assert curl.version("--http2", f"{plain.url}/v1/demo") == "1.1"
    posted = curl("--http2", "-d", json.dumps(SET), f"{plain.url}/v1/demo/set")
    assert posted == '{"stored":true}'


@pytest.fixture(scope="module")
def secure(start_shared_prism, tmp_path_factory):
    files = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(files / "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(str(files / "cert.pem"))
    issued.private_key_pem.write_to_path(str(files / "key.pem"))
    proxy = start_shared_prism(
        {
            "listen": {"tls": {"cert": str(files / "cert.pem"), "key": str(files / "key.pem")}},
            "namespaces": [{"name": "demo", "backend": "sqlite", "config": {"path": ":memory:"}}],
        }
    )
    return proxy, ["--cacert", str(files / "ca.pem")]


@pytest.mark.parametrize(("options", "version"), [(["--http2"], "2"), (["--http1.1"], "1.1")])
def test_tls_settles_the_version(secure, curl, options, version):
    proxy, trust = secure
    assert proxy.url.startswith("https://")
    assert curl.version(*trust, *options, f"{proxy.url}/v1/demo") == version
    arguments = [*trust, *options, "-d", json.dumps(SET), f"{proxy.url}/v1/demo/set"]
    assert curl(*arguments) == '{"stored":true}'


def test_plain_text_to_a_tls_port_ends_that_connection_only(secure, curl):
    proxy, trust = secure
    plain = proxy.url.replace("https:", "http:")
    assert "TLS" in curl(f"{plain}/v1")
    assert curl.version(*trust, f"{proxy.url}/v1") == "2"
