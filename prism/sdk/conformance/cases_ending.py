"""Cases about what is beside calls, and how a connection and its process end."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.sdk.conformance.cases_calls import NOTHING, expect
from prism.sdk.conformance.link import frame_bytes
from prism.sdk.conformance.rules import Needs, Skipped, Violation, tried
from prism.sdk.conformance.runner import Trial
from prism.sdk.conformance.target import (
    DiallingIn,
    Listening,
    Program,
    Running,
    Spawned,
    Target,
)
from prism.sdk.endpoints import SOCKET_VARIABLE
from prism.wire.frames import NOT_STARTED, FrameType

FLOOD = 500
"""PINGs at once; a host that sends above 1,000 unanswered ones is cut off."""
NOBODY_LISTENS = 0.3
"""Seconds for which a plugin that dials finds nobody."""
REASON = "conformance-4d1: a rule was broken"
_STOPPED = (
    "On SIGTERM without\nShutdown, send GOAWAY, finish, and exit, however you were connected."
)


@tried(
    "ping-answered",
    "8",
    "it answers PING",
    "Answer at once with the same token in `aux` and\nthe flag `ACK`.",
    "Answer PING by PING with the flag ACK (4) and the same aux.",
    needs=Needs.SHARED,
)
def ping_answered(trial: Trial) -> None:
    link = trial.shared()
    for token in (0, 1, 2**31, 2**32 - 1):
        link.watch.pinged(token)
        link.send(frame_bytes(FrameType.PING, aux=token))
        frame = link.wait(lambda each: each.kind == FrameType.PING, f"the answer to PING {token}")
        if frame.aux != token or not frame.flags & 4:
            raise Violation(f"PING {token} was answered by aux {frame.aux}, flags {frame.flags}")


@tried(
    "ping-ack-ignored",
    "8",
    "it does not answer an answer",
    "the flag `ACK`",
    "Look at the flag ACK of a PING: one that has it is an answer, and needs none.",
    needs=Needs.SHARED,
)
def ping_ack_ignored(trial: Trial) -> None:
    link = trial.shared()
    link.send(frame_bytes(FrameType.PING, flags=4, aux=3))
    link.ping()
    if link.watch.has_found("ping-token"):
        raise Violation("a PING with the flag ACK was answered")


@tried(
    "ping-flood",
    "8",
    "it answers many PINGs",
    "More than 1,000 unanswered PINGs end it as well.",
    "Answer each PING, in the order in which they came.",
    needs=Needs.SHARED,
)
def ping_flood(trial: Trial) -> None:
    link = trial.shared()
    tokens = range(10_000, 10_000 + FLOOD)
    for token in tokens:
        link.watch.pinged(token)
    link.send_bytes(
        b"".join(frame_bytes(FrameType.PING, aux=token) for token in tokens), f"{FLOOD} PINGs"
    )
    for token in tokens:
        link.pong(token)


@tried(
    "ping-while-running",
    "8",
    "it answers PING while a call runs",
    "**PING** asks whether the other side's loop is alive.",
    "Go on reading while calls run.",
    needs=Needs.SHARED,
)
def ping_while_running(trial: Trial) -> None:
    call = trial.learned().slow()
    link = trial.shared()
    stream = link.begin(Method.EXECUTE, call.request(), aux=0)
    link.ping()
    if stream not in link.watch.open_calls:
        raise Skipped(f"{call.operation} was answered at once; --slow names one that takes long")
    link.send(link.cancel(stream))
    link.close_of(stream)


@tried(
    "goaway-then-calls",
    "8",
    "it serves calls that come after the host's GOAWAY",
    "Before a drain, it is a courtesy, which you may ignore: calls that it had begun to\nmake may "
    "still be opened after it (serve them), then Shutdown comes.",
    "Log the reason of GOAWAY, and go on.",
)
def goaway_then_calls(trial: Trial) -> None:
    link = trial.ready().link
    call = trial.facts.any_unary() if trial.facts.answer else None
    link.send(frame_bytes(FrameType.GOAWAY, payload=b'{"reason":"reload"}'))
    expect(link.call(Method.HEALTH_CHECK, {}), StatusCode.OK, "a HealthCheck after GOAWAY")
    if call is not None:
        answer = link.call(Method.EXECUTE, call.request())
        if answer.frame.flags & NOT_STARTED:
            raise Violation("a call after the host's GOAWAY was refused as not started")
    expect(link.call(Method.SHUTDOWN, {"timeout_seconds": 5}), StatusCode.OK, "Shutdown")
    link.expect_end("after Shutdown")


@tried(
    "goaway-without-payload",
    "3",
    "a GOAWAY may have no payload",
    '| 8 | GOAWAY | 0 | | `{"reason": "…"}`, JSON, or nothing | highest call id served |',
    "Take an empty payload of GOAWAY for no reason.",
)
def goaway_without_payload(trial: Trial) -> None:
    link = trial.ready().link
    link.send(frame_bytes(FrameType.GOAWAY))
    link.call(Method.HEALTH_CHECK, {})


@tried(
    "goaway-error-logged",
    "8",
    "it logs why the host breaks off",
    "Log its reason.",
    "Write the reason of GOAWAY to the log or to standard error.",
    severity="should",
)
def goaway_error_logged(trial: Trial) -> None:
    if not trial.target.spawns:
        raise Skipped("what it prints is known of a process that is started for the connection")
    running = trial.ready()
    payload = b'{"reason":"%s"}' % REASON.encode()
    running.link.send(frame_bytes(FrameType.GOAWAY, payload=payload))
    running.link.close()
    running.exit_status("after the end of the stream")
    if REASON not in running.output:
        raise Violation("the reason of the host's GOAWAY is not in what it printed")


@tried(
    "shutdown-answered",
    "9",
    "Shutdown is answered before the connection ends",
    "answer, and close the connection.",
    "Write the CLOSE of Shutdown out, and wait until it has left, before you close or exit.",
)
def shutdown_answered(trial: Trial) -> None:
    link = trial.ready().link
    answer = link.call(Method.SHUTDOWN, {"timeout_seconds": 5, "reason": "stop"})
    expect(answer, StatusCode.OK, "Shutdown")
    if not answer.message.get("success"):
        raise Violation(f"Shutdown was answered with {answer.message}")
    frames = link.expect_end("after Shutdown")
    late = [frame.name for frame in frames if frame.kind not in (FrameType.NOTE, FrameType.GOAWAY)]
    if late:
        raise Violation(f"{late[0]} came after the CLOSE of Shutdown")


@tried(
    "shutdown-closes-calls",
    "9",
    "Shutdown closes what is left",
    "let running ones finish for up to\n`timeout_seconds`, close the backend, close what is left, "
    "answer, and close the connection.",
    "Cancel the calls that run when timeout_seconds are over, and send the CLOSE of each before "
    "that of Shutdown.",
)
def shutdown_closes_calls(trial: Trial) -> None:
    call = trial.learned().slow()
    link = trial.ready().link
    stream = link.begin(Method.EXECUTE, call.request(), aux=0)
    link.ping()
    link.call(Method.SHUTDOWN, {"timeout_seconds": 1})  # which may say that it broke one off
    if stream in link.watch.open_calls:
        raise Violation(f"Shutdown was answered before call {stream} had its CLOSE")
    link.expect_end("after Shutdown")


@tried(
    "shutdown-refuses-calls",
    "9",
    "no new call is begun after Shutdown",
    "On Shutdown: refuse new calls (UNAVAILABLE, NOT_STARTED)",
    "Answer what is opened after Shutdown by UNAVAILABLE (14) and the flag NOT_STARTED (2).",
)
def shutdown_refuses_calls(trial: Trial) -> None:
    link = trial.ready().link
    _, shutdown = link.open(Method.SHUTDOWN, {"timeout_seconds": 5})
    late, raw = link.open(Method.EXECUTE, {"operation": NOTHING, "params_json": "{}"})
    link.send(shutdown, raw)
    for frame in link.expect_end("after Shutdown"):
        if frame.kind != FrameType.CLOSE or frame.stream != late:
            continue
        if frame.aux != StatusCode.UNAVAILABLE or not frame.flags & NOT_STARTED:
            raise Violation(
                f"a call that was opened after Shutdown has status {frame.aux}, flags {frame.flags}"
            )
        return


@tried(
    "exit-after-shutdown",
    "2",
    "its process ends with status 0 after Shutdown",
    "- **started by the proxy** (`PRISM_PLUGIN_FD`): it exits, with status 0.",
    "Exit with status 0 when Shutdown was answered; leave no thread that keeps the process.",
)
def exit_after_shutdown(trial: Trial) -> None:
    if not trial.target.spawns:
        raise Skipped("it is not started for the connection")
    running = trial.ready()
    running.link.call(Method.SHUTDOWN, {"timeout_seconds": 5, "reason": "stop"})
    status = running.exit_status("after Shutdown")
    if status:
        raise Violation(f"the process exited with status {status} after Shutdown")


@tried(
    "exit-at-end",
    "2",
    "its process ends with status 0 at the end of the stream",
    "A plugin's life is its connection: it is over after [Shutdown](#9-drain-and-shutdown), and "
    "when the\nstream ends (the host is gone).",
    "Exit with status 0 when reading tells the end of the stream, or that it was reset.",
)
def exit_at_end(trial: Trial) -> None:
    if not trial.target.spawns:
        raise Skipped("it is not started for the connection")
    running = trial.ready()
    running.link.close()
    status = running.exit_status("after the end of the stream")
    if status:
        raise Violation(f"the process exited with status {status} at the end of the stream")


@tried(
    "exit-before-hello",
    "2",
    "its process ends where the host leaves before its HELLO",
    "A plugin's life is its connection: it is over after [Shutdown](#9-drain-and-shutdown), and "
    "when the\nstream ends (the host is gone).",
    "Look for the end of the stream while you wait for the host's HELLO, too.",
)
def exit_before_hello(trial: Trial) -> None:
    if not trial.target.spawns:
        raise Skipped("it is not started for the connection")
    running = trial.fresh()
    running.link.take_offer()
    running.link.close()
    running.exit_status("after the end of the stream, before the host's HELLO")


@tried(
    "exit-with-calls",
    "9",
    "the end of the stream ends what runs",
    "If the\nstream ends without Shutdown, cancel what is running and close the backend.",
    "Cancel the calls that run, and exit.",
)
def exit_with_calls(trial: Trial) -> None:
    if not trial.target.spawns:
        raise Skipped("it is not started for the connection")
    call = trial.learned().slow()
    running = trial.ready()
    running.link.begin(Method.EXECUTE, call.request(), aux=0)
    running.link.ping()
    running.link.close()
    running.exit_status("after the end of the stream, while a call ran")


@tried(
    "sigterm-goaway",
    "9",
    "at SIGTERM it says GOAWAY, and exits",
    _STOPPED,
    "Handle SIGTERM: send GOAWAY, close what is left, close the connection and exit.",
)
def sigterm_goaway(trial: Trial) -> None:
    running = trial.ready()
    program = running.program
    running.link.remark("SIGTERM")
    program.send_signal(signal.SIGTERM)
    frames = running.link.expect_end("after SIGTERM")
    if not any(frame.kind == FrameType.GOAWAY for frame in frames):
        raise Violation("it ended the connection at SIGTERM without a GOAWAY before")
    running.exit_status("after SIGTERM")


@tried(
    "sigterm-finishes",
    "9",
    "at SIGTERM, calls that run get their CLOSE",
    _STOPPED,
    "Let calls that run finish, or close them, before you close the connection.",
)
def sigterm_finishes(trial: Trial) -> None:
    call = trial.learned().slow()
    running = trial.ready()
    program = running.program
    stream = running.link.begin(Method.EXECUTE, call.request(), aux=0)
    running.link.ping()
    if stream not in running.link.watch.open_calls:
        raise Skipped(f"{call.operation} was answered at once; --slow names one that takes long")
    program.send_signal(signal.SIGTERM)
    running.link.wait(lambda frame: frame.kind == FrameType.GOAWAY, "GOAWAY after SIGTERM")
    running.link.send(running.link.cancel(stream))
    running.link.close_of(stream)


_STAYS = (
    "- **dialling in or listening**: it was started by somebody else, so it stays. It closes this\n"
    "  connection, and dials again or goes on accepting"
)


@contextmanager
def _staying(trial: Trial) -> Iterator[Target]:
    """The plugin as one that stays when its connection has ended."""
    if not isinstance(trial.target, Spawned):
        trial.end_shared()
        yield trial.target
        return
    with TemporaryDirectory() as folder:
        target = DiallingIn(
            f"{folder}/s",
            trial.target.command,
            timeout=trial.timeout,
            environment=trial.target.environment,
        )
        target.redaction = trial.target.redaction
        try:
            yield target
        finally:
            trial.end_begun()
            target.close()


def _served_once(trial: Trial, target: Target, *, reason: str = "stop") -> Running:
    running = target.connect()
    trial.begun.append(running)
    running.link.handshake()
    trial.initialize(running.link)
    request = {"timeout_seconds": 5, "reason": reason}
    expect(running.link.call(Method.SHUTDOWN, request), StatusCode.OK, "Shutdown")
    running.link.expect_end("after Shutdown")
    running.link.close()
    return running


@tried(
    "dials-in",
    "2",
    "it dials the proxy's socket",
    "A plugin needs the first, and should have the second",
    "Where PLUGIN_SOCKET is set, and PRISM_PLUGIN_FD is not, connect to that path.",
    severity="should",
)
def dials_in(trial: Trial) -> None:
    if isinstance(trial.target, Listening):
        raise Skipped("it listens")
    trial.dials = False
    with _staying(trial) as target:
        running = target.connect()
        trial.begun.append(running)
        running.link.take_offer()
    trial.dials = True


@tried(
    "dials-until-there",
    "2",
    "it goes on trying while nobody listens",
    "While that fails (no such file, connection refused), wait and try again",
    "Try again after 0.1 s, and then after twice as long each time, at most 5 s.",
)
def dials_until_there(trial: Trial) -> None:
    if not isinstance(trial.target, Spawned):
        raise Skipped("it is not started here")
    _must_dial_in(trial)
    target = trial.target
    with TemporaryDirectory() as folder:
        path = f"{folder}/later"
        variables = {SOCKET_VARIABLE: path}
        program = Program(target.command, variables, environment=target.environment)
        try:
            time.sleep(NOBODY_LISTENS)
            late = DiallingIn(path, timeout=trial.timeout)
            try:
                trial.begun.append(late.connect())
                trial.begun[-1].link.take_offer()
            finally:
                trial.end_begun()
                late.close()
        finally:
            program.end()


@tried(
    "stays-after-shutdown",
    "2",
    "one that dials in or listens stays after Shutdown, and begins anew",
    _STAYS,
    "After Shutdown close the connection, and dial again, or accept the next one: from HELLO on.",
)
def stays_after_shutdown(trial: Trial) -> None:
    _must_dial_in(trial)
    with _staying(trial) as target:
        first = _served_once(trial, target)
        second = target.connect()
        trial.begun.append(second)
        _the_same(first, second, "after Shutdown")
        second.link.handshake()
        early = second.link.call(Method.EXECUTE, {"operation": NOTHING})
        expect(early, StatusCode.FAILED_PRECONDITION, "an Execute on a new connection")
        trial.initialize(second.link)


@tried(
    "stays-after-end",
    "2",
    "one that dials in or listens stays where the host goes",
    _STAYS,
    "At the end of the stream close the connection, and dial again, or accept the next one.",
)
def stays_after_end(trial: Trial) -> None:
    _must_dial_in(trial)
    with _staying(trial) as target:
        first = target.connect()
        trial.begun.append(first)
        first.link.handshake()
        trial.initialize(first.link)
        first.link.close()
        second = target.connect()
        trial.begun.append(second)
        _the_same(first, second, "at the end of the stream")
        second.link.handshake()
        trial.initialize(second.link)


@tried(
    "replaced-ends",
    "7",
    "one that dials in ends where another has its place",
    "another process has this\none's place, so a plugin that dials in should end instead of "
    "dialling again.",
    'Exit after a Shutdown whose reason is "replaced".',
    severity="should",
)
def replaced_ends(trial: Trial) -> None:
    if isinstance(trial.target, Listening):
        raise Skipped("it listens")
    _must_dial_in(trial)
    with _staying(trial) as target:
        running = _served_once(trial, target, reason="replaced")
        running.exit_status('after a Shutdown whose reason is "replaced"')


@tried(
    "sigterm-dialled-in",
    "9",
    "at SIGTERM it exits, however it was connected",
    _STOPPED,
    "Do not dial again after SIGTERM.",
)
def sigterm_dialled_in(trial: Trial) -> None:
    _must_dial_in(trial)
    with _staying(trial) as target:
        running = target.connect()
        trial.begun.append(running)
        program = running.program
        running.link.handshake()
        trial.initialize(running.link)
        program.send_signal(signal.SIGTERM)
        frames = running.link.expect_end("after SIGTERM")
        if not any(frame.kind == FrameType.GOAWAY for frame in frames):
            raise Violation("it ended the connection at SIGTERM without a GOAWAY before")
        running.exit_status("after SIGTERM")


@tried(
    "several-connections",
    "2",
    "one that listens serves several connections at once",
    "A plugin that listens may have several connections at once",
    "Keep calls, credit, codec and what Initialize said by connection; accept while one is served.",
)
def several_connections(trial: Trial) -> None:
    if not isinstance(trial.target, Listening):
        raise Skipped("it does not listen")
    first, second = trial.ready(), trial.ready()
    _, raw = first.link.open(Method.SHUTDOWN, {"timeout_seconds": 5})
    first.link.send(raw)
    first.link.expect_end("after Shutdown")
    expect(second.link.call(Method.HEALTH_CHECK, {}), StatusCode.OK, "a HealthCheck")


def _the_same(first: Running, second: Running, when: str) -> None:
    """Raises Violation where the second connection is of another process: the first has ended."""
    if first.process is not second.process:
        raise Violation(f"the process ended {when}; it was started again to be reached")


def _must_dial_in(trial: Trial) -> None:
    """Raises Skipped where the plugin has the inherited descriptor alone."""
    if trial.dials is False:
        raise Skipped("it does not dial in")
