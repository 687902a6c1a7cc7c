"""What a plugin may do wrong, and who is hurt: its own calls, for a moment, and nobody else."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from prism_process import CHAOS, FAST_CHECKS, eventually, group_members

from prism.supervision.events import MAX_LOGGED, NEWEST_KEPT, PER_SECOND

MEMORY = {"name": "calm", "backend": "sqlite", "config": {"path": ":memory:"}}


def chaos_namespace(*arguments, name="chaos", **plugin):
    return {
        "name": name,
        "backend": "chaos",
        "plugin": {
            "type": "sidecar",
            "command": [*CHAOS, *arguments],
            "start_timeout_seconds": 60,
            "cancel_grace_seconds": 60,
            **plugin,
        },
    }


AT_ONCE = {"first_delay_seconds": 0.01, "max_delay_seconds": 0.01, "max_crashes": 0}
NAMESPACES = [
    MEMORY,
    chaos_namespace(),
    chaos_namespace(
        name="doomed", cancel_grace_seconds=0.3, kill_timeout_seconds=0.5, restart=AT_ONCE
    ),
    chaos_namespace(name="leaving", drain_timeout_seconds=0.5, restart=AT_ONCE),
    chaos_namespace(name="watched", health=FAST_CHECKS, restart=AT_ONCE),
]


@pytest.fixture(scope="module")
def proxy(start_shared_prism):
    return start_shared_prism({"namespaces": NAMESPACES})


def _check_others(proxy, name):
    """The other namespaces work, and this one does again."""
    calm = proxy.call("calm", "set", {"key": "a", "value": 1})
    assert calm.json() == {"stored": True}

    def serves():
        return proxy.call(name, "echo", {"back": 1}).text == '{"back": 1}'

    eventually(serves)
    for each in (name, "calm"):
        eventually(lambda each=each: not proxy.metric("prism_requests_in_flight", namespace=each))


@pytest.fixture
def chaos(proxy):
    """The name of a namespace for faults that its plugin survives."""
    yield "chaos"
    _check_others(proxy, "chaos")


@pytest.fixture
def doomed(proxy):
    """The name of a namespace whose plugin this test ends."""
    yield "doomed"
    _check_others(proxy, "doomed")
    _check_others(proxy, "chaos")


@pytest.fixture
def watched(proxy):
    """The name of a namespace whose plugin is asked several times a second how it is."""
    eventually(lambda: proxy.call("watched", "pid").is_success)
    yield "watched"
    _check_others(proxy, "chaos")


def do(proxy, name, fault, timeout="30s", **params):
    return proxy.call(name, "do", {"fault": fault, **params}, prism_timeout=timeout)


def pid_of(proxy, name):
    """None while there is no plugin."""
    return proxy.call(name, "pid").json().get("pid")


@pytest.mark.parametrize(
    ("fault", "params", "reason"),
    [
        ("crash", {}, "plugin_crashed"),
        ("crash", {"status": 0}, "plugin_crashed"),
        ("kill", {}, "plugin_crashed"),
        ("truncated", {}, "protocol_error"),
        ("garbage", {}, "protocol_error"),
        ("oversized", {}, "protocol_error"),
        ("answer_unopened", {}, "protocol_error"),
        ("bad_payload", {}, "protocol_error"),
        ("bad_payload", {"payload": '{"success": "yes"}'}, "protocol_error"),
        ("bad_payload", {"payload": "[]"}, "protocol_error"),
        ("bad_payload", {"payload": "{}", "codec": 2}, "protocol_error"),
        ("bad_payload", {"payload": "{}", "codec": 77}, "protocol_error"),
        ("deep_payload", {}, "protocol_error"),
    ],
)
def test_a_fatal_fault_costs_the_call_and_the_plugin_is_started_again(
    proxy, doomed, fault, params, reason
):
    before = pid_of(proxy, doomed)
    failed = do(proxy, doomed, fault, **params)
    assert failed.status_code == 502
    problem = failed.json()
    assert (problem["code"], problem["reason"]) == ("UNAVAILABLE", reason)
    assert problem["retryable"] is False
    assert problem["request_id"] == failed.headers["x-request-id"]
    eventually(lambda: pid_of(proxy, doomed) not in (before, None))


def test_calls_beside_a_crash_fail_as_well_and_each_once(proxy, doomed):
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(do, proxy, doomed, "hang") for _ in range(7)]
        eventually(lambda: proxy.metric("prism_requests_in_flight", namespace=doomed) == 7)
        crashed = pool.submit(do, proxy, doomed, "crash").result()
        answers = [crashed, *(future.result() for future in waiting)]
    assert {(a.status_code, a.json()["reason"]) for a in answers} == {(502, "plugin_crashed")}


@pytest.mark.parametrize(
    ("fault", "params", "result"),
    [
        ("answer_twice", {}, {"answer": 1}),
        ("answer_unknown", {}, {"answer": "right"}),
        ("open_a_call", {}, {}),
        ("big_result", {"size": 3_000_000}, "x" * 3_000_000),
    ],
)
def test_a_harmless_fault_costs_nothing(proxy, chaos, fault, params, result):
    before = proxy.call(chaos, "pid").json()
    answer = do(proxy, chaos, fault, **params)
    assert (answer.status_code, answer.json()) == (200, result)
    assert proxy.call(chaos, "pid").json() == before


@pytest.mark.parametrize(
    ("fault", "params", "http_status", "code", "reason"),
    [
        ("refuse", {}, 503, "UNAVAILABLE", "overloaded"),
        ("status", {"status": 5}, 404, "NOT_FOUND", "plugin_error"),
        ("status", {"status": 8, "error": "full"}, 429, "RESOURCE_EXHAUSTED", "plugin_error"),
        ("status", {"status": 99}, 500, "UNKNOWN", "plugin_error"),
        ("status", {"status": 0}, 500, "UNKNOWN", "plugin_error"),
        ("contradict", {}, 500, "INTERNAL", "plugin_error"),
        ("empty_close", {}, 500, "UNKNOWN", "plugin_error"),
        ("half_surrogate", {}, 502, "UNAVAILABLE", "protocol_error"),
    ],
)
def test_an_answer_that_is_an_error(proxy, chaos, fault, params, http_status, code, reason):
    answer = do(proxy, chaos, fault, **params)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["reason"]) == (http_status, code, reason)
    assert problem["detail"]


@pytest.mark.parametrize(
    ("operation", "told"),
    [
        ("do", (503, {"reason": "draining", "retryable": False})),
        ("do_again", (200, {"answered": "by the next"})),
    ],
)
def test_a_call_of_a_plugin_that_leaves_without_answering_is_told_when_the_drain_is_over(
    proxy, tmp_path, operation, told
):
    params = {"fault": "leave_unanswered", "left": str(tmp_path / "left")}
    answer = proxy.call("leaving", operation, params, prism_timeout="300s")
    status, members = told
    assert answer.status_code == status
    assert answer.json() == {**answer.json(), **members}
    _check_others(proxy, "leaving")


def test_a_call_that_hangs_ends_at_its_deadline_and_the_plugin_stays(proxy, chaos):
    before = proxy.call(chaos, "pid").json()
    answer = do(proxy, chaos, "hang", timeout="1s")
    assert (answer.status_code, answer.json()["reason"]) == (504, "deadline_exceeded")
    assert proxy.call(chaos, "pid").json() == before


@pytest.mark.parametrize("fault", ["ignore_cancel", "block"])
def test_a_wedged_plugin_is_ended_and_replaced(proxy, doomed, fault):
    before = proxy.call(doomed, "pid").json()
    answer = do(proxy, doomed, fault, timeout="1s")
    assert (answer.status_code, answer.json()["reason"]) == (504, "deadline_exceeded")

    def replaced():
        answer = proxy.call(doomed, "pid")
        return answer.status_code == 200 and answer.json() != before

    eventually(replaced)
    assert not group_members(before["pid"])


def test_a_sick_plugin_is_replaced(proxy, watched):
    before = pid_of(proxy, watched)
    assert do(proxy, watched, "sicken").status_code == 200
    eventually(lambda: pid_of(proxy, watched) not in (before, None))


def test_what_a_plugin_started_dies_with_it(proxy, doomed):
    pid = pid_of(proxy, doomed)
    child = do(proxy, doomed, "close_output").json()["pid"]
    assert child in group_members(pid)
    do(proxy, doomed, "crash")
    eventually(lambda: not group_members(pid))


@pytest.mark.parametrize(
    ("fault", "params", "line", "limit"),
    [
        ("flood_output", {"lines": 20_000}, "line ", PER_SECOND["stdout"]),
        ("flood_notes", {"notes": 500}, "note ", PER_SECOND["note"]),
    ],
)
def test_floods_of_output_are_cut_and_counted(proxy, chaos, fault, params, line, limit):
    seen, began = len(proxy.records), time.monotonic()

    def told(text):
        return [record for record in proxy.records[seen:] if text in record["message"]]

    assert do(proxy, chaos, fault, timeout="55s", **params).status_code == 200
    eventually(lambda: told("were dropped: too many"))
    seconds = time.monotonic() - began + 2  # the first and the last count whole
    assert len(told(line)) <= seconds * (limit + NEWEST_KEPT)
    assert max(len(record["message"]) for record in proxy.records[seen:]) <= 2 * MAX_LOGGED


@pytest.fixture
def unwatched(start_prism):
    """A proxy that health checks do not tell of a blocked plugin before other limits do."""
    namespace = chaos_namespace(health={"interval_seconds": 1000})
    return start_prism({"namespaces": [MEMORY, namespace]})


@pytest.mark.slow
def test_a_dribbled_frame_is_not_awaited_for_ever(unwatched):
    answer = do(unwatched, "chaos", "dribble", timeout="100s")
    assert (answer.status_code, answer.json()["reason"]) == (502, "protocol_error")
    _check_others(unwatched, "chaos")


@pytest.mark.slow
def test_a_plugin_that_reads_nothing_does_not_fill_the_memory(unwatched):
    pid, before = pid_of(unwatched, "chaos"), unwatched.resident()
    in_flight = "prism_requests_in_flight"
    with ThreadPoolExecutor(40) as pool:
        blocked = pool.submit(do, unwatched, "chaos", "block", timeout="300s")
        eventually(lambda: unwatched.metric(in_flight, namespace="chaos") == 1)
        big = {"text": "x" * 900_000}
        calls = [
            pool.submit(unwatched.call, "chaos", "echo", big, prism_timeout="300s")
            for _ in range(30)
        ]

        def all_have_come():
            """Each call is refused, or in flight"""
            refused = [call.result() for call in calls if call.done()]
            assert {answer.json()["reason"] for answer in refused} <= {"overloaded"}
            waiting = unwatched.metric(in_flight, namespace="chaos") - 1
            return refused and len(refused) + waiting == len(calls)

        eventually(all_have_come)
        assert unwatched.resident() - before < 80_000_000
        os.kill(pid, signal.SIGKILL)
        assert blocked.result().json()["reason"] == "plugin_crashed"
    _check_others(unwatched, "chaos")


START_FAULTS = {
    "exit": (60, "exited with status 7"),
    "silent": (0.5, "did not begin the handshake within 0.5 seconds"),
    "newer": (60, "speaks protocol 9 to 9"),
    "garbage": (60, "does not speak the frame protocol"),
    "no-answer": (2, "did not answer Initialize within 2 seconds"),
    "refuse": (60, "refused to start: the backend is not there"),
}


def test_a_plugin_that_cannot_start_says_why_and_the_others_serve(start_prism):
    faulty = [
        chaos_namespace(fault, name=fault, start_timeout_seconds=limit, restart=AT_ONCE)
        for fault, (limit, _) in START_FAULTS.items()
    ]
    proxy = start_prism({"namespaces": [MEMORY, *faulty]})
    assert proxy.call("calm", "get", {"key": "a"}).json() == {"found": False}
    for fault, (_, reason) in START_FAULTS.items():
        eventually(lambda fault=fault, reason=reason: reason in proxy.absence(fault))
        answer = proxy.call(fault, "echo")
        assert (answer.status_code, answer.json()["reason"]) == (503, "plugin_unavailable")
        assert answer.headers["retry-after"]
    assert not proxy.ready()
    assert "no backend configured" in proxy.log


def test_a_plugin_killed_while_idle_comes_back(proxy, doomed):
    before = pid_of(proxy, doomed)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: pid_of(proxy, doomed) not in (before, None))


def test_a_stopped_plugin_is_replaced_and_its_late_answers_reach_nobody(proxy, doomed):
    before = pid_of(proxy, doomed)
    os.kill(before, signal.SIGSTOP)
    late = proxy.call(doomed, "pid", prism_timeout="1s")
    assert (late.status_code, late.json()["reason"]) == (504, "deadline_exceeded")
    with suppress(ProcessLookupError):
        os.kill(before, signal.SIGCONT)
    eventually(lambda: proxy.call(doomed, "echo", {"n": 1}).text == '{"n": 1}')
    answers = [proxy.call(doomed, "echo", {"n": n}).json() for n in range(20)]
    assert answers == [{"n": n} for n in range(20)]


def test_a_plugin_that_stays_stopped_is_killed(proxy, watched):
    before = pid_of(proxy, watched)
    os.kill(before, signal.SIGSTOP)
    eventually(lambda: not group_members(before))
    eventually(lambda: pid_of(proxy, watched))


def test_a_call_beside_a_restart_waits_for_it(proxy, doomed):
    before = pid_of(proxy, doomed)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: not group_members(before))
    answers = [proxy.call(doomed, "pid") for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}
    assert before not in {answer.json()["pid"] for answer in answers}
