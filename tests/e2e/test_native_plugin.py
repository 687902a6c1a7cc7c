"""A native library behind a running proxy: in its host's process, and in the proxy's own."""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prism_process import eventually

from tests.hosts.building import probe_library, tool

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "plugins" / "library"
SCHEMAS = ROOT / "schemas" / "abi"
PORT = "50051"

AT_ONCE = {"first_delay_seconds": 0.01, "max_delay_seconds": 0.01, "max_crashes": 0}


def namespace(name, library, config=None, **plugin):
    return {
        "name": name,
        "backend": "probe",
        "plugin": {
            "type": "in_process",
            "library": str(library),
            "start_timeout_seconds": 60,
            "cancel_grace_seconds": 0.3,
            "kill_timeout_seconds": 0.5,
            "restart": AT_ONCE,
            **plugin,
        },
        "config": config or {},
    }


@pytest.fixture(scope="module")
def proxy(start_shared_prism):
    direct, threaded = probe_library(), probe_library("-DTHREADS=2")
    return start_shared_prism(
        {
            "namespaces": [
                namespace("hosted", direct),
                namespace("threaded", threaded),
                namespace("here", direct, isolation="none"),
                namespace("here-threaded", threaded, isolation="none"),
            ]
        }
    )


def reloadable(*namespaces):
    return {"namespaces": namespaces, "admin": {"without_token": "change"}}


def serves(proxy, name):
    eventually(lambda: proxy.call(name, "echo", {"back": 1}).text == '{"back": 1}')


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "prism", *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("name", ["hosted", "threaded", "here", "here-threaded"])
def test_calls_and_streams(proxy, name):
    assert proxy.call(name, "echo", {"text": "Grüße"}).json() == {"text": "Grüße"}
    assert proxy.call(name, "later", {"n": 5}).json() == {"late": True}
    missing = proxy.call(name, "fail", {"text": "no such thing"})
    assert (missing.status_code, missing.json()["detail"]) == (404, "no such thing")
    lines = proxy.call(name, "count", {"n": 3}, accept="application/x-ndjson").text
    assert lines.split() == ["0", "1", "2"]
    told = proxy.call(name, "metadata").json()
    assert told["prism-namespace"] == name


@pytest.mark.parametrize("name", ["hosted", "threaded"])
@pytest.mark.parametrize("fault", ["crash", "abort"])
def test_a_crash_costs_its_own_call(proxy, name, fault):
    failed = proxy.call(name, fault)
    assert (failed.status_code, failed.json()["reason"]) == (502, "plugin_crashed")
    serves(proxy, name)
    signal = {"crash": "SIGSEGV", "abort": "SIGABRT"}[fault]
    assert proxy.logged(f"was ended by {signal}")
    serves(proxy, "here")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fault"),
    [("hosted", "hang"), ("hosted", "never"), ("threaded", "hang"), ("threaded", "never")],
)
def test_a_hang_costs_its_call_and_its_process(proxy, name, fault):
    before = len(proxy.plugin_pids)
    failed = proxy.call(name, fault, prism_timeout="100ms")
    assert failed.status_code == 504
    eventually(lambda: len(proxy.plugin_pids) > before)
    serves(proxy, name)


def test_a_call_that_is_never_completed_in_the_proxy_costs_the_instance(proxy):
    serves(proxy, "here-threaded")
    failed = proxy.call("here-threaded", "hang", prism_timeout="100ms")
    assert failed.status_code == 504
    why = "plugin 'probe' is stuck: hang was cancelled, and was not completed within 0.3 s"
    eventually(lambda: proxy.logged(why))
    serves(proxy, "here-threaded")
    serves(proxy, "here")


def test_what_it_prints_is_logged_and_no_frame(proxy):
    serves(proxy, "hosted")
    assert proxy.call("hosted", "print").json() == {}
    eventually(lambda: proxy.logged("printed on standard output"))
    assert proxy.call("hosted", "notes").json() == {}
    eventually(lambda: proxy.logged("noted"))


@pytest.mark.parametrize("name", ["hosted", "here"])
def test_a_result_that_is_none_fails_its_call_alone(proxy, name):
    serves(proxy, name)
    for fault in ("not_json", "not_utf8"):
        failed = proxy.call(name, fault)
        assert (failed.status_code, failed.json()["code"]) == (500, "INTERNAL")
    huge = proxy.call(name, "big", {"n": 20_000_000})
    assert huge.status_code in (500, 502)
    assert "plugin.max_frame_bytes" in huge.json()["detail"]
    serves(proxy, name)


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["process", "none"])
def test_a_reload_takes_the_file_that_is_there_now(start_prism, tmp_path, isolation):
    library = tmp_path / "libprobe.so"
    shutil.copy(probe_library(), library)
    proxy = start_prism(reloadable(namespace("lib", library, isolation=isolation)))
    assert proxy.call("lib", "version").json() == "1.2"
    # In place, as `cp` does: what is loaded is a copy, which that does not tear.
    shutil.copyfile(probe_library('-DVERSION="2.0"'), library)
    assert proxy.call("lib", "version").json() == "1.2"
    done = command("plugin", "reload", "lib", "--url", proxy.admin)
    assert done.returncode == 0, done.stderr
    assert proxy.call("lib", "version").json() == "2.0"
    library.write_bytes(b"no library")
    failed = command("plugin", "reload", "lib", "--url", proxy.admin)
    assert failed.returncode == 1
    assert "it is no shared library" in failed.stdout + failed.stderr
    assert proxy.call("lib", "version").json() == "2.0"
    told = command("plugin", "status", "lib", "--url", proxy.admin)
    assert "2.0" in told.stdout


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["process", "none"])
def test_only_the_bytes_that_were_verified_are_loaded(start_prism, tmp_path, isolation):
    library = tmp_path / "libprobe.so"
    shutil.copy(probe_library(), library)
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    plugin = namespace("lib", library, isolation=isolation, sha256=digest)
    proxy = start_prism(reloadable(plugin))
    assert proxy.call("lib", "version").json() == "1.2"
    shutil.copyfile(probe_library('-DVERSION="2.0"'), library)
    failed = command("plugin", "reload", "lib", "--url", proxy.admin)
    assert failed.returncode == 1
    assert "sha256" in failed.stdout + failed.stderr
    assert proxy.call("lib", "version").json() == "1.2"


def test_a_library_that_cannot_be_used_says_why_where_it_is_looked_for(start_prism, tmp_path):
    proxy = start_prism(
        {
            "namespaces": [
                namespace("wrong", probe_library("-DABI=7")),
                namespace("refused", probe_library(), config={"fail_start": 1}),
                namespace("right", probe_library()),
            ]
        }
    )
    assert proxy.call("right", "echo", {"a": 1}).json() == {"a": 1}
    assert "is no plugin: its table is of version 7" in proxy.absence("wrong")
    assert "there is no table 'fail_start'" in proxy.absence("refused")


@pytest.mark.slow
def test_a_shutdown_that_hangs_is_ended(start_prism):
    plugins = [
        namespace("hosted", probe_library(), config={"hang_stop": 1}),
        namespace("here", probe_library(), config={"hang_stop": 1}, isolation="none"),
    ]
    proxy = start_prism({"namespaces": plugins})
    assert proxy.call("hosted", "echo", {"a": 1}).json() == {"a": 1}
    assert proxy.call("here", "echo", {"a": 1}).json() == {"a": 1}
    assert proxy.stop() == 0


def test_config_check_looks_at_the_file_without_loading_it(tmp_path):
    script = tmp_path / "x.so"
    script.write_text("#!/bin/sh\n")
    config = tmp_path / "prism.yaml"
    config.write_text(
        "namespaces:\n  - name: a\n    backend: b\n"
        "    plugin: {type: in_process, library: x.so, isolation: none}\n"
    )
    done = command("config", "check", "--strict", str(config))
    assert done.returncode == 1
    assert f"{script} cannot be loaded: it is no shared library (ELF)" in done.stdout + done.stderr


def test_the_example_as_its_readme_says(start_prism, curl, tmp_path):
    for file in ("echo.c", "prism.yaml"):
        shutil.copy(EXAMPLE / file, tmp_path)
    page = (EXAMPLE / "README.md").read_text()
    build, serve, *calls = re.findall(r"^    (.+)$", page, re.MULTILINE)
    assert serve == "prism serve --config prism.yaml"
    tool("cc")
    build = build.replace("-I../../../schemas/abi", f"-I{SCHEMAS} -Wall -Wextra -Werror -pedantic")
    subprocess.run(build, shell=True, check=True, cwd=tmp_path)
    arguments = ("--config", "prism.yaml", "--port", "0", "--admin-port", "0")
    proxy = start_prism(arguments=arguments)
    answers = [
        curl(*shlex.split(call)[1:-1], shlex.split(call)[-1].replace(PORT, str(proxy.port)))
        for call in calls
    ]
    assert answers == ['{"hello": "library"}', '{"n":1}\n{"n":2}\n{"n":3}\n']
    many = curl(
        "-H", "accept: application/x-ndjson", "-d", '{"to": 20000}', f"{proxy.url}/v1/echo/count"
    )
    assert many.splitlines()[-1] == '{"n":20000}'
