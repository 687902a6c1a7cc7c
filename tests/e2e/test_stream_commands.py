"""``prism call --stream`` and ``prism tail`` against a real proxy."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from prism_process import SUPPORT, eventually, unused_port

PRISM = [sys.executable, "-m", "prism"]


@pytest.fixture(scope="module")
def proxy(start_shared_prism):
    plugin = {"type": "sidecar", "command": [sys.executable, str(SUPPORT / "stream_plugin.py")]}
    return start_shared_prism(
        {"namespaces": [{"name": "kv", "backend": "streams", "plugin": plugin}]}
    )


def run(*arguments, stdin=""):
    return subprocess.run(
        [*PRISM, *arguments], input=stdin, capture_output=True, text=True, timeout=60
    )


def call(proxy, *arguments, stdin=""):
    return run("call", "kv", *arguments, "--stream", "--url", proxy.url, stdin=stdin)


def test_a_stream_is_lines_of_output(proxy):
    done = call(proxy, "count", '{"n": 3}')
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n1\n2\n", "")


def test_lines_of_input_are_messages(proxy):
    done = call(proxy, "chat", '{"text": "hi"}', stdin='{"text": "a"}\n\n{"text": "b"}\n')
    assert done.stdout.splitlines() == ['"hi"', '"A"', '"B"', '"bye"']
    done = call(proxy, "total", "-", stdin='{"n": 1}\n{"n": 2}\n')
    assert (done.returncode, done.stdout) == (0, "3\n")


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["fail", '{"n": 1}'], "", "DATA_LOSS: broken off"),
        (["count", "nonsense"], "", "INVALID_ARGUMENT"),
        (["chat", "{}"], "nonsense\n", "INVALID_ARGUMENT"),
        (["chat", "{}"], f'{{"text": "{"x" * 2_000_000}"}}\n', "message is larger than"),
        (["nothing"], "", "UNIMPLEMENTED"),
        (["echo"], "", "accept application/json"),
        (["quiet", "{}", "--timeout", "300ms"], "", "DEADLINE_EXCEEDED"),
    ],
)
def test_failures_are_said_and_have_a_status(proxy, arguments, stdin, said):
    done = call(proxy, *arguments, stdin=stdin)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_cannot_be_reached(proxy):
    done = run("call", "kv", "count", "--stream", "--url", "http://127.0.0.1:1")
    assert (done.returncode, "Is the proxy running?" in done.stderr) == (1, True)
    done = run("call", "nope", "count", "--stream", "--url", proxy.url)
    assert (done.returncode, "no namespace 'nope'" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:1", "localhost:1", "ws://127.0.0.1:1"])
def test_a_url_of_another_kind(url):
    done = run("call", "kv", "count", "--stream", "--url", url)
    assert (done.returncode, "it begins with http:// or https://" in done.stderr) == (2, True)


def test_https_where_there_is_none(proxy):
    done = run("call", "kv", "count", "--stream", "--url", f"https://127.0.0.1:{proxy.port}")
    assert done.returncode == 1
    assert done.stderr.rstrip().rpartition(": ")[2]


def test_a_stream_without_the_option_says_which(proxy):
    done = run("call", "kv", "flood", "--url", proxy.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--stream" in done.stderr


def test_no_stream_with_the_option(proxy):
    done = call(proxy, "seen")
    assert (done.returncode, done.stdout) == (1, "")
    assert "one result, not with a stream" in done.stderr


def lines_of(process, number):
    return [process.stdout.readline() for _ in range(number)]


@contextmanager
def start(*arguments):
    with subprocess.Popen([*PRISM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL, text=True) as process:  # fmt: skip
        try:
            yield process
        except BaseException:
            process.kill()  # else leaving the block waits for it
            raise


@pytest.mark.parametrize("command", [["call", "--stream"], ["tail"]])
def test_ctrl_c_ends_cleanly(proxy, command):
    with start(*command, "kv", "flood", '{"size": 3}', "--url", proxy.url) as process:
        assert lines_of(process, 2) == ['"xxx"\n'] * 2
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == -signal.SIGINT
        assert process.stderr.read() == ""


@pytest.mark.parametrize("command", [["call", "--stream"], ["tail"]])
def test_a_reader_that_has_enough_ends_it_without_noise(proxy, command):
    with start(*command, "kv", "flood", '{"size": 3}', "--url", proxy.url) as process:
        assert lines_of(process, 2) == ['"xxx"\n'] * 2
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def test_tail_to_the_end_and_errors(proxy):
    done = run("tail", "kv", "count", '{"n": 2}', "--url", proxy.url)
    assert (done.returncode, done.stdout) == (0, "0\n1\n")
    done = run("tail", "kv", "fail", '{"n": 1}', "--url", proxy.url)
    assert (done.returncode, done.stdout) == (1, "0\n")
    assert "DATA_LOSS" in done.stderr
    done = run("tail", "kv", "nothing", "--url", proxy.url)
    assert (done.returncode, "UNIMPLEMENTED" in done.stderr) == (1, True)


def test_tail_goes_on_over_a_restart_of_the_proxy(start_prism):
    fixed = ("--port", str(unused_port()), "--admin-port", "0")
    proxy = start_prism(arguments=fixed)

    def put(proxy, key):
        assert proxy.call("demo", "set", {"key": key, "value": 1}).status_code == 200

    with start("tail", "demo", "watch", '{"existing": true, "keys_only": true}',
        "--url", proxy.url) as process:  # fmt: skip
        assert json.loads(process.stdout.readline()) == {"event": "ready"}
        put(proxy, "before")
        assert json.loads(process.stdout.readline())["key"] == "before"
        assert proxy.stop() == 0
        assert "cannot call" in process.stderr.readline()
        hint = process.stderr.readline()  # where nobody listens any more
        if hint.startswith("Is the proxy running?"):
            hint = process.stderr.readline()
        assert hint == "Trying again until it answers; Ctrl-C ends this.\n"
        again = start_prism(arguments=fixed)
        put(again, "after")
        assert json.loads(process.stdout.readline())["key"] == "after"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    assert eventually(lambda: again.stop() == 0)
