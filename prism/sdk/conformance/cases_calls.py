"""Cases about calls: Initialize, HealthCheck, Execute, and what may become of a call."""

import json
import re
from typing import Any

from prism.contract.names import OPERATION, OPERATION_FORM
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.sdk.conformance.facts import CANARY
from prism.sdk.conformance.link import Answer, Limits, Link, frame_bytes
from prism.sdk.conformance.rules import Needs, Skipped, Violation, tried
from prism.sdk.conformance.runner import Trial
from prism.wire.frames import NOT_STARTED, TOO_LARGE, FrameType

NOTHING = "prism_conformance_nothing"
"""An operation that no plugin has."""
MANY = 50
"""Calls that are made at a time, if the plugin takes as many."""
_INITIALIZED_ONCE = (
    "A second one is answered\nFAILED_PRECONDITION; so is an Execute or ExecuteStream before it."
)


def expect(answer: Answer, status: StatusCode, what: str) -> None:
    """Hold a call to a status.

    Raises:
        Violation: it has another.
    """
    if answer.status != status:
        error = answer.message.get("error")
        said = f" ({error})" if error else ""
        raise Violation(
            f"{what} was answered with status {_name(answer.status)}{said}; it is {_name(status)}"
        )


def _name(status: int) -> str:
    known = StatusCode.from_wire(status)
    return f"{status} {known.name}" if known == status else str(status)


@tried(
    "initialize-answer",
    "7",
    "its answer to Initialize says what there is to call",
    "What is not in the lists is never called.",
    "Answer Initialize with success, and with operations or supported_operations.",
    needs=Needs.SHARED,
)
def initialize_answer(trial: Trial) -> None:
    trial.shared()
    if not trial.learned().operations:
        raise Violation("neither operations nor supported_operations names an operation")


@tried(
    "operation-names",
    "7",
    "its operations have names that can be called",
    "An operation's name is 1 to 64 lower-case letters, digits and underscores, a letter first",
    "Rename the operation: clients cannot call it, and the proxy refuses the plugin.",
    needs=Needs.SHARED,
)
def operation_names(trial: Trial) -> None:
    trial.shared()
    answer: dict[str, Any] = trial.learned().answer or {}
    declared = [each.get("name", "") for each in answer.get("operations") or []]
    names = [*(answer.get("supported_operations") or []), *declared]
    wrong = sorted({name for name in names if not re.fullmatch(OPERATION, name)})
    if wrong:
        shown = ", ".join(json.dumps(name) for name in wrong[:5])
        raise Violation(f"{shown}: a name is {OPERATION_FORM}")
    double = sorted({name for name in declared if declared.count(name) > 1})
    if double:
        raise Violation(f"declared more than once: {', '.join(double)}")


@tried(
    "declared-schemas",
    "7",
    "the schemas it declares are JSON objects",
    "A text that is no JSON object is left out, with a warning in the proxy's log.",
    "Write each schema as the text of a JSON Schema object.",
    needs=Needs.SHARED,
    severity="should",
)
def declared_schemas(trial: Trial) -> None:
    trial.shared()
    fields = ("params_schema", "result_schema", "stream_params_schema", "stream_result_schema")
    found = False
    for each in trial.learned().operations:
        for field in fields:
            if not (text := each.get(field)):
                continue
            found = True
            try:
                schema = json.loads(text)
            except ValueError:
                schema = None
            if not isinstance(schema, dict):
                raise Violation(f"{field} of {each['name']} is no JSON object: {text[:80]}")
    if not found:
        raise Skipped("it declares none")


@tried(
    "initialize-twice",
    "7",
    "a second Initialize is refused",
    _INITIALIZED_ONCE,
    "Remember that Initialize has succeeded; answer the next with FAILED_PRECONDITION (9).",
    needs=Needs.SHARED,
)
def initialize_twice(trial: Trial) -> None:
    answer = trial.shared().call(Method.INITIALIZE, trial.setup.initialize())
    expect(answer, StatusCode.FAILED_PRECONDITION, "a second Initialize")


@tried(
    "execute-first",
    "7",
    "an Execute before Initialize is refused",
    _INITIALIZED_ONCE,
    "Answer Execute and ExecuteStream with FAILED_PRECONDITION (9) until Initialize has succeeded.",
)
def execute_first(trial: Trial) -> None:
    names = [trial.learned().any_unary().operation] if trial.learned().operations else []
    link = trial.greeted().link
    for name in [*names, NOTHING]:
        answer = link.call(Method.EXECUTE, {"operation": name, "params_json": "{}"})
        expect(answer, StatusCode.FAILED_PRECONDITION, "an Execute before Initialize")
        stream = link.call(Method.EXECUTE_STREAM, {"operation": name, "params_json": "{}"})
        expect(stream, StatusCode.FAILED_PRECONDITION, "an ExecuteStream before Initialize")


@tried(
    "health-first",
    "7",
    "a HealthCheck before Initialize says unhealthy",
    "A HealthCheck before it is answered with `status` 2",
    'Answer {"status": 2} until Initialize has succeeded.',
)
def health_first(trial: Trial) -> None:
    answer = trial.greeted().link.call(Method.HEALTH_CHECK, {})
    expect(answer, StatusCode.OK, "a HealthCheck before Initialize")
    if answer.message.get("status") != 2:
        raise Violation(f"a HealthCheck before Initialize was answered with {answer.message}")


@tried(
    "shutdown-first",
    "7",
    "a Shutdown before Initialize is obeyed",
    "and a Shutdown is obeyed.",
    "Answer Shutdown whether Initialize has come or not, and close the connection.",
)
def shutdown_first(trial: Trial) -> None:
    link = trial.greeted().link
    expect(link.call(Method.SHUTDOWN, {"timeout_seconds": 1}), StatusCode.OK, "Shutdown")
    link.expect_end("after Shutdown, which came before Initialize")


@tried(
    "initialize-refused",
    "7",
    "an Initialize that it cannot use is refused with a sentence",
    'answer with `{"error": "…", "error_code": 3}`: `success` stays false, and the text is '
    "shown\nto the operator.",
    "Answer a config that cannot be used by CLOSE with INVALID_ARGUMENT and a sentence; never "
    "end the process.",
)
def initialize_refused(trial: Trial) -> None:
    for config in ('{"conformance":', '[1, "two"]', '{"prism_conformance_unknown": {"a": 1}}'):
        link = trial.greeted().link
        answer = link.call(Method.INITIALIZE, trial.setup.initialize(config_json=config))
        if answer.message.get("success"):
            continue  # a plugin may have no use for config
        if not answer.message.get("error"):
            raise Violation(f"Initialize with config_json {config} was refused without a sentence")
        if not answer.message.get("error_code") or answer.ok:
            raise Violation(
                f"Initialize with config_json {config} was refused with status {answer.status} "
                f"and error_code {answer.message.get('error_code', 0)}"
            )
        health = link.call(Method.HEALTH_CHECK, {})
        if health.message.get("status") != 2:
            raise Violation(
                f"after an Initialize that failed, HealthCheck was answered with {health.message}"
            )


@tried(
    "cache-refused",
    "7",
    "it refuses to keep what it cannot",
    "A plugin that cannot refuses, as below.",
    "Answer an Initialize with `cache`, where you keep no results or have no such operation, by "
    "INVALID_ARGUMENT and a sentence.",
)
def cache_refused(trial: Trial) -> None:
    cache = {"operations": [NOTHING], "ttl_seconds": 60.0, "max_bytes": 1 << 20}
    link = trial.greeted().link
    answer = link.call(Method.INITIALIZE, trial.setup.initialize(cache=cache))
    if answer.message.get("success"):
        raise Violation(
            f"it was asked to keep results of {NOTHING}, an operation that it does not have, and "
            "answered with success"
        )


@tried(
    "health-status",
    "7",
    "HealthCheck always writes its status",
    "**A reply without `status` counts as unhealthy**, so always write it.",
    'Write "status": 0 too, though it is the default of numbers.',
    needs=Needs.SHARED,
)
def health_status(trial: Trial) -> None:
    link = trial.shared()
    for request in ({}, {"connection_id": "prism-conformance"}):
        answer = link.call(Method.HEALTH_CHECK, request)
        if answer.message.get("status") not in (0, 1, 2):
            raise Violation(f"HealthCheck was answered with {answer.message}")


@tried(
    "operation-unknown",
    "11",
    "an operation that there is not is UNIMPLEMENTED",
    "| 12 | UNIMPLEMENTED | no such operation |",
    "Look the operation up in a table of your own, not among what an object inherits; answer "
    "UNIMPLEMENTED (12).",
    needs=Needs.SHARED,
)
def operation_unknown(trial: Trial) -> None:
    link = trial.shared()
    for name in (NOTHING, "", "toString", "__proto__", "constructor", "__init__", "x" * 300):
        answer = link.call(Method.EXECUTE, {"operation": name, "params_json": "{}"})
        expect(answer, StatusCode.UNIMPLEMENTED, f"an Execute of {json.dumps(name[:40])}")


@tried(
    "params-wrong",
    "11",
    "params that are not JSON are INVALID_ARGUMENT",
    "| 3 | INVALID_ARGUMENT | wrong parameters |",
    "Parse params_json strictly, and answer INVALID_ARGUMENT (3) where it is not JSON.",
    needs=Needs.SHARED,
)
def params_wrong(trial: Trial) -> None:
    link = trial.shared()
    name = trial.learned().any_unary().operation
    for params in ("{", '{"a":1} {}', "nonsense"):
        answer = link.call(Method.EXECUTE, {"operation": name, "params_json": params})
        expect(answer, StatusCode.INVALID_ARGUMENT, f"an Execute of {name} with params {params}")


@tried(
    "params-no-object",
    "7",
    "params that are no object do no harm",
    "An operation that takes an object answers what is none by INVALID_ARGUMENT.",
    "Answer INVALID_ARGUMENT (3) where params_json is JSON, but no object.",
    needs=Needs.SHARED,
    severity="should",
)
def params_no_object(trial: Trial) -> None:
    link = trial.shared()
    name = trial.learned().any_unary().operation
    for params in ("[]", "null", "7", '"text"'):
        answer = link.call(Method.EXECUTE, {"operation": name, "params_json": params})
        expect(answer, StatusCode.INVALID_ARGUMENT, f"an Execute of {name} with params {params}")


@tried(
    "params-absent",
    "7",
    "absent params are no params",
    "Absent `params_json` means no parameters: `{}`.",
    "Take a missing or empty params_json for {}.",
    needs=Needs.SHARED,
)
def params_absent(trial: Trial) -> None:
    link = trial.shared()
    name = trial.learned().any_unary().operation
    written = link.call(Method.EXECUTE, {"operation": name, "params_json": "{}"})
    absent = link.call(Method.EXECUTE, {"operation": name})
    if absent.status != written.status:
        raise Violation(
            f"{name} with params {{}} has status {_name(written.status)}, without params "
            f"{_name(absent.status)}"
        )


@tried(
    "params-raw",
    "7",
    "MessagePack params are answered in kind, or refused",
    "A plugin that does not know MessagePack answers\na request with `params_raw` by "
    "INVALID_ARGUMENT.",
    "Look at params_raw: read it as MessagePack and answer with result_raw, or answer "
    "INVALID_ARGUMENT (3); do not take it for no params.",
    needs=Needs.SHARED,
)
def params_raw(trial: Trial) -> None:
    link = trial.shared()
    name = trial.learned().any_unary().operation
    # A map with one key, twice nested, then what is no MessagePack at all.
    answer = link.call(Method.EXECUTE, {"operation": name, "params_raw": b"\x81\xa1k\xa1v"})
    if answer.ok and not answer.message.get("result_raw"):
        raise Violation("params_raw was answered with success, and no result_raw")
    wrong = link.call(Method.EXECUTE, {"operation": name, "params_raw": b"\xc1"})
    expect(wrong, StatusCode.INVALID_ARGUMENT, "an Execute with params_raw that nobody can read")


@tried(
    "metadata-unknown",
    "7",
    "it ignores metadata that it does not know",
    "Any of them may be absent; ignore keys you do not know.",
    "Look up the keys that you need, and no others.",
    needs=Needs.SHARED,
)
def metadata_unknown(trial: Trial) -> None:
    link = trial.shared()
    call = trial.learned().any_unary()
    plain = link.call(Method.EXECUTE, call.request())
    metadata = {"prism-future": "1", "x": "\u00fc\u4e2d", "prism-request-id": "r1", "empty": ""}
    odd = link.call(Method.EXECUTE, {**call.request(), "metadata": metadata})
    if odd.status != plain.status:
        raise Violation(
            f"a call has status {_name(plain.status)}, with metadata {_name(odd.status)}"
        )


@tried(
    "close-each",
    "5",
    "each of many calls gets its CLOSE",
    "success, failure, an unknown operation, a cancelled call, a call refused for lack of room.",
    "Answer every OPEN by one CLOSE with its id, also where the call fails.",
    needs=Needs.SHARED,
)
def close_each(trial: Trial) -> None:
    link = trial.shared()
    call = trial.learned().any_unary()
    many = min(MANY, int(link.offer.get("max_streams") or 100))
    wrong = {"operation": NOTHING, "params_json": "{"}
    opened = [
        link.open(Method.EXECUTE, call.request() if number % 3 else wrong) for number in range(many)
    ]
    link.send(*(raw for _, raw in opened))
    for stream, _ in opened:
        link.close_of(stream)


@tried(
    "ids-leave-gaps",
    "5",
    "ids may leave gaps",
    "Ids only grow, may leave gaps, and are never used twice on a connection.",
    "Compare an id only with the highest so far.",
    needs=Needs.SHARED,
)
def ids_leave_gaps(trial: Trial) -> None:
    link = trial.shared()
    link.call(Method.HEALTH_CHECK, {})
    stream = max(link.watch.opened_calls) + 1000
    link.call(Method.HEALTH_CHECK, {}, stream=stream)


@tried(
    "cancel-closed",
    "5",
    "a call that is cancelled gets its CLOSE, once",
    "Stop the work if you can, and send the CLOSE, with\nstatus CANCELLED (or whatever the call "
    "came to: it may have been done already).",
    "Close a call that is cancelled with CANCELLED (1), or with what it came to.",
    needs=Needs.SHARED,
)
def cancel_closed(trial: Trial) -> None:
    link = trial.shared()
    call = trial.learned().any_unary()
    stream, raw = link.open(Method.EXECUTE, call.request())
    link.send(raw, link.cancel(stream), link.cancel(stream))
    link.close_of(stream)


@tried(
    "cancel-running",
    "5",
    "a call that runs ends soon after its CANCEL",
    "one that does not close a\ncancelled call within a grace period (5 s unless configured) is "
    "taken for stuck, and ended.",
    "Let CANCEL stop the work, and send the CLOSE.",
    needs=Needs.SHARED,
)
def cancel_running(trial: Trial) -> None:
    call = trial.learned().slow()
    link = trial.shared()
    stream = link.begin(Method.EXECUTE, call.request(), aux=0)
    link.ping()
    if stream not in link.watch.open_calls:
        raise Skipped(f"{call.operation} was answered at once; --slow names one that takes long")
    link.send(link.cancel(stream))
    link.close_of(stream)


@tried(
    "cancel-late",
    "5",
    "what comes for a call that is over is ignored",
    "Ignore it, as any frame for a call that is over, which is\none whose id is not above the "
    "highest that was opened.",
    "Drop CANCEL, DATA and CREDIT for an id that you do not know, but have seen.",
    needs=Needs.SHARED,
)
def cancel_late(trial: Trial) -> None:
    link = trial.shared()
    call = trial.learned().any_unary()
    stream = link.begin(Method.EXECUTE, call.request())
    link.close_of(stream)
    link.send(
        link.cancel(stream),
        link.cancel(stream),
        frame_bytes(FrameType.CREDIT, stream, aux=100),
        link.data(stream, {"operation": call.operation}),
        link.data(stream, None, end=True),
    )
    link.ping()
    link.call(Method.HEALTH_CHECK, {})


@tried(
    "deadline-short",
    "5",
    "a call whose time is up gets its CLOSE",
    "The host answers its client itself when time is up, and\nsends CANCEL with status "
    "DEADLINE_EXCEEDED",
    "Close the call with DEADLINE_EXCEEDED (4), or with what it came to.",
    needs=Needs.SHARED,
)
def deadline_short(trial: Trial) -> None:
    link = trial.shared()
    call = trial.learned().any_unary()
    stream, raw = link.open(Method.EXECUTE, call.request(), aux=1)
    link.send(raw, link.cancel(stream, StatusCode.DEADLINE_EXCEEDED))
    link.close_of(stream)
    longest = link.call(Method.EXECUTE, call.request(), aux=2**32 - 1)
    plain = link.call(Method.EXECUTE, call.request(), aux=0)
    if longest.status != plain.status:
        raise Violation(
            f"with 2^32 - 1 ms to live a call has status {_name(longest.status)}, without a limit "
            f"{_name(plain.status)}"
        )


@tried(
    "concurrent",
    "5",
    "a quick call does not wait for a slow one",
    "Answer calls in any order.",
    "Run calls beside the reader.",
    needs=Needs.SHARED,
    severity="should",
)
def concurrent(trial: Trial) -> None:
    slow, quick = trial.learned().slow(), trial.learned().any_unary()
    link = trial.shared()
    stream = link.begin(Method.EXECUTE, slow.request(), aux=0)
    link.call(Method.EXECUTE, quick.request())
    if stream not in link.watch.open_calls:
        raise Skipped(f"{slow.operation} was answered at once; --slow names one that takes long")
    link.send(link.cancel(stream))
    link.close_of(stream)


@tried(
    "health-while-full",
    "4",
    "HealthCheck is answered while as many calls run as it takes",
    "a plugin that is full is still\nasked for its health, since to be busy is not to be ill.",
    "Count Execute and ExecuteStream alone against max_streams.",
)
def health_while_full(trial: Trial) -> None:
    slow = trial.learned().slow()
    link = trial.ready().link
    most = int(link.offer.get("max_streams") or 100)
    if most > 256:
        raise Skipped(f"it takes {most} calls at a time")
    opened = [link.open(Method.EXECUTE, slow.request(), aux=0) for _ in range(most)]
    link.send(*(raw for _, raw in opened))
    for _ in range(2):
        expect(link.call(Method.HEALTH_CHECK, {}), StatusCode.OK, "a HealthCheck")
    link.send(*(link.cancel(stream) for stream, _ in opened))
    for stream, _ in opened:
        link.close_of(stream)


@tried(
    "too-large",
    "12",
    "a response that the host has no room for is replaced",
    "A response that does not fit into `max_frame` must be replaced: CLOSE with RESOURCE_EXHAUSTED "
    "and the flag `TOO_LARGE`",
    "Compare the response's length with max_frame of the host's HELLO; if it is longer, send CLOSE "
    "with status 8, the flag 8 and no payload.",
)
def too_large(trial: Trial) -> None:
    facts = trial.learned()
    facts.good()
    size = facts.answer_size + 4096
    call = facts.growing(2 * size)
    link = trial.ready(Limits(max_frame=size)).link
    _expect_too_large(link, link.call(Method.EXECUTE, call.request()), size)


@tried(
    "too-large-initialize",
    "12",
    "an answer to Initialize that the host has no room for is replaced",
    "A response that does not fit into `max_frame` must be replaced: CLOSE with RESOURCE_EXHAUSTED "
    "and the flag `TOO_LARGE`",
    "Send every CLOSE by the one function that compares its length with max_frame.",
)
def too_large_initialize(trial: Trial) -> None:
    size = 16
    link = trial.greeted(Limits(max_frame=size)).link
    answer = link.call(Method.INITIALIZE, trial.setup.initialize())
    _expect_too_large(link, answer, size)


def _expect_too_large(link: Link, answer: Answer, size: int) -> None:
    expect(answer, StatusCode.RESOURCE_EXHAUSTED, f"a call with a response of over {size} bytes")
    if not answer.frame.flags & TOO_LARGE:
        raise Violation("its CLOSE has not the flag TOO_LARGE (8)")
    if answer.frame.flags & NOT_STARTED:
        raise Violation("its CLOSE has the flag NOT_STARTED, but the call ran")
    link.ping()


@tried(
    "credentials-kept",
    "13",
    "a refusal does not tell the credentials",
    "Credentials arrive in Initialize only. Do not log them, or write them into errors or details.",
    "Name a setting or credential that is wrong, not its value.",
)
def credentials_kept(trial: Trial) -> None:
    canary = {CANARY: trial.setup.canary}
    running = trial.greeted()
    credentials = {**trial.setup.credentials, **canary}
    changed = trial.setup.initialize(credentials=credentials)
    first = running.link.call(Method.INITIALIZE, changed)
    if first.ok:
        running.link.call(Method.HEALTH_CHECK, {})
        running.link.call(Method.EXECUTE, {"operation": NOTHING})
    twisted = dict.fromkeys([*trial.setup.credentials, CANARY], trial.setup.canary)
    other = trial.greeted()
    wrong = trial.setup.initialize(credentials=twisted, config_json='{"conformance":')
    second = other.link.call(Method.INITIALIZE, wrong)
    for answer in (first, second):
        said = json.dumps(answer.message, ensure_ascii=False)
        if trial.target.redaction.text(said) != said:
            raise Violation(f"the answer to Initialize tells a credential: {said}")
    for each in (running, other):
        output = each.output
        if trial.target.redaction.text(output) != output:
            raise Violation("what the plugin printed has a credential in it")
