"""The example plugins that were written from docs/protocol.md alone, without a library.

Each runs as a process; a ``Connection`` is the host at the other end of its socket.
"""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from prism.contract.messages import (
    ExecuteRequest,
    HealthCheckRequest,
    HealthStatus,
    InitializeRequest,
    ShutdownRequest,
    StreamRequest,
)
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.wire import ConnectionState, Role, handshake
from prism.wire.connection import Connection
from prism.wire.events import Cancel, Close, GoAway, Hello, Open, Ping

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "examples" / "plugins"
VECTORS = ROOT / "schemas" / "vectors"
LIMIT = 20.0
"""Seconds after which a plugin that says nothing, or does not end, fails its test."""


def tool(name):
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed, and CI needs it")
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture(scope="module", params=["node", "c"])
def command(request, tmp_path_factory):
    if request.param == "node":
        return [tool("node"), str(PLUGINS / "node" / "echo.js")]
    program = tmp_path_factory.mktemp("c") / "echo"
    source = PLUGINS / "c" / "echo.c"
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run([tool("gcc"), *flags, "-o", program, source], check=True, timeout=60)
    return [str(program)]


class Host:
    """The host's end: a socket, and the protocol as a value."""

    def __init__(self, sock, *, chunk=65536, max_frame=1024 * 1024):
        self.sock = sock
        self.sock.settimeout(LIMIT)
        self.chunk = chunk
        hello = Hello(name="prism", max_frame=max_frame)
        self.connection = Connection(Role.HOST, hello)

    def send(self, *events):
        for event in events:
            self.connection.send(event)
        self.send_bytes(self.connection.data_to_send())

    def send_bytes(self, data):
        for start in range(0, len(data), self.chunk):
            self.sock.sendall(data[start : start + self.chunk])

    def receive(self):
        """The next event; ``None`` at the end of the stream."""
        while (event := self.connection.next_event()) is None:
            if self.connection.state is ConnectionState.CLOSED:
                return None
            self.connection.receive_data(self.sock.recv(65536))
        return event

    def handshake(self):
        offer = self.receive()
        assert isinstance(offer, Hello)
        self.send(handshake.answer(offer, self.connection.local_hello))
        return offer

    def call(self, method, message, *, end=True):
        stream = self.connection.next_stream()
        self.send(Open(stream, method, message, 10_000, end))
        close = self.receive()
        assert isinstance(close, Close)
        assert close.stream == stream
        return close

    def initialize(self):
        close = self.call(Method.INITIALIZE, InitializeRequest(namespace="n", config_json="{}"))
        assert close.status is StatusCode.OK
        return close.message

    def execute(self, operation, params="", **fields):
        request = ExecuteRequest(operation=operation, params_json=params, **fields)
        return self.call(Method.EXECUTE, request)

    def result(self, operation, params):
        close = self.execute(operation, params)
        assert close.status is StatusCode.OK
        assert close.message.success
        return close.message.result_json


class Running:
    """A plugin's process, and the host it talks to."""

    def __init__(self, process, host):
        self.process = process
        self.host = host

    def exit_status(self):
        return self.process.wait(LIMIT)


@pytest.fixture
def start(command):
    """Start the plugin on an inherited descriptor; what is left of it ends with the test."""
    begun = []

    def begin(**options):
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            process = subprocess.Popen(
                command,
                pass_fds=[number],
                env={"PRISM_PLUGIN_FD": str(number), "PLUGIN_SOCKET": "/nowhere"},
                stderr=subprocess.DEVNULL,
            )
        begun.append((process, ours))
        return Running(process, Host(ours, **options))

    yield begin
    for process, ours in begun:
        ours.close()
        process.kill()
        process.wait(LIMIT)


def test_a_life(start):
    plugin = start()
    host = plugin.host
    assert host.handshake().name == "echo"
    ready = host.initialize()
    assert sorted(ready.supported_operations) == ["echo", "get", "set"]
    assert {o.name: o.access.name for o in ready.operations} == {
        "echo": "READ",
        "get": "READ",
        "set": "WRITE",
    }
    assert {o.name: o.idempotent for o in ready.operations} == {
        "echo": True,
        "get": True,
        "set": False,
    }
    health = host.call(Method.HEALTH_CHECK, HealthCheckRequest())
    assert health.message.status is HealthStatus.HEALTHY
    assert json.loads(host.result("get", '{"key":"a"}')) == {"found": False}
    assert json.loads(host.result("set", '{"key":"a","value":{"n":[1,2.5,null]}}')) == {
        "stored": True
    }
    assert json.loads(host.result("set", '{"value":"other","key":"b"}')) == {"stored": True}
    expected = {"found": True, "value": {"n": [1, 2.5, None]}}
    assert json.loads(host.result("get", '{"key":"a"}')) == expected
    host.send(GoAway(0, "stop"))
    bye = host.call(Method.SHUTDOWN, ShutdownRequest(timeout_seconds=5, reason="stop"))
    assert bye.message.success
    assert host.receive() is None
    assert plugin.exit_status() == 0
    assert host.connection.open_streams == 0


@pytest.mark.parametrize(
    "params",
    [
        '{"text":"grüß 😀 \\ud83d\\ude00 \\" \\\\ \\n \\u00e9"}',
        ' { "a" : [ ] , "b" : { } , "c" : -0.5e+10 } ',
        '{"deep":' + "[" * 50 + "]" * 50 + "}",
        '{"long":"' + "x" * 300_000 + '"}',
    ],
)
def test_echo_gives_back_the_same_text(start, params):
    host = start().host
    host.handshake()
    host.initialize()
    assert host.result("echo", params) == params


def test_keys_are_compared_decoded(start):
    host = start().host
    host.handshake()
    host.initialize()
    host.result("set", '{"key":"gr\\u00fc\\u00df \\ud83d\\ude00","value":"\\u00e9"}')
    assert json.loads(host.result("get", '{"key":"grüß 😀"}')) == {"found": True, "value": "é"}


def test_an_absent_parameter_block_is_an_empty_object(start):
    host = start().host
    host.handshake()
    host.initialize()
    assert host.result("echo", "") == "{}"


@pytest.mark.parametrize(
    ("operation", "params", "status"),
    [
        ("fly", "{}", StatusCode.UNIMPLEMENTED),
        ("toString", "{}", StatusCode.UNIMPLEMENTED),
        ("get", "{}", StatusCode.INVALID_ARGUMENT),
        ("get", '{"key":7}', StatusCode.INVALID_ARGUMENT),
        ("set", '{"key":"a"}', StatusCode.INVALID_ARGUMENT),
        ("echo", "[]", StatusCode.INVALID_ARGUMENT),
        ("echo", "{", StatusCode.INVALID_ARGUMENT),
        ("echo", '{"a":01}', StatusCode.INVALID_ARGUMENT),
        ("echo", '{"a":"\t"}', StatusCode.INVALID_ARGUMENT),
        ("echo", "{} {}", StatusCode.INVALID_ARGUMENT),
    ],
)
def test_calls_that_fail(start, operation, params, status):
    host = start().host
    host.handshake()
    host.initialize()
    close = host.execute(operation, params)
    assert close.status is status
    assert close.message.error_code == status
    assert close.message.error
    assert not close.message.success
    assert host.result("echo", "{}") == "{}"


def test_other_calls_that_fail(start):
    host = start().host
    host.handshake()
    assert host.execute("echo").status is StatusCode.FAILED_PRECONDITION
    before = host.call(Method.HEALTH_CHECK, HealthCheckRequest())
    assert before.message.status is HealthStatus.UNHEALTHY
    host.initialize()
    again = host.call(Method.INITIALIZE, InitializeRequest())
    assert again.status is StatusCode.FAILED_PRECONDITION
    assert host.execute("echo", params_raw=b"\x80").status is StatusCode.INVALID_ARGUMENT
    stream = host.call(Method.EXECUTE_STREAM, StreamRequest(operation="echo"), end=False)
    assert stream.status is StatusCode.UNIMPLEMENTED


def test_pings_and_cancels_between_calls(start):
    host = start().host
    host.handshake()
    host.initialize()
    request = ExecuteRequest(operation="echo", params_json="{}")
    host.send(Open(3, Method.EXECUTE, request), Cancel(3), Ping(77))
    host.send(Open(5, Method.EXECUTE, request))
    host.send_bytes(bytes.fromhex("00000000 00000003 05 00 00 00 00000001"))  # a late CANCEL
    answers = [host.receive() for _ in range(3)]
    assert Ping(77, ack=True) in answers
    assert sorted(a.stream for a in answers if isinstance(a, Close)) == [3, 5]
    assert host.result("echo", "{}") == "{}"


def test_byte_by_byte(start):
    host = start(chunk=1).host
    host.handshake()
    host.initialize()
    host.result("set", '{"key":"a","value":1}')
    assert json.loads(host.result("get", '{"key":"a"}')) == {"found": True, "value": 1}


def test_many_calls_in_one_write(start):
    host = start().host
    host.handshake()
    host.initialize()
    opens = [
        Open(
            stream,
            Method.EXECUTE,
            ExecuteRequest(operation="echo", params_json=f'{{"n":{stream}}}'),
        )
        for stream in range(3, 103, 2)
    ]
    host.send(*opens)
    found = {close.stream: close.message.result_json for close in (host.receive() for _ in opens)}
    assert found == {event.stream: event.message.params_json for event in opens}


def test_an_answer_the_host_has_no_room_for(start):
    host = start(max_frame=1000).host
    host.handshake()
    host.initialize()
    big = json.dumps({"x": "y" * 1000})
    refused = host.execute("echo", big)
    assert (refused.status, refused.too_large) == (StatusCode.RESOURCE_EXHAUSTED, True)
    assert host.result("echo", "{}") == "{}"


@pytest.mark.parametrize("after_hello", [True, False])
def test_the_end_of_the_stream_ends_the_plugin(start, after_hello):
    plugin = start()
    if after_hello:
        plugin.host.handshake()
    else:
        plugin.host.receive()
    plugin.host.sock.close()
    assert plugin.exit_status() == 0


def test_a_refusal_ends_the_plugin(start):
    plugin = start()
    plugin.host.receive()
    plugin.host.send(GoAway(0, "no protocol in common"))
    assert plugin.exit_status() == 1


TOLERATED = {
    "data for a unary call",
    "data after END",
    "close from the caller",
    "the stream ends in the middle of a frame",
    "field of the wrong type",
}
"""Frames for calls that a plugin of this kind has closed already, a mere end, and a field that it
does not look at before Initialize."""


BAD_INPUT = [
    pytest.param(case, id=case["name"])
    for case in json.loads((VECTORS / "errors.json").read_text())["cases"]
    if case["to"] == "plugin" and case["codec"] == "json" and case["name"] not in TOLERATED
]


@pytest.mark.parametrize("case", BAD_INPUT)
def test_broken_rules_end_the_plugin(start, case):
    plugin = start()
    if case["state"] == "ready":
        plugin.host.handshake()
    else:
        plugin.host.receive()
    plugin.host.send_bytes(bytes.fromhex(case["hex"]))
    assert plugin.exit_status() == 1


def test_dialling_in_again_and_again(command, tmp_path):
    path = tmp_path / "s"
    process = subprocess.Popen(command, env={"PLUGIN_SOCKET": str(path)}, stderr=subprocess.DEVNULL)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)  # it tries on, while there is no socket yet
        with socket.socket(socket.AF_UNIX) as listener:
            listener.settimeout(LIMIT)
            listener.bind(str(path))
            listener.listen()
            for told_to_shut_down in (True, False, True):
                sock, _ = listener.accept()
                with sock:
                    host = Host(sock)
                    host.handshake()
                    host.initialize()
                    assert host.result("echo", '{"a":1}') == '{"a":1}'
                    if told_to_shut_down:
                        host.call(Method.SHUTDOWN, ShutdownRequest())
                        assert sock.recv(1) == b""
            sock, _ = listener.accept()
            sock.close()
        assert process.poll() is None
    finally:
        process.kill()
        process.wait(LIMIT)


def test_without_a_host_it_says_so(command):
    found = subprocess.run(command, env={}, capture_output=True, text=True, timeout=LIMIT)
    assert found.returncode == 2
    assert "PLUGIN_SOCKET" in found.stderr
