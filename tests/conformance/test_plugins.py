"""Examples and plugins of ours keep the frame protocol, each tried as by `prism plugin test`.

To add one: a line below. The kits of ``sdks/`` are tried by ``tests/sdks/test_kits.py``.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prism.sdk.conformance import DiallingIn, Listening, Setup, Spawned, run
from tests.compliance.subjects import SUBJECTS
from tests.hosts.wasm.modules import save, wat

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"
PATIENCE = 60
"""Seconds for anything that has to come, on a machine that is busy."""
KIT = Setup(
    calls={"echo": {}, "count": {"to": 50}, "sum": [{"n": 1}, {"n": 2}]},
    slow=("sleep", {"seconds": 60}),
    credentials={"password": "hunter2-of-a-kit", "username": "ada"},
)
"""What there is to call in the example of a kit."""
OURS = {
    "sqlite": {"get": {"key": "a"}},
    "postgres": {"get": {"key": "a"}},
    "redis": {"get": {"key": "a"}},
    "kafka": {},
    "memory": {"get": {"key": "a"}},
}
"""Calls that succeed, by the name of a subject of ``tests/compliance``."""


def check(target, setup, *, may_skip=()):
    """Every rule is kept, those that a plugin should keep too."""
    report = run(target, setup)
    told = "\n".join(
        "\n".join([line, *each.frames, *each.output])
        for line, each in zip(
            report.problems(),
            [one for one in report.results if one.outcome == "failed"],
            strict=True,
        )
    )
    assert report.count("failed") == 0, told
    skipped = {each.rule.id for each in report.results if each.outcome == "skipped"}
    assert skipped <= set(may_skip), skipped - set(may_skip)


NO_STREAMS = {
    "credit-obeyed",
    "execute-of-stream",
    "no-data-after-end",
    "stream-cancel",
    "stream-credit",
    "stream-credit-given",
    "stream-half-close",
    "stream-overrun",
}
NOTHING_SLOW = {
    "cancel-running",
    "concurrent",
    "exit-with-calls",
    "health-while-full",
    "ping-while-running",
    "shutdown-closes-calls",
    "sigterm-finishes",
}
NOT_SPAWNED = {
    "dials-until-there",
    "exit-after-shutdown",
    "exit-at-end",
    "exit-before-hello",
    "exit-with-calls",
    "goaway-error-logged",
    "hello-refused-printed",
}
LISTENS = NOT_SPAWNED | {"dials-in", "replaced-ends"}
QUIET = {"codec-msgpack", "declared-schemas", "ids-even", "note-fields", "several-connections"}
"""Of what a plugin need not do."""


def need(program):
    found = shutil.which(program)
    if found is None:
        message = f"{program} is not installed"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return found


def test_the_example_in_c(tmp_path):
    program = tmp_path / "echo"
    source = EXAMPLES / "c" / "echo.c"
    subprocess.run([need("gcc"), "-std=c99", "-o", program, source], check=True, timeout=PATIENCE)
    target = Spawned([str(program)], timeout=PATIENCE)
    check(target, Setup(), may_skip=NO_STREAMS | NOTHING_SLOW | QUIET)


def test_the_example_in_node():
    target = Spawned([need("node"), str(EXAMPLES / "node" / "echo.js")], timeout=PATIENCE)
    check(target, Setup(), may_skip=NO_STREAMS | NOTHING_SLOW | QUIET)


def test_the_example_in_python(tmp_path):
    command = [sys.executable, str(EXAMPLES / "python" / "echo.py")]
    target = DiallingIn(str(tmp_path / "s"), command, timeout=PATIENCE)
    check(target, Setup(), may_skip=NO_STREAMS | NOTHING_SLOW | NOT_SPAWNED | QUIET)


def test_the_sdk(tmp_path):
    """With streams, and calls that take long."""
    path, program = str(tmp_path / "s"), str(Path(__file__).with_name("kit_plugin.py"))
    command = [sys.executable, program, "--listen", f"unix:{path}"]
    target = Listening(path, command, timeout=PATIENCE)
    check(target, KIT, may_skip={"health-while-full", *QUIET, *LISTENS})


def test_the_sdk_as_a_process():
    """Of what is about the process, each started anew."""
    program = str(Path(__file__).with_name("kit_plugin.py"))
    report = run(
        Spawned([sys.executable, program], timeout=PATIENCE),
        KIT,
        only=[*NOT_SPAWNED, "sigterm-goaway", "sigterm-finishes", "replaced-ends"],
    )
    assert {each.rule.id: each.found for each in report.results if each.outcome != "passed"} == {}


@pytest.mark.parametrize("name", OURS)
def test_a_plugin_of_ours(name, request, tmp_path):
    subject = next(each for each in SUBJECTS if each.name == name)
    path = str(tmp_path / "s")
    target = Listening(path, [*subject.command, "--listen", f"unix:{path}"], timeout=PATIENCE)
    config, credentials = subject.setup(request)
    setup = Setup(config=config, credentials=credentials, calls=OURS[name])
    check(target, setup, may_skip=NO_STREAMS | NOTHING_SLOW | LISTENS | QUIET | {"too-large"})


def test_the_host_of_webassembly(tmp_path):
    """Of a module that loops, and has a stream: it takes all that comes, then sends 50 messages."""
    module = save(
        tmp_path / "module.wasm",
        wat(
            imports="""
              (import "prism" "send" (func $send (param i32 i32) (result i32)))
              (import "prism" "receive" (func $receive (result i32)))""",
            run="(loop $again (br $again))",
            pour="""
              (loop $more (br_if $more (i32.ne (call $receive) (i32.const -1))))
              (loop $next
                (global.set $counter (i64.add (global.get $counter) (i64.const 1)))
                (br_if $next (i32.and (call $send (i32.const 1025) (i32.const 2))
                  (i64.ne (i64.rem_u (global.get $counter) (i64.const 50)) (i64.const 0)))))
              (return (call $say (i32.const 1024) (i32.const 3)))""",
        ),
    )
    command = [sys.executable, "-P", "-m", "prism.hosts.wasm", str(module)]
    setup = Setup(
        calls={"other": {}, "pour": [{}, {}]},
        slow=("run", {}),
        credentials={"password": "hunter2-of-a-module"},
    )
    check(
        Spawned(command, timeout=PATIENCE),
        setup,
        may_skip={"health-while-full", "too-large", *QUIET},
    )
