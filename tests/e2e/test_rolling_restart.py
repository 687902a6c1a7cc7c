"""A rolling restart under load: no call is lost, and no failure of a successor is felt."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from doors import CODECS, open_door, program
from h2.errors import ErrorCodes
from handover import adopt, begin_handover, hand_over, successors
from http2_client import Http2Client
from prism_process import CHAOS, eventually, group_members, settled

import grpc
from prism.contract.messages import ExecuteRequest, ExecuteResponse
from prism.grpc.protobuf import decode, encode

THREADS = 4
EXAMPLES = Path(__file__).parents[2] / "examples"


def database(path):
    return {"name": "db", "backend": "sqlite", "config": {"path": str(path)}}


class Load:
    """Threads that call until told to stop; each call must be answered 200."""

    def __init__(self, call, threads=THREADS):
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        self.answered = 0
        self._lock = threading.Lock()
        self._workers = [self._pool.submit(self._work, call) for _ in range(threads)]

    def _work(self, call):
        with call() as one:
            while not self._stop.is_set():
                one()
                with self._lock:
                    self.answered += 1

    def goes_on(self, calls=200):
        """Wait until so many more calls were answered."""
        goal = self.answered + calls
        eventually(lambda: self.answered >= goal or any(w.done() for w in self._workers))

    def end(self):
        self._stop.set()
        for worker in self._workers:
            worker.result()
        self._pool.shutdown()
        return self.answered


class Increments:
    """One client of its own that counts up."""

    def __init__(self, url, **options):
        self._client = httpx.Client(trust_env=False, timeout=60, **options)
        self._url = f"{url}/v1/db/increment"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._client.close()

    def __call__(self):
        response = self._client.post(self._url, content='{"key":"n"}')
        assert response.status_code == 200, response.text


class Http2Increments:
    """The same over HTTP/2: a call is repeated only where the protocol says that it never ran."""

    def __init__(self, port):
        self._port = port
        self._client = Http2Client(port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._client.close()

    def __call__(self):
        while True:
            if self._client.closed or self._client.goaways:
                self._client.close()
                self._client = Http2Client(self._port)
            response = self._client.request("/v1/db/increment", b'{"key":"n"}')
            if response.ended:
                assert response.status == 200, response.body
                return
            refused = response.reset == ErrorCodes.REFUSED_STREAM
            stream = self._client.h2.highest_outbound_stream_id
            assert refused or stream > self._client.goaways[-1], "accepted, and never answered"


@pytest.mark.slow
@pytest.mark.parametrize("door", ["cleartext", "tls"])
def test_every_http1_call_is_answered_and_counted_once(start_prism, tmp_path, door):
    """With httpx, over HTTP/1.1: over HTTP/2 it gives up on a call that meets a GOAWAY."""
    proxy = open_door(start_prism, tmp_path, door, "h2", [database(tmp_path / "n.db")])
    load = Load(lambda: Increments(proxy.url, verify=False))
    roll(proxy, load)
    answered = load.end()
    assert proxy.call("db", "get", {"key": "n"}).json()["value"] == answered


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_every_http2_call_is_answered_and_counted_once(start_prism, tmp_path, codec):
    proxy = open_door(start_prism, tmp_path, "cleartext", codec, [database(tmp_path / "n.db")])
    load = Load(lambda: Http2Increments(proxy.port))
    roll(proxy, load)
    answered = load.end()
    assert proxy.call("db", "get", {"key": "n"}).json()["value"] == answered


def roll(proxy, load):
    """Three rolling restarts in a row, each under load."""
    for _ in range(3):
        load.goes_on()
        hand_over(proxy)
    load.goes_on()


@pytest.mark.slow
def test_h2load_notices_nothing(start_prism, tmp_path):
    """Over HTTP/1.1: h2load does not connect again after an HTTP/2 GOAWAY."""
    h2load = program("h2load", "nghttp2-client")
    proxy = start_prism({"namespaces": [database(tmp_path / "n.db")]})
    body = tmp_path / "body"
    body.write_text('{"key":"n"}')
    shape = ["--h1", "--requests", "2000", "--clients", "8", "--data", str(body)]
    command = [h2load, *shape, f"{proxy.url}/v1/db/increment"]
    over = threading.Event()

    def run_until_over():
        printed = []
        while not over.is_set():
            run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
            printed.append(run.stdout)
        return printed

    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(run_until_over)
        try:
            labels = {"namespace": "db", "operation": "increment", "status": "OK"}
            eventually(lambda: proxy.metric("prism_requests_total", **labels) > 100)
            hand_over(proxy)
            hand_over(proxy)
        finally:
            over.set()
        runs = load.result()
    for printed in runs:
        assert "2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout" in printed
        assert "2000 2xx" in printed
    assert proxy.call("db", "get", {"key": "n"}).json()["value"] == 2000 * len(runs)


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_every_grpc_call_is_answered_and_counted_once(start_prism, tmp_path, codec):
    """grpcio repeats a call only if the server never began it."""
    proxy = open_door(start_prism, tmp_path, "cleartext", codec, [database(tmp_path / "n.db")])
    load = Load(lambda: GrpcIncrements(proxy.port), threads=8)
    roll(proxy, load)
    answered = load.end()
    assert proxy.call("db", "get", {"key": "n"}).json()["value"] == answered


class GrpcIncrements:
    """A channel of its own."""

    def __init__(self, port):
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self._execute = self._channel.unary_unary(
            "/prism.plugin.BackendPlugin/Execute", encode, partial(decode, ExecuteResponse)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._channel.close()

    def __call__(self):
        request = ExecuteRequest(operation="increment", params_json='{"key":"n"}')
        metadata = [("prism-namespace", "db")]
        assert self._execute(request, metadata=metadata, timeout=60).success


def went_on(proxy, why):
    """The successor failed for this reason, and the proxy serves as before."""
    eventually(lambda: "so this process goes on" in proxy.log)
    [record] = proxy.logged("so this process goes on")
    assert re.search(why, record["message"]), record["message"]
    assert proxy.call("echo", "echo", {"n": 1}).json() == {"n": 1}
    assert not group_members(successors(proxy)[-1])


def go_on(proxy, why):
    """As ``went_on``, and the next successor takes over."""
    went_on(proxy, why)
    hand_over(proxy)
    assert proxy.call("echo", "echo", {"n": 2}).json() == {"n": 2}


ECHO = {"name": "echo", "backend": "chaos", "plugin": {"type": "sidecar", "command": CHAOS}}
NEVER = ECHO | {"name": "never", "plugin": {"type": "sidecar", "command": [*CHAOS, "no-answer"]}}


@pytest.fixture
def proxy(start_prism):
    return start_prism({"namespaces": [ECHO]})


def rewrite(proxy, config):
    """Change the configuration file; returns what it was."""
    file = proxy.directory / "prism.yaml"
    before = file.read_text()
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return before


def test_a_bad_configuration_keeps_the_old_process(proxy):
    before = rewrite(proxy, "namespaces: [{name: UPPER}]")
    begin_handover(proxy)
    eventually(lambda: "so this process goes on" in proxy.log)
    rewrite(proxy, before)
    go_on(proxy, r"prism.yaml:1:\d+: namespaces\[0\]")


def test_a_plugin_that_became_worse_keeps_the_old_process(proxy):
    broken = ECHO | {"plugin": {"type": "sidecar", "command": ["/no/such/program"]}}
    before = rewrite(proxy, {"namespaces": [broken]})
    begin_handover(proxy)
    eventually(lambda: "so this process goes on" in proxy.log)
    rewrite(proxy, before)
    go_on(proxy, "namespace 'echo' is not ready: .*program")


def test_a_plugin_that_dials_in_keeps_the_old_process(start_prism, start_process, tmp_path):
    """It has one connection, to the old process, which would be missed in the new one."""
    address = tmp_path / "run" / "echo.sock"
    plugin = {"type": "sidecar", "socket": str(address)}
    proxy = start_prism({"namespaces": [{"name": "dialled", "backend": "x", "plugin": plugin}]})
    echo = [sys.executable, str(EXAMPLES / "plugins/python/echo.py")]
    start_process(*echo, "--connect", f"unix:{address}", log=tmp_path / "plugin")
    eventually(proxy.ready)
    begin_handover(proxy)
    eventually(lambda: "so this process goes on" in proxy.log)
    [record] = proxy.logged("so this process goes on")
    assert "namespace 'dialled' is not ready" in record["message"]
    assert "in use by another proxy" in record["message"]
    assert "use `dial: true`, or a `command` without a `socket`" in record["message"]
    assert proxy.call("dialled", "get", {"key": "a"}).json() == {"found": False}


def test_a_new_namespace_that_is_broken_is_no_obstacle(proxy):
    broken = ECHO | {"name": "new", "plugin": {"type": "sidecar", "command": ["/no/such"]}}
    rewrite(proxy, {"namespaces": [ECHO, broken]})
    hand_over(proxy)
    assert proxy.call("echo", "echo", {"n": 1}).json() == {"n": 1}
    assert proxy.call("new", "echo").status_code == 503


def test_an_address_that_changed_is_opened_anew(proxy):
    old = proxy.admin
    rewrite(proxy, {"namespaces": [ECHO], "admin": {"address": "127.0.0.2"}})
    hand_over(proxy)
    assert proxy.call("echo", "echo", {"n": 1}).json() == {"n": 1}
    with pytest.raises(httpx.ConnectError):
        proxy.client.get(f"{old}/readyz")


def test_a_successor_killed_while_it_starts_is_not_missed(proxy):
    before = rewrite(proxy, {"namespaces": [ECHO, NEVER]})
    pid = begin_handover(proxy)
    eventually(lambda: "for namespace never" in proxy.log)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: "so this process goes on" in proxy.log)
    rewrite(proxy, before)
    go_on(proxy, "it was ended by SIGKILL")


def test_a_successor_that_takes_too_long_is_ended(start_prism):
    proxy = start_prism({"namespaces": [ECHO], "handover_timeout_seconds": 2})
    rewrite(proxy, {"namespaces": [ECHO, NEVER]})
    begin_handover(proxy)
    went_on(proxy, "it was not ready within 2 seconds")


def test_a_second_successor_is_refused_while_the_first_one_starts(proxy):
    before = rewrite(proxy, {"namespaces": [ECHO, NEVER]})
    pid = begin_handover(proxy)
    proxy.process.send_signal(signal.SIGUSR2)
    eventually(lambda: proxy.logged("SIGUSR2 is refused"))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: "so this process goes on" in proxy.log)
    rewrite(proxy, before)
    go_on(proxy, "it was ended by SIGKILL")


def test_a_stop_while_a_successor_starts_ends_both(proxy):
    rewrite(proxy, {"namespaces": [ECHO, NEVER]})
    begin_handover(proxy)
    assert proxy.stop() == 0
    assert not group_members(successors(proxy)[-1])


def test_plugins_inherit_no_listening_socket(proxy):
    hand_over(proxy)
    plugin = proxy.call("echo", "pid").json()["pid"]
    descriptors = Path(f"/proc/{plugin}/fd")
    kinds = [str(descriptor.readlink()) for descriptor in descriptors.iterdir()]
    assert len([kind for kind in kinds if kind.startswith("socket:")]) == 1


def test_restarts_leave_no_descriptor_behind(proxy):
    def descriptors():
        return len(list(Path(f"/proc/{proxy.pid}/fd").iterdir()))

    hand_over(proxy)
    first = settled(descriptors)
    for _ in range(3):
        hand_over(proxy)
    assert settled(descriptors) == first


def test_an_operator_restarts_it_by_the_admin_port_and_hears_how_it_went(start_prism, tmp_path):
    pid_file = tmp_path / "prism.pid"
    config = {"admin": {"without_token": "change"}, "namespaces": [database(tmp_path / "kv.db")]}
    options = ("--port", "0", "--admin-port", "0", "--pid-file", str(pid_file))
    proxy = start_prism(config, arguments=options)
    assert pid_file.read_text() == f"{proxy.pid}\n"

    def restart(*arguments):
        command = [sys.executable, "-m", "prism", "restart", "--url", proxy.admin, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = restart("--wait")
    (pid,) = successors(proxy)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pid {pid} serves now\n", "")
    adopt(proxy, pid)
    assert pid_file.read_text() == f"{pid}\n"
    assert proxy.call("db", "increment", {"key": "n"}).json() == {"value": 1}

    (tmp_path / "prism.yaml").write_text("namespaces: nonsense\n")
    kept = restart()
    assert (kept.returncode, kept.stdout) == (1, "")
    assert f"the successor failed, so pid {pid} goes on: {tmp_path}/prism.yaml:1:13:" in kept.stderr
    assert proxy.call("db", "increment", {"key": "n"}).json() == {"value": 2}
    assert pid_file.read_text() == f"{pid}\n"

    begun = restart("--no-wait", "-o", "json")
    assert json.loads(begun.stdout) == {"outcome": "starting", "pid": pid, "reason": ""}
    eventually(lambda: proxy.log.count("the successor failed") == 2)
    proxy.process.terminate()
    assert proxy.process.wait() == 0
    eventually(lambda: not pid_file.exists())
