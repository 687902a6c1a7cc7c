"""The audit log on real files, pipes and devices; and whether it shows that it was changed."""

import json
import os
import re
import threading
import time

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from prism.access.identity import Identity
from prism.access.permissions import READ, AccessTable
from prism.calls.namespace import Namespace
from prism.config.types import AccessRule, NamespaceAccess, NamespaceConfig
from prism.contract.messages import OperationAccess, OperationDeclaration
from prism.contract.status import StatusCode
from prism.observability import audit as module
from prism.observability.audit import AuditFileError, AuditLog
from prism.observability.audit_reading import (
    Verification,
    is_written,
    lines_of,
    rotated_files,
    rotated_name,
)
from prism.observability.rotating_file import rest_after
from prism.supervision.slot import Slot

LIMIT = 60.0


def eventually(check):
    deadline = time.monotonic() + LIMIT
    while not (found := check()):
        assert time.monotonic() < deadline, check
        time.sleep(0.005)
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


@pytest.fixture
def start(path):
    """Starts logs, and closes them with the test."""
    started = []

    def start(file=path, **options):
        log = AuditLog(file, **options)
        log.start()
        started.append(log)
        return log

    yield start
    for log in started:
        log.close()


@pytest.fixture
def add(make_record):
    def add(log, *numbers):
        for number in numbers:
            record = make_record(
                request_id=f"id-{number}", operation="get", is_call=True, plugin_seconds=0.001
            )
            log.add(record, 0.001)

    return add


def verified(path, *, written=False):
    found = Verification()
    for text, place in lines_of(path):
        found.read(text, place)
    found.finish(is_written=written)
    return found


def request_ids(path):
    lines = [json.loads(text) for text, _ in lines_of(path) if text.endswith(b"}\n")]
    return [line["request_id"] for line in lines if "request_id" in line]


def ids(numbers):
    return [f"id-{number}" for number in numbers]


# -- what a record says ------------------------------------------------------------


def a_namespace(*, mode="enforce", declared=True):
    access = NamespaceAccess(allow=[AccessRule(who=["x", "ada"], permissions=["read"])], mode=mode)
    operation = OperationDeclaration(name="get", access=OperationAccess.READ)
    slot = Slot("kv")
    slot.operations = {"get": operation} if declared else {}
    return Namespace(NamespaceConfig("kv", "memory"), slot, AccessTable("kv", access))


OPEN = Namespace(NamespaceConfig("kv", "memory"), Slot("kv"))


@pytest.mark.parametrize(
    ("facts", "decision"),
    [
        ({"target": None, "reason": "unknown_namespace"}, ("none", "")),
        ({"target": None, "reason": "unauthenticated"}, ("deny", "")),
        ({"target": OPEN}, ("allow", "open")),
        ({"target": a_namespace(), "identity": Identity("ada")}, ("allow", "allow[0].who[1]")),
        ({"target": a_namespace(), "identity": Identity("eve"), "reason": "forbidden"},
         ("deny", "")),
        ({"target": a_namespace(mode="dry_run"), "identity": Identity("eve")},
         ("allow", "dry_run")),
        ({"target": a_namespace(declared=False), "identity": Identity("ada")}, ("none", "")),
        # The plugin's own refusal is no decision of the proxy's.
        ({"target": OPEN, "status": StatusCode.PERMISSION_DENIED, "reason": "plugin_error"},
         ("allow", "open")),
    ],
)  # fmt: skip
def test_the_decision_and_its_rule(path, start, make_record, facts, decision):
    log = start()
    log.add(make_record(operation="get", **facts), 0.001)
    log.close()
    [record] = [json.loads(text) for text, _ in lines_of(path) if b"decision" in text]
    assert (record["decision"], record["rule"]) == decision


@pytest.mark.parametrize(
    ("facts", "ran"),
    [
        ({}, "no"),
        ({"plugin_seconds": 0.1}, "yes"),
        ({"plugin_seconds": 0.1, "status": StatusCode.NOT_FOUND, "reason": "plugin_error"}, "yes"),
        ({"plugin_seconds": 0.1, "status": StatusCode.CANCELLED, "reason": "client_gone"},
         "unknown"),
        ({"status": StatusCode.UNAVAILABLE, "reason": "plugin_unavailable"}, "no"),
    ],
)  # fmt: skip
def test_whether_it_ran(path, start, make_record, facts, ran):
    log = start()
    log.add(make_record(**facts), 0.001)
    log.close()
    [record] = [json.loads(text) for text, _ in lines_of(path) if b"decision" in text]
    assert record["ran"] == ran


def test_the_rule_is_the_one_that_let_the_call_pass(path, start, make_record):
    """Though the rules are others by the time it ends."""
    target = a_namespace()
    ada = Identity("ada")
    passed = target.access.check(ada, "get", READ)
    target.access = AccessTable("kv", NamespaceAccess())
    log = start()
    facts = {"target": target, "identity": ada, "operation": "get", "needs": READ}
    log.add(make_record(decision=passed, plugin_seconds=0.1, **facts), 0.001)
    late = {"status": StatusCode.DEADLINE_EXCEEDED, "reason": "deadline_exceeded"}
    log.add(make_record(decision=passed, plugin_seconds=0.1, **late, **facts), 0.001)
    ended = {"status": StatusCode.PERMISSION_DENIED, "reason": "forbidden"}  # a stream
    log.add(make_record(decision=passed, plugin_seconds=0.1, **ended, **facts), 0.001)
    log.add(make_record(decision=passed, **ended, **facts), 0.001)  # at its second look
    log.close()
    records = [json.loads(text) for text, _ in lines_of(path) if b"decision" in text]
    assert [(one["decision"], one["rule"], one["ran"]) for one in records] == [
        ("allow", "allow[0].who[1]", "yes"), ("allow", "allow[0].who[1]", "unknown"),
        ("allow", "allow[0].who[1]", "unknown"), ("deny", "", "no"),
    ]  # fmt: skip


def test_what_is_kept_for_the_next_record_is_its_own(path, start, make_record):
    """Text is kept for each outcome, identity and client; whatever it holds, lines are JSON."""
    log = start()
    identities = [Identity('a"b\\c'), Identity("ünï", key="0123456789ab"), Identity("ada")]
    made = [
        (identity, instance, status)
        for identity in identities
        for instance in ("kv/1", "kv/2")
        for status in (200, 201)
    ] * 2
    for number, (identity, instance, status) in enumerate(made):
        facts = {"instance_id": instance, "http_status": status, "request_id": f"id-{number}"}
        record = make_record(
            target=OPEN, identity=identity, operation="get", plugin_seconds=0.1, **facts
        )
        log.add(record, number * 0.001_5)
    log.close()
    records = [json.loads(text) for text, _ in lines_of(path) if b"decision" in text]
    told = [(one["principal"], one.get("key", ""), one["instance"], one["http_status"])
            for one in records]  # fmt: skip
    assert told == [(who.name, who.key, instance, status) for who, instance, status in made]
    assert [one["request_id"] for one in records] == ids(range(len(made)))
    assert [one["duration_ms"] for one in records] == [n * 1.5 for n in range(len(made))]


# -- the file ------------------------------------------------------------------------


def test_each_record_once_and_the_log_is_whole(path, start, add):
    log = start()
    add(log, *range(2000))
    log.close()
    assert request_ids(path) == ids(range(2000))
    found = verified(path)
    assert (found.records, found.problems, found.notes) == (2000, [], [])
    assert path.stat().st_mode & 0o777 == 0o600
    assert log.written == 2000


def test_what_waits_is_sealed_after_a_while(path, start, add):
    log = start(sync_seconds=0.05)
    add(log, 1)
    eventually(lambda: verified(path, written=True).notes == [f"chain {log.chain} has no end yet"])
    assert is_written(path)
    log.close()
    assert not is_written(path)


def test_a_second_process_follows_the_first(path, start, add):
    for number in range(3):
        log = start()
        add(log, number)
        log.close()
    found = verified(path)
    assert (found.records, len(found.chains), found.problems, found.notes) == (3, 3, [], [])


def test_two_processes_write_side_by_side(path, start, add):
    one, other = start(sync_seconds=0.01), start(sync_seconds=0.01)
    for number in range(50):
        add(one, number)
        add(other, 1000 + number)
        time.sleep(0.001)
    one.close()
    other.close()
    found = verified(path)
    assert (found.records, found.problems, found.notes) == (100, [], [])


@pytest.mark.parametrize("how", ["moved", "deleted"])
def test_a_file_that_somebody_moves_is_opened_anew(path, start, add, how):
    log = start(sync_seconds=0.01)
    add(log, 1)
    eventually(lambda: log.written == 1)
    aside = path.with_name("aside")
    path.rename(aside)
    if how == "deleted":
        aside.unlink()
    add(log, 2)
    log.close()
    assert request_ids(path) == ["id-2"]
    assert log.written == 2


def test_files_are_put_aside_and_read_in_order(path, start, add, monkeypatch):
    log = start(sync_seconds=0.001, rotate_bytes=2000)
    for number in range(100):
        add(log, number)
        eventually(lambda: log.written == number + 1)  # noqa: B023 - called at once
    log.close()
    assert len(rotated_files(path)) > 3
    assert request_ids(path) == ids(range(100))
    found = verified(path)
    assert (found.records, found.problems, found.notes) == (100, [], [])


def test_a_log_is_read_while_there_is_only_what_was_put_aside(path, start, add):
    log = start(sync_seconds=0.001, rotate_bytes=1)
    add(log, 1)
    eventually(lambda: log.written == 1)
    eventually(lambda: not path.exists())
    assert is_written(path)
    log.close()
    assert not path.exists()
    assert not is_written(path)
    assert request_ids(path) == ["id-1"]


def test_the_order_of_files_does_not_depend_on_the_clock(path):
    names = []
    for moment in (1_000_000.5, 1_000_000.5, 999_999.0, 1_000_001.25):
        names.append(rotated_name(path, moment))
        names[-1].touch()
    assert rotated_files(path) == names
    assert len(set(names)) == 4


def test_another_log_whose_name_looks_like_a_pattern_of_this_one_is_left_alone(tmp_path):
    own, other = (
        tmp_path / f"{name}.20200101T000000.000000Z" for name in ("calls[1].log", "calls1.log")
    )
    own.touch()
    other.touch()
    assert rotated_files(tmp_path / "calls[1].log") == [own]


def test_a_number_of_files_is_kept(path, start, add):
    log = start(sync_seconds=0.001, rotate_bytes=2000, keep_files=2)
    for number in range(100):
        add(log, number)
        eventually(lambda: log.written == number + 1)  # noqa: B023 - called at once
    log.close()
    assert len(rotated_files(path)) == 2
    found = verified(path)
    assert found.problems == []
    assert re.search(r"begins at \d+: what was before", found.notes[0])


# -- when it fails -------------------------------------------------------------------


def test_a_disk_that_is_full_at_the_start(start):
    with pytest.raises(AuditFileError, match="No space left on device; name a file"):
        start(module.Path("/dev/full"))


@pytest.mark.parametrize("fail_closed", [True, False])
def test_a_disk_that_gets_full_and_has_room_again(path, start, add, fail_closed, caplog):
    """A real limit on the size of files of this process, taken away again."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_text(" " * 50_000_000 + "\n")  # so that the limit is for this file alone
    log = start(fail_closed=fail_closed, sync_seconds=0.01)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1000, before[1]))
        add(log, *range(10))
        eventually(lambda: log.trouble)
        assert log.trouble == "audit.jsonl cannot be written: File too large"
        assert bool(log.refusal()) is fail_closed
        assert log.is_failing
        add(log, *range(10, 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    eventually(lambda: log.written == 20)
    assert log.refusal() == ""
    log.close()
    assert request_ids(path) == ids(range(20))
    found = verified(path)
    assert (found.problems, log.lost) == ([], 0)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "File too large; until it can be written, calls " in messages[0]
    assert messages[1].endswith("can be written again")


@pytest.fixture
def pipe(tmp_path):
    """A pipe that is full, so that writing to it waits; and a function that reads it empty."""
    name = tmp_path / "pipe"
    os.mkfifo(name)
    reader = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    texts = []

    def read():
        try:
            texts.append(os.read(reader, 1 << 20))
        except BlockingIOError:
            time.sleep(0.001)
        return b"".join(texts)

    yield name, read
    os.close(reader)


def test_a_stuck_disk_refuses_calls_and_loses_none(pipe, start, add, monkeypatch):
    name, read = pipe
    monkeypatch.setattr(module, "STUCK", 0.05)
    log = start(name)
    add(log, *range(3000))
    assert "nothing could be written" in eventually(log.refusal)
    add(log, *range(3000, 4000))  # calls that were under way
    assert log.lost == 0
    eventually(lambda: read().count(b"request_id") == 4000)
    eventually(lambda: not log.refusal())
    assert log.lost == 0
    threading.Thread(target=log.close).start()
    eventually(lambda: b'"closed"' in read() and b"sealed" in read().rpartition(b"closed")[2])


def test_refused_calls_do_not_fill_the_memory_while_the_disk_is_stuck(
    pipe, start, add, make_record
):
    name, read = pipe
    log = start(name, capacity=2000)
    add(log, *range(3000))
    eventually(log.refusal)
    waiting = log.waiting
    for number in range(3000):
        log.add(make_record(request_id=f"no-{number}", plugin_seconds=None, is_call=True), 0.001)
    assert (log.waiting, log.lost) == (waiting, 3000)
    add(log, 3000)  # one that was under way
    eventually(lambda: read().count(b'"id-') == 3001)
    eventually(lambda: b"lost" in read())
    eventually(lambda: not log.refusal())
    lines = [json.loads(text) for text in read().splitlines()]
    assert sum(line.get("records", 0) for line in lines) == 3000
    threading.Thread(target=log.close).start()
    eventually(lambda: b'"closed"' in read())


def test_a_stuck_disk_that_may_lose_records_says_how_many(pipe, start, add):
    name, read = pipe
    log = start(name, fail_closed=False, capacity=2000)
    for number in range(3000):
        add(log, number)
        assert log.refusal() == ""
    assert log.waiting <= 2000
    assert log.lost >= 1000
    lost = log.lost
    eventually(lambda: log.waiting == 0 or not read())
    add(log, 3000)
    eventually(lambda: b"id-3000" in read())
    lines = [json.loads(text) for text in read().splitlines()]
    assert sum(line.get("records", 0) for line in lines) == lost
    assert sum("decision" in line for line in lines) == 3001 - lost
    found = Verification()
    for line in read().splitlines(keepends=True):
        found.read(line, "pipe")
    assert (found.problems, found.lost) == ([], lost)
    threading.Thread(target=log.close).start()
    eventually(lambda: b'"closed"' in read())


def test_a_pipe_that_nobody_reads_is_said_when_it_starts(tmp_path, start):
    name = tmp_path / "pipe"
    os.mkfifo(name)
    with pytest.raises(AuditFileError, match="No such device or address"):
        start(name)


# -- what was changed is seen -----------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The lines of a log of three processes."""
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    for run in range(3):
        log = AuditLog(path)
        log.start()
        for number in range(4):
            what = (
                b'"kv","operation":"get","decision":"allow","rule":"open","status":"OK","ran":"yes"'
            )
            parts = Raw(b'"ada"'), Raw(what), UNSET
            log._turn.append(module.AuditRecord(0, log.chain, "t", f"{run}-{number}", 1.0, *parts))
        log.flush()
        log.close()
    return path.read_bytes().splitlines(keepends=True)


def problems(lines):
    found = Verification()
    for number, line in enumerate(lines, 1):
        found.read(line, str(number))
    found.finish(is_written=False)
    return found.problems


def test_untouched_it_is_whole(written):
    assert problems(written) == []


@given(st.data())
def test_a_change_of_any_byte_is_seen(written, data):
    text = b"".join(written)
    place = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda it: it != text[place]))
    changed = text[:place] + bytes([byte]) + text[place + 1 :]
    assert problems(changed.splitlines(keepends=True)) != []


@given(st.data())
def test_lines_that_were_removed_are_missed(written, data):
    first = data.draw(st.integers(1, len(written) - 1))
    last = data.draw(st.integers(first, len(written) - 1))
    # Of the last processes, with all that they wrote, nothing is left to tell.
    assume(last < len(written) - 1 or first % 7)
    assert problems(written[:first] + written[last + 1 :]) != []


@given(st.data())
def test_lines_in_another_order_are_seen(written, data):
    order = data.draw(st.permutations(range(len(written))))
    changed = [written[number] for number in order]
    if changed != written:
        assert problems(changed) != []


@given(st.data())
def test_a_line_that_comes_twice_is_seen(written, data):
    line = data.draw(st.sampled_from(written))
    place = data.draw(st.integers(0, len(written)))
    assert problems([*written[:place], line, *written[place:]]) != []


@given(st.lists(st.binary(max_size=40), max_size=8))
@example([b"{", b"[]", b"null", b'{"chain":1}', b'{"chain":"a","seq":-1}', b"\xff", b"[" * 9999])
def test_what_is_no_log_is_no_crash(lines):
    problems(lines)


@given(st.integers(0, 9), st.data())
def test_a_write_that_stops_anywhere_goes_on_with_whole_lines(number, data):
    lines = b"".join(b'{"seq":%d}\n' % seq for seq in range(number))
    position = data.draw(st.integers(0, len(lines)))
    on_disk = lines[:position] + rest_after(lines, position)
    found = [line for line in on_disk.splitlines() if line.endswith(b"}")]
    assert found == lines.splitlines()
