"""Secrets and values show up nowhere: not in logs, metrics, errors, or the process table."""

import base64
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from prism_process import CHAOS, WAITING, eventually

SECRET = 'canary-of "the" s3crets/directory & Co'
INLINE = "canary_in_the_credentials"
CONFIG = "canary-in-the-config"
VALUE = "canary-in-the-parameters"
CANARIES = (SECRET, INLINE, CONFIG, VALUE, "canary-of", "canary_in", "3crets%2F", "3crets/")
BASE64 = [
    base64.b64encode(b"\0" * before + secret.encode())[4:-4].decode()
    for secret in (SECRET, INLINE)
    for before in range(3)
]


@pytest.fixture
def proxy(start_prism, tmp_path):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "canary").write_text(SECRET + "\n")
    (secrets / "canary").chmod(0o600)
    common = {
        "backend": "chaos",
        "credentials": {"password": "{{ secret:canary }}", "token": INLINE},
        "config": {"dsn": f"db://user:{CONFIG}@host/"},
    }
    # It pauses between what it writes, and must not be taken for silent meanwhile.
    talkative = {**sidecar(*CHAOS, "talkative"), "health": {"interval_seconds": 60}}
    inside = {"type": "in_process", "module": "waiting_plugin:Waiting"}
    return start_prism(
        {
            "log": {"level": "debug"},
            "secrets": {"directory": str(secrets)},
            "namespaces": [
                {"name": "chaos", **common, "plugin": sidecar(*CHAOS)},
                {"name": "talks", **common, "plugin": talkative},
                {"name": "refuses", **common, "plugin": sidecar(*CHAOS, "refuse")},
                {"name": "spawned", **common, "plugin": sidecar(*WAITING)},
                {"name": "inside", **common, "plugin": inside},
            ],
        },
        tracebacks=True,  # of the operation that raises
    )


def sidecar(*command):
    return {"type": "sidecar", "command": list(command), "health": {"interval_seconds": 0.2}}


def process_table(pid):
    """What any user of the machine can see of a process; nothing if it has ended."""
    with suppress(OSError):
        process = Path(f"/proc/{pid}")
        for name in ("cmdline", "environ"):
            yield (process / name).read_bytes().decode(errors="replace")


def test_no_canary_is_seen(proxy):
    seen = []

    def call(namespace, operation, params, **headers):
        answer = proxy.call(namespace, operation, params, **headers)
        if answer.status_code != 200:
            seen.append(answer.text)
        return answer

    seen += [text for pid in (proxy.pid, *proxy.plugin_pids) for text in process_table(pid)]
    for namespace in ("chaos", "spawned", "inside"):
        assert call(namespace, "echo", {"value": VALUE}).json() == {"value": VALUE}
        call(namespace, "no-such-name", {"value": VALUE})
        proxy.client.get(f"{proxy.url}/v1/{namespace}/echo?value={VALUE}")  # paths are logged
        call(namespace, "echo", {"value": VALUE}, prism_timeout=VALUE)
        proxy.client.post(f"{proxy.url}/v1/{namespace}/echo", content=f'{{"{VALUE}": }}')
    for namespace in ("spawned", "inside"):
        failed = call(namespace, "fail", {"with_": "password"})
        assert failed.status_code == 500
        call(namespace, "wait", {"seconds": VALUE})
    call("chaos", "do", {"fault": "hang", "value": VALUE}, prism_timeout="50ms")
    call("chaos", "do", {"fault": "bad_payload", "payload": "{"})
    eventually(lambda: call("chaos", "echo", {}).status_code == 200)
    call("chaos", "do", {"fault": "crash", "value": VALUE})
    call("refuses", "echo", {"value": VALUE})
    seen += [proxy.client.get(proxy.admin + path).text for path in ("/metrics", "/readyz")]
    seen += [proxy.client.get(proxy.url + path).text for path in ("/v1", "/v1/refuses")]
    assert "[redacted]" in call("talks", "do", {"fault": "confess"}).json()["detail"]

    def operators_see():
        paths = ("/admin/plugins", "/admin/plugins/talks", "/admin/plugins/talks/health")
        paths += ("/admin/plugins/talks/logs", "/admin/namespaces/talks", "/metrics", "/readyz")
        return [proxy.client.get(proxy.admin + path).text for path in paths]

    lines = eventually(lambda: [t for t in operators_see() if t.count("cut off: [redacted]") == 4])
    seen += [*lines, *operators_see()]
    call("talks", "do", {"fault": "confess_and_go"})
    seen += operators_see()
    assert proxy.stop() == 0
    seen += [proxy.printed, proxy.log]

    assert proxy.log.count("cannot log in with [redacted]") == 2  # it came that far
    for canary in (*CANARIES, *BASE64):
        for text in seen:
            at = text.find(canary)
            assert at < 0, text[max(0, at - 300) : at + 100]


def test_a_crash_leaves_no_memory_behind(start_prism):
    def allow_dumps():
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    namespace = {"name": "chaos", "backend": "chaos", "plugin": sidecar(*CHAOS)}
    proxy = start_prism({"namespaces": [namespace]}, preexec=allow_dumps)
    for pid in (proxy.pid, *proxy.plugin_pids):
        assert resource.prlimit(pid, resource.RLIMIT_CORE)[0] == 0
    [crashing] = proxy.plugin_pids
    os.kill(crashing, signal.SIGSEGV)
    eventually(lambda: proxy.plugin_pids != [crashing])
    assert not [file.name for file in proxy.directory.iterdir() if file.name.startswith("core")]
