"""The kits' examples behind a real proxy, which curl asks: one table for all languages.

One proxy has a namespace for each language of ``kits.KITS``; ``sdks/README.md`` says what the
operations of the examples do. All is ``strict``: what production forgives ends the connection.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from authority import Authority, dns
from cryptography.x509.oid import ExtendedKeyUsageOID
from prism_process import LIMIT, Proxy, eventually, unused_port

import prism
from prism.wire.events import PROTOCOL_VERSION
from tests.sdks.kits import KITS, SDKS

PASSWORD = "hunter2-of-the-kits"


def spawned(name: str, command: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "backend": name,
        "plugin": {
            "type": "sidecar",
            "command": command,
            "strict": True,
            "environment": {"PRISM_TRACE": "1"},
            "health": {"interval_seconds": 1},
        },
        "credentials": {"password": PASSWORD, "username": "ada"},
    }


@pytest.fixture(scope="module")
def faults() -> dict[str, BaseException]:
    """Why some languages' examples could not be built."""
    return {}


@pytest.fixture(scope="module")
def proxy(start_shared_prism, built, faults) -> Proxy:
    namespaces = []
    for language in KITS:
        try:
            namespaces.append(spawned(language, built(language)))
        except (pytest.skip.Exception, pytest.fail.Exception, AssertionError) as fault:
            faults[language] = fault
    return start_shared_prism({"namespaces": namespaces, "admin": {"without_token": "change"}})


class Kit:
    """One language's namespace."""

    def __init__(self, name: str, proxy: Proxy, curl: Callable[..., str]) -> None:
        self.name = name
        self.proxy = proxy
        self.curl = curl

    def url(self, operation: str) -> str:
        return f"{self.proxy.url}/v1/{self.name}/{operation}"

    def ask(self, operation: str, params: Any = None, *options: str) -> Any:
        """What curl prints, as JSON."""
        body = json.dumps({} if params is None else params)
        return json.loads(self.curl("-d", body, *options, self.url(operation)))

    def lines(self, operation: str, *messages: Any) -> list[Any]:
        """A stream's messages, as lines of JSON; several of the client's go as lines, too."""
        body = "".join(json.dumps(message) + "\n" for message in messages)
        kind = "application/x-ndjson" if len(messages) > 1 else "application/json"
        headers = ["-H", "Accept: application/x-ndjson", "-H", f"Content-Type: {kind}"]
        file = self.proxy.directory / f"{self.name}-body"
        file.write_text(body)
        told = self.curl("-N", *headers, "--data-binary", f"@{file}", self.url(operation))
        return [json.loads(line) for line in told.splitlines()]

    def in_flight(self) -> int:
        found = self.proxy.client.get(f"{self.proxy.admin}/admin/namespaces").json()
        return next(
            each["in_flight"] for each in found["namespaces"] if each["namespace"] == self.name
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.proxy.client.get(
            f"{self.proxy.admin}/admin/plugins/{self.name}"
        ).json()
        return found

    def cancelled(self) -> int:
        count: int = self.ask("cancelled")["count"]
        return count


@pytest.fixture(params=KITS)
def kit(request, proxy, curl, faults) -> Kit:
    if request.param in faults:
        raise faults[request.param]
    return Kit(request.param, proxy, curl)


def test_unary_calls(kit: Kit) -> None:
    text = '"ü\\u0000\\ud83d\\ude00 \\"q\\""'
    odd = f'{{"a":1.0,"z":{text},"deep":[{{"x":null}}], "n":12345678901234567890}}'
    assert kit.curl("--data-binary", odd, kit.url("echo")) == odd
    assert kit.ask("fail", {"code": 5, "message": "no such thing"})["detail"] == "no such thing"
    assert kit.ask("fail", {"code": 9, "message": "not now"})["code"] == "FAILED_PRECONDITION"
    wrong = kit.ask("sleep", {"seconds": "long"})
    assert (wrong["code"], wrong["status"]) == ("INVALID_ARGUMENT", 400)
    who = kit.ask("whoami", None, "-H", "traceparent: 00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")
    assert who["namespace"] == kit.name
    assert who["principal"] == "anonymous"
    assert who["request_id"] == who["metadata"]["prism-request-id"]
    assert who["metadata"]["traceparent"].startswith("00-" + "ab" * 16)
    assert kit.ask("secret") == {"password": True}
    declared = kit.proxy.client.get(f"{kit.proxy.url}/v1/{kit.name}").json()["operations"]
    assert declared["echo"]["idempotent"]
    assert declared["count"]["streaming"]
    assert not declared["log"].get("idempotent")


def test_a_handler_that_crashes(kit: Kit) -> None:
    fault = kit.ask("panic")
    assert (fault["status"], fault["code"]) == (500, "INTERNAL")
    assert kit.ask("echo", {"still": "here"}) == {"still": "here"}
    assert kit.status()["restarts"] == 0


def test_large_answers(kit: Kit) -> None:
    assert len(kit.ask("big", {"bytes": 3_000_000})["data"]) == 3_000_000
    fault = kit.ask("big", {"bytes": 17_000_000})
    assert (fault["status"], fault["reason"]) == (502, "answer_too_large")
    assert kit.ask("echo", {"still": "here"}) == {"still": "here"}


def test_streams(kit: Kit) -> None:
    assert kit.lines("count", {"to": 3, "size": 2}) == [
        {"n": n, "padding": "xx"} for n in (1, 2, 3)
    ]
    assert kit.lines("count", {"to": 0}) == []
    many = kit.lines("count", {"to": 3000, "size": 500})  # six windows
    assert [message["n"] for message in many] == list(range(1, 3001))
    numbers = [{"n": n} for n in range(1, 20_001)]  # twice the plugin's window
    assert [float(each["sum"]) for each in kit.lines("sum", *numbers)] == [200_010_000.0]
    assert [float(each["sum"]) for each in kit.lines("sum", {"n": 4})] == [4.0]
    refused = kit.ask("sum", {"n": "four"}, "-H", "Accept: application/x-ndjson")
    assert refused["code"] == "INVALID_ARGUMENT"


def test_a_client_that_does_not_read(kit: Kit) -> None:
    """The plugin waits for credit; when the client leaves, it is told."""
    everything = {"to": 2_000_000, "size": 1000}  # 2 GB, were nobody to stop it
    with httpx.Client(trust_env=False, timeout=LIMIT) as client:
        headers = {"Accept": "application/x-ndjson"}
        with client.stream("POST", kit.url("count"), json=everything, headers=headers) as answer:
            lines = answer.iter_lines()
            assert [json.loads(next(lines))["n"] for _ in range(3)] == [1, 2, 3]
            pid = kit.status()["pid"]
            assert kit.ask("echo", {"beside": "it"}) == {"beside": "it"}
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            assert pages * os.sysconf("SC_PAGE_SIZE") < 600_000_000
    eventually(lambda: kit.in_flight() == 0)


def test_a_client_that_leaves(kit: Kit) -> None:
    before = kit.cancelled()
    caller = subprocess.Popen(
        ["curl", "-s", "-d", '{"seconds": 600}', kit.url("sleep")], stdout=subprocess.DEVNULL
    )
    try:
        eventually(lambda: kit.in_flight() == 1)
    finally:
        caller.kill()
        caller.wait(LIMIT)
    eventually(lambda: kit.cancelled() == before + 1)


def test_a_deadline(kit: Kit) -> None:
    before = kit.cancelled()
    fault = kit.ask("sleep", {"seconds": 600}, "-H", "prism-timeout: 200ms")
    assert (fault["status"], fault["code"]) == (504, "DEADLINE_EXCEEDED")
    eventually(lambda: kit.cancelled() == before + 1)


def test_logs_and_the_trace(kit: Kit) -> None:
    for level in ("warning", "error"):
        message = f"{level} from {kit.name}: the password is {PASSWORD}, Grüße"
        kit.ask("log", {"message": message, "level": level.upper()})

        def told(text: str = f"{level} from {kit.name}: the") -> dict[str, Any] | None:
            """The record is in the proxy's log, and not the trace alone"""
            found = kit.proxy.logged(text)
            return next((each for each in found if "stream=" not in each["message"]), None)

        record = eventually(told)
        assert record["level"] == level
        assert record["message"].endswith("Grüße")
        assert record["namespace"] == kit.name
    lines = [r["message"] for r in kit.proxy.records if r.get("namespace") == kit.name]
    assert any("OPEN Initialize" in line for line in lines)
    assert any("CLOSE" in line and "stream=1 " in line for line in lines)
    assert not any("hunter2" in line for line in lines)


def test_metrics_and_health(kit: Kit) -> None:
    kit.ask("echo")
    eventually(lambda: kit.proxy.metric("prism_plugin_requests_total", namespace=kit.name) >= 1)


def load(kit: Kit, stop: threading.Event, answers: list[tuple[int, Any]]) -> None:
    with httpx.Client(trust_env=False, timeout=LIMIT) as client:
        while not stop.is_set():
            answer = client.post(kit.url("echo"), json={"n": len(answers)})
            answers.append((answer.status_code, answer.json()))


def test_reloads_under_load_and_kill_9(kit: Kit) -> None:
    """Not one of the calls is lost: they are idempotent, and repeated where a process died."""
    stop = threading.Event()
    answers: list[tuple[int, Any]] = []
    callers = [threading.Thread(target=load, args=(kit, stop, answers)) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(3):
            seen = len(answers)
            eventually(lambda seen=seen: len(answers) >= seen + 20)
            reloaded = kit.proxy.client.post(
                f"{kit.proxy.admin}/admin/plugin/reload", json={"namespace": kit.name}
            ).json()
            assert reloaded["outcome"] == "swapped", reloaded
        old = kit.status()["pid"]
        os.kill(old, signal.SIGKILL)
        eventually(lambda: kit.status()["pid"] not in (None, old))
        new = kit.status()["pid"]
        os.kill(new, signal.SIGTERM)  # it says GOAWAY, finishes, and ends with 0
        eventually(lambda: kit.status()["pid"] not in (None, new))
        seen = len(answers)
        eventually(lambda: len(answers) >= seen + 20)
    finally:
        stop.set()
        for caller in callers:
            caller.join(LIMIT)
    assert [answer for answer in answers if answer[0] != 200] == []
    assert kit.proxy.logged(f"(pid {new}) exited with status 0")


@pytest.mark.parametrize("language", KITS)
def test_versions_and_readme(language) -> None:
    """A kit has the proxy's version, and its README the plugin that is made of its template."""
    kit, folder = KITS[language], SDKS / language
    for file, text in kit.says:
        wanted = text.format(version=prism.__version__, protocol=PROTOCOL_VERSION)
        assert wanted in (folder / file).read_text(), file
    if kit.shows:
        shown = (folder / "template" / kit.shows).read_text()
        assert shown in (folder / "README.md").read_text()


EXAMPLES = {
    "echo": {"a": 1},
    "sum": [{"n": 1}, {"n": 2}, {"n": 3}],
    "count": {"to": 1000, "size": 1000},
}


def conformance(command: list[str]) -> list[str]:
    """What the kit's example breaks of the protocol, every rule tried."""
    calls = [word for name, params in EXAMPLES.items() for word in ("--call", told(name, params))]
    slow = ["--slow", told("sleep", {"seconds": 600})]
    options = [*calls, *slow, "--timeout", str(LIMIT), "--output", "json", "--strict"]
    done = subprocess.run(
        [sys.executable, "-m", "prism", "plugin", "test", *options, "--", *command],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"]["passed"] > 90
    assert found["conforms"] == (done.returncode == 0)
    results = [each for each in found["results"] if each["outcome"] in ("failed", "warned")]
    return [f"{each['id']}: {each['found']}" for each in results]


def told(name: str, params: Any) -> str:
    return f"{name}={json.dumps(params)}"


@pytest.mark.parametrize("language", [name for name, kit in KITS.items() if kit.inherits])
def test_it_keeps_the_protocol(language, built) -> None:
    assert conformance(built(language)) == []


def certificates(directory: Path) -> dict[str, Path]:
    """Files of an authority, and of a plugin and a proxy that it knows."""
    authority = Authority(directory)
    server = authority.write("plugin", dns("localhost"), purpose=ExtendedKeyUsageOID.SERVER_AUTH)
    return {
        "ca": authority.file,
        "plugin": server,
        "proxy": authority.write("proxy", common_name="proxy"),
    }


def test_dialling_in_and_listening(built, start_prism, start_process, curl, tmp_path) -> None:
    """A plugin that somebody else started outlives its proxies, and ends with 0 on SIGTERM."""
    files = certificates(tmp_path)
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    namespaces, started, left_out = [], {}, []

    def begin(name: str, plugin: dict[str, Any], *command: str, **environment: str) -> None:
        log = tmp_path / f"{name}.log"
        started[name] = start_process(*command, log=log, **environment)
        namespaces.append({"name": name, "backend": name, "plugin": {**plugin, "strict": True}})

    for language, kit in KITS.items():
        try:
            command = built(language)
        except pytest.skip.Exception as reason:
            left_out.append(str(reason))
            continue
        dialled, own = str(run / f"{language}-dial.sock"), str(run / f"{language}-own.sock")
        plugin: dict[str, Any] = {"type": "sidecar", "socket": dialled}
        begin(f"{language}-dials", plugin, *command, PLUGIN_SOCKET=dialled)
        plugin = {"type": "sidecar", "socket": own, "dial": True}
        begin(f"{language}-listens", plugin, *command, "--listen", f"unix:{own}")
        if kit.tls:
            port = unused_port()
            tls = {"ca_cert": files["ca"], "cert": files["proxy"], "key": files["proxy"]}
            plugin = {"type": "remote", "endpoint": f"localhost:{port}"}
            plugin["tls"] = {name: str(file) for name, file in tls.items()}
            words = ["--listen", f"tcp:127.0.0.1:{port}", "--tls-client-ca", str(files["ca"])]
            words += ["--tls-cert", str(files["plugin"]), "--tls-key", str(files["plugin"])]
            begin(f"{language}-tls", plugin, *command, *words)
    for _ in range(2):
        proxy = start_prism({"namespaces": namespaces})
        eventually(proxy.ready)
        for name in started:
            url = f"{proxy.url}/v1/{name}/"
            assert curl("-d", '{"a":1}', url + "echo") == '{"a":1}', name
            large = json.loads(curl("-d", '{"bytes":2000000}', url + "big"))
            assert len(large["data"]) == 2_000_000, name
        assert proxy.stop() == 0
    for name, process in started.items():
        assert process.poll() is None, name
        process.terminate()
        assert process.wait(LIMIT) == 0, (name, (tmp_path / f"{name}.log").read_text())
    if left_out:
        pytest.skip("; ".join(left_out))


@pytest.mark.parametrize("language", KITS)
def test_arguments_that_do_not_fit(language, built) -> None:
    for words, environment, said in (
        ([], {}, "nothing says where the proxy is"),
        (["--listen", "tcp:0.0.0.0:0"], {}, "refusing to listen on tcp:0.0.0.0:0"),
        (["--listen", "ftp:here"], {}, "is not an address"),
        ([], {"PRISM_PLUGIN_FD": "99"}, "PRISM_PLUGIN_FD=99 is not a connected socket"),
    ):
        if environment and (not KITS[language].inherits or KITS[language].by_shell):
            continue
        done = subprocess.run(
            [*built(language), *words],
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 2, (words, done.stderr)
        assert said in done.stderr, (words, done.stderr)
