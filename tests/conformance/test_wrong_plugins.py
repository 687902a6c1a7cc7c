"""Each rule catches a plugin that breaks it, and the right one keeps them all.

``wrong_plugin.py`` is that plugin, with a switch for each fault.
"""

import sys
from pathlib import Path

import pytest

from prism.sdk.conformance import RULES, Listening, Setup, Spawned, run

PROGRAM = Path(__file__).with_name("wrong_plugin.py")
PATIENCE = 60
"""Seconds for what has to come."""
IMPATIENCE = 2
"""Seconds for what has to come and, of a wrong plugin, does not."""

FAULTS = [
    ("hello-waits", "hello-first"),
    ("hello-limit", "hello-fields"),
    ("hello-nameless", "hello-named"),
    ("talks-before-host", "hello-then-silence"),
    ("refusal-unread", "hello-refused"),
    ("refusal-unsaid", "hello-refused-printed"),
    ("version-unchecked", "version-not-offered"),
    ("codec-taken", "codec-not-offered"),
    ("msgpack-in-name-only", "codec-msgpack"),
    ("unknown-refused", "hello-unknown-fields"),
    ("needs-whole-frames", "frames-cut"),
    ("rest-dropped", "frames-together"),
    ("type-ignored", "header-first-type"),
    ("header-late", "header-first-type"),
    ("any-length", "header-first-length"),
    ("stream-unchecked", "frame-on-wrong-stream"),
    ("stream-unchecked", "ping-on-a-call"),
    ("cancel-payload-taken", "cancel-with-payload"),
    ("hello-again-taken", "hello-again"),
    ("ids-unchecked", "open-even-id"),
    ("ids-again", "open-id-again"),
    ("method-answered", "open-unknown-method"),
    ("never-opened-taken", "frame-never-opened"),
    ("never-opened-taken", "data-never-opened"),
    ("json-unchecked", "payload-not-json"),
    ("rest-ignored", "payload-two-values"),
    ("array-taken", "payload-no-object"),
    ("utf8-unchecked", "payload-not-utf8"),
    ("codec-unchecked", "payload-wrong-codec"),
    ("breaks-off-in-silence", "goaway-told"),
    ("flags-strict", "reserved-ignored"),
    ("empty-refused", "empty-payload"),
    ("deep-refused", "unknown-fields"),
    ("unknown-refused", "unknown-fields"),
    ("first-key", "duplicate-keys"),
    ("says-nothing-to-call", "initialize-answer"),
    ("name-with-hyphen", "operation-names"),
    ("schema-no-object", "declared-schemas"),
    ("initialized-again", "initialize-twice"),
    ("serves-early", "execute-first"),
    ("streams-early", "execute-first"),
    ("health-optimistic", "health-first"),
    ("shutdown-needs-initialize", "shutdown-first"),
    ("config-exits", "initialize-refused"),
    ("config-refused-in-silence", "initialize-refused"),
    ("cache-taken", "cache-refused"),
    ("health-without-status", "health-status"),
    ("unknown-is-internal", "operation-unknown"),
    ("params-crash", "params-wrong"),
    ("params-any", "params-no-object"),
    ("params-needed", "params-absent"),
    ("raw-unread", "params-raw"),
    ("metadata-strict", "metadata-unknown"),
    ("answers-every-other", "close-each"),
    ("ids-without-gaps", "ids-leave-gaps"),
    ("cancel-drops-answer", "cancel-closed"),
    ("cancel-unheard", "cancel-running"),
    ("cancel-unclosed", "cancel-running"),
    ("late-frames-break", "cancel-late"),
    ("deadline-signed", "deadline-short"),
    ("one-at-a-time", "concurrent"),
    ("full-for-health", "health-while-full"),
    ("too-long", "too-large"),
    ("too-large-unflagged", "too-large"),
    ("initialize-huge", "too-large-initialize"),
    ("tells-credentials", "credentials-kept"),
    ("prints-credentials", "credentials-kept"),
    ("ping-unanswered", "ping-answered"),
    ("ping-token-lost", "ping-answered"),
    ("ping-ack-answered", "ping-ack-ignored"),
    ("pings-counted", "ping-flood"),
    ("ping-while-idle", "ping-while-running"),
    ("goaway-ends", "goaway-then-calls"),
    ("goaway-needs-reason", "goaway-without-payload"),
    ("goaway-unsaid", "goaway-error-logged"),
    ("shutdown-in-silence", "shutdown-answered"),
    ("shutdown-unsuccessful", "shutdown-answered"),
    ("shutdown-stays", "shutdown-answered"),
    ("talks-after-shutdown", "shutdown-answered"),
    ("shutdown-first-itself", "shutdown-closes-calls"),
    ("begins-after-shutdown", "shutdown-refuses-calls"),
    ("exit-status", "exit-after-shutdown"),
    ("stays-behind", "exit-after-shutdown"),
    ("exit-status", "exit-at-end"),
    ("hangs-at-end", "exit-before-hello"),
    ("hangs-at-end", "exit-with-calls"),
    ("sigterm-in-silence", "sigterm-goaway"),
    ("sigterm-ignored", "sigterm-goaway"),
    ("sigterm-breaks-calls", "sigterm-finishes"),
    ("descriptor-only", "dials-in"),
    ("dials-once", "dials-until-there"),
    ("leaves-after-one", "stays-after-shutdown"),
    ("keeps-state", "stays-after-shutdown"),
    ("leaves-after-one", "stays-after-end"),
    ("replaced-dials", "replaced-ends"),
    ("sigterm-in-silence", "sigterm-dialled-in"),
    ("one-connection", "several-connections"),
    ("unary-streamed", "stream-of-unary"),
    ("stream-unknown-taken", "stream-unknown"),
    ("late-data-breaks", "stream-data-late"),
    ("stream-executed", "execute-of-stream"),
    ("cancel-unclosed-stream", "stream-cancel"),
    ("half-close-taken", "stream-half-close"),
    ("credit-ignored", "stream-credit"),
    ("credit-unheard", "stream-credit"),
    ("credit-kept", "stream-credit-given"),
    ("overrun-ends-connection", "stream-overrun"),
    ("credit-refused", "credit-for-unary"),
    ("frame-unknown", "frame-header"),
    ("ping-with-stream", "frame-header"),
    ("too-long", "frame-length"),
    ("codec-wrong", "payload-codec"),
    ("payload-twice", "payload-message"),
    ("close-twice", "one-close"),
    ("close-never-opened", "never-opened"),
    ("error-code-other", "error-code"),
    ("status-unknown", "status-known"),
    ("no-sentence", "error-sentence"),
    ("success-with-status", "success-and-status"),
    ("success-missing", "success-and-status"),
    ("result-no-json", "result-json"),
    ("data-for-unary", "no-data-for-unary"),
    ("data-after-end", "no-data-after-end"),
    ("credit-ignored", "credit-obeyed"),
    ("ping-ack-answered", "ping-token"),
    ("note-level", "note-fields"),
    ("note-milliseconds", "note-fields"),
    ("note-long", "note-fields"),
    ("hello-twice", "hello-once"),
    ("opens-odd", "ids-even"),
    ("prints-credentials", "no-secrets"),
]
WITHOUT_FRAMES = {"hello-first", "dials-in", "dials-until-there"}
LISTENS = {"several-connections"}


def setup() -> Setup:
    calls = {"echo": {}, "count": {"to": 50}, "sum": [{"n": 1}, {"n": 2}]}
    return Setup(calls=calls, slow=("sleep", {}), credentials={"password": "hunter2-of-wrong"})


def target(fault, tmp_path, *, timeout, listens=False):
    command = [sys.executable, "-S", str(PROGRAM), fault]
    if not listens:
        return Spawned(command, timeout=timeout)
    path = str(tmp_path / "s")
    return Listening(path, command, timeout=timeout, environment={"LISTEN_AT": path})


def test_the_right_one_keeps_all(tmp_path):
    report = run(target("", tmp_path, timeout=PATIENCE), setup())
    assert report.problems() == []
    assert {each.rule.id for each in report.results if each.outcome == "skipped"} == {
        "codec-msgpack",  # it offers JSON
        "declared-schemas",  # it has none
        "ids-even",  # it opens no calls
        "note-fields",  # it says nothing by itself
        "several-connections",  # it does not listen
    }


def test_the_right_one_listens(tmp_path):
    wanted = ["several-connections", "stays-after-shutdown", "stays-after-end"]
    report = run(target("", tmp_path, timeout=PATIENCE, listens=True), setup(), only=wanted)
    assert [each.outcome for each in report.results] == ["passed"] * 3


@pytest.mark.parametrize(("fault", "rule"), FAULTS, ids=[f"{f}-{r}" for f, r in FAULTS])
def test_a_wrong_one_is_caught(tmp_path, fault, rule):
    wrong = target(fault, tmp_path, timeout=IMPATIENCE, listens=rule in LISTENS)
    report = run(wrong, setup(), only=[rule])
    (result,) = report.results
    assert result.outcome == "failed", result.found
    assert result.found
    slow = "within" in result.found[0]  # nothing came, which a busy machine can do as well
    assert result.frames or rule in WITHOUT_FRAMES or slow


def test_each_rule_catches_one():
    assert set(RULES) - {rule for _, rule in FAULTS} == set()


def test_the_table_is_the_programs():
    known = PROGRAM.read_text()
    assert [fault for fault, _ in FAULTS if f'"{fault}"' not in known] == []
