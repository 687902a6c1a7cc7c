"""`prism call` against a real proxy, with its output in a pipe and on a terminal."""

import json
import os
import pty
import subprocess
import sys

import pytest

ENTRY = '{"key":"a","value":{"b":1}}'


@pytest.fixture(scope="module")
def proxy(start_shared_prism):
    memory = {"name": "kv", "backend": "sqlite", "config": {"path": ":memory:"}}
    waiting = {"type": "in_process", "module": "waiting_plugin:Waiting"}
    namespaces = [memory, {"name": "waiting", "backend": "waiting", "plugin": waiting}]
    return start_shared_prism({"namespaces": namespaces})


@pytest.fixture
def call(proxy):
    """`prism call` in a process; returns status, standard output and standard error."""

    def run(*arguments, stdin="", url=proxy.url, **options):
        done = subprocess.run(
            [sys.executable, "-m", "prism", "call", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PRISM_URL": url},
            **options,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


def test_parameters_as_an_argument_and_from_standard_input(call):
    assert call("kv", "set", ENTRY) == (0, '{"stored":true}\n', "")
    found = '{"found":true,"value":{"b":1},"version":"1"}\n'
    assert call("kv", "get", "-", stdin='{"key":"a"}') == (0, found, "")


def test_what_is_no_utf8_is_the_proxys_to_explain(call):
    status, output, said = call("kv", "get", b'{"key":"\xff"}')
    assert (status, output) == (1, "")
    assert "the body is not UTF-8: invalid start byte at byte 8" in said
    status, _, said = call("kv", "get", "-", stdin="\udcff", errors="surrogateescape")
    assert (status, "the body is not UTF-8" in said) == (1, True)


def test_errors_go_to_standard_error(call):
    status, output, said = call("kv", "get", '{"ky":"a"}')
    assert (status, output) == (1, "")
    assert said.startswith("prism: INVALID_ARGUMENT: ")
    assert "ky" in said
    assert call("kv", "get", '{"a": NaN}')[0] == 1  # which Python takes for JSON
    status, output, said = call("kv", "get", "{")
    assert (status, output) == (2, "")
    assert "the parameters are not JSON: Expecting property name" in said
    assert "unknown" not in call("nosuch", "get")[2]


def test_the_deadline(call):
    status, _, said = call("waiting", "wait", '{"seconds":20}', "--timeout", "50ms")
    assert status == 1
    assert said.startswith("prism: DEADLINE_EXCEEDED: ")
    status, _, said = call("waiting", "wait", "--timeout", "soon")
    assert (status, "--timeout 'soon': expected a number above zero" in said) == (2, True)


def test_a_proxy_that_is_not_there(call):
    status, output, said = call("kv", "get", url="http://127.0.0.1:1")
    assert (status, output) == (1, "")
    assert said.splitlines()[1] == "Is the proxy running? Start one with: prism serve"


def test_the_port_beside_the_one_that_is_meant(call, proxy):
    status, _, said = call("kv", "get", ENTRY, url=proxy.admin)
    assert (status, said.splitlines()[1]) == (
        1,
        f"{proxy.admin} is the admin port; --url is the data port",
    )
    done = subprocess.run(
        [sys.executable, "-m", "prism", "plugin", "list", "--url", proxy.url],
        capture_output=True,
        text=True,
    )
    assert f"{proxy.url} is the data port; the admin port is on another" in done.stderr


def test_verbose(call):
    status, output, said = call("kv", "get", '{"key":"nobody"}', "--verbose")
    assert (status, output) == (0, '{"found":false}\n')
    assert said.startswith("HTTP 200 in ")


def test_a_reader_that_goes_away_is_no_bug(proxy):
    command = f"{sys.executable} -m prism call kv scan | true"
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PRISM_URL": proxy.url},
    )
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr


def test_on_a_terminal_the_result_is_indented(proxy):
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "prism", "call", "waiting", "echo", ENTRY],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            env={**os.environ, "PRISM_URL": proxy.url, "TERM": "xterm"},
        )
        assert process.wait(60) == 0
        shown = terminal.read(65536).decode().replace("\r\n", "\n")
        os.close(theirs)
    assert shown == json.dumps(json.loads(ENTRY), indent=2) + "\n"
