"""Recordings on real files: what is in a line, what is taken out of it, and how one is read."""

import errno
import json
import os
import stat
from base64 import b64decode
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from prism.calls.comparison import Names
from prism.calls.policies.record import Recorded
from prism.config.types import RecordConfig
from prism.contract.errors import DeadlineExceeded
from prism.contract.messages import ExecuteResponse, OperationAccess, OperationDeclaration
from prism.contract.status import StatusCode
from prism.observability import recording
from prism.observability.audit_reading import rotated_files
from prism.observability.recording import LAST_WRITE, Reader, Recordings, RecordLog, Shape
from prism.observability.rotating_file import RotatingFile

SECRET = "hunter2-canary"
GET = OperationDeclaration(
    name="get",
    idempotent=True,
    access=OperationAccess.READ,
    params_schema='{"properties": {"key": {}}}',
    result_schema='{"properties": {"found": {}, "value": {}}}',
)


def record(number=0, *, params=b'{"key": "a"}', raw=b"", response=None, error=None, **more):
    if response is None and error is None:
        response = ExecuteResponse(success=True, result_json='{"found":true,"value":1}')
    facts = {
        "began": 1000.0 + number, "seconds": 0.25, "namespace": "kv", "operation": "get",
        "declared": GET, "request_id": f"id-{number}", "principal": "ada", "instance": "kv/1",
        "metadata": None,
    }  # fmt: skip
    return Recorded(**(facts | more), params=params, raw=raw, response=response, error=error)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calls.jsonl"


@pytest.fixture
def write(path):
    """Writes records and closes the recording; gives the lines."""

    def write(*records, **config):
        log = RecordLog("kv", RecordConfig(file=str(path), **config))
        for each in records:
            log.add(each)
        log.close()
        log.wait_closed()
        assert (log.waiting, log.dropped) == (0, 0)
        return [json.loads(line) for line in path.read_text().splitlines()]

    return write


def test_a_line_with_all_that_was_said(write, path):
    (line,) = write(
        record(params=b'{\n  "key": 1.50\n}', metadata={"x-tenant": "t"}), values="keep"
    )
    assert len(line.pop("principal")) == 12
    assert line == {
        "v": 1, "time": 1000.0, "namespace": "kv", "operation": "get", "id": "id-0",
        "seconds": 0.25, "params": {"key": 1.5}, "result": {"found": True, "value": 1},
        "instance": "kv/1", "metadata": {"x-tenant": "t"},
    }  # fmt: skip
    assert b'"params":{"key":1.50}' in path.read_bytes()  # no digit is lost
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_others_may_read_becomes_private(write, path):
    path.touch(0o644)
    write(record())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_of_the_values_is_in_a_redacted_line(write, path):
    body = {"key": SECRET, SECRET: {SECRET: SECRET}, "number": 4711, "list": [SECRET, 4711.5]}
    params = json.dumps(body).encode()
    failed = ExecuteResponse(error=f"no {SECRET}", error_code=StatusCode.NOT_FOUND)
    result = ExecuteResponse(success=True, result_json=params.decode())
    raw = ExecuteResponse(success=True, result_raw=msgspec.msgpack.encode(body))
    lines = write(
        record(params=params, response=result, principal=SECRET, metadata={SECRET: SECRET}),
        record(params=params, response=failed),
        record(params=b"", raw=msgspec.msgpack.encode(body), response=raw),
    )
    text = path.read_text() + "".join(
        b64decode(line.get("params_raw", "") + line.get("result_raw", "")).decode("latin-1")
        for line in lines
    )
    assert SECRET not in text
    assert "4711" not in text
    assert lines[0]["redacted"] is True
    assert lines[0]["params"]["key"] == "x" * len(SECRET)
    assert lines[0]["metadata"] == {"*1": "x" * len(SECRET)}
    assert lines[1]["status"] == "NOT_FOUND"
    assert "error" not in lines[1]


def test_keys_of_maps_are_no_names(write):
    a_map = '{"type": "object", "additionalProperties": {"type": "integer"}}'
    declared = OperationDeclaration(name="get", params_schema=a_map, result_schema=a_map)
    response = ExecuteResponse(success=True, result_json='{"acct_4711":9,"alice_smith":3}')
    (line,) = write(record(params=b'{"alice_smith": 1}', response=response, declared=declared))
    assert (line["params"], line["result"]) == ({"*1": 0}, {"*1": 0, "*2": 0})


def test_a_shape_has_the_same_types_and_lengths():
    value = {"name": "ada", "a@b": 1, "c@d": 2, "list": [True, None, 1.5, b"xy"]}
    assert Shape(Names(frozenset({"name", "list"}))).of(value) == {
        "name": "xxx", "*2": 0, "*3": 0, "list": [False, None, 0.0, b"\0\0"],
    }  # fmt: skip


def test_one_principal_is_told_from_another_and_by_no_name(write):
    one, same, other = write(record(), record(), record(principal="eve"))
    assert one["principal"] == same["principal"] != other["principal"]


def test_failures_of_the_plugin_and_of_the_proxy(write):
    failed = ExecuteResponse(error="no such key", error_code=StatusCode.NOT_FOUND)
    one, other = write(
        record(response=failed), record(error=DeadlineExceeded("too late")), values="keep"
    )
    assert (one["status"], one["error"]) == ("NOT_FOUND", "no such key")
    assert (other["status"], other["reason"]) == ("DEADLINE_EXCEEDED", "deadline_exceeded")


def test_texts_that_cannot_be_encoded_are_recorded_all_the_same(write):
    failed = ExecuteResponse(error="no file \udce4.db", error_code=StatusCode.NOT_FOUND)
    lines = write(
        record(response=failed, principal="\udce4", metadata={"x": "\udce4"}),
        record(1),
        values="keep",
    )
    assert lines[0]["error"] == "no file ?.db"
    assert lines[0]["metadata"] == {"x": "?"}
    assert lines[1]["id"] == "id-1"


def test_a_call_that_cannot_be_recorded_costs_no_other_its_line(path, caplog):
    log = RecordLog("kv", RecordConfig(file=str(path)))
    for each in (record(1, request_id="\udce4"), record(2, request_id="\udce4"), record(3)):
        log.add(each)
    log.close()
    log.wait_closed()
    assert [each.id for each in Reader(path).calls()] == ["id-3"]
    assert (log.written, log.dropped, log.waiting) == (1, 2, 0)
    assert caplog.text.count("cannot be recorded") == 1


def test_what_may_write_is_marked(write):
    write_op = OperationDeclaration(name="set", access=OperationAccess.WRITE)
    lines = write(record(), record(declared=write_op), record(declared=None))
    assert [line.get("writes", False) for line in lines] == [False, True, True]


def test_what_is_no_json_or_too_deep_is_left_out(write):
    deep = ExecuteResponse(success=True, result_json="[" * 5000 + "]" * 5000)
    broken = ExecuteResponse(success=True, result_json="{nonsense")
    lone = ExecuteResponse(success=True, result_json='"\ud800"')
    for values in ("keep", "redact"):
        lines = write(record(response=deep), record(response=broken), record(response=lone),
                      values=values)  # fmt: skip
        assert all(line["id"] == "id-0" for line in lines)


def test_it_is_read_as_it_was_written(write, path):
    params = {"key": "a", "blob": b"x"}
    write(record(1), record(2, params=b"", raw=msgspec.msgpack.encode(params)), values="keep")
    one, other = Reader(path).calls()
    assert (bytes(one.params), one.params_raw) == (b'{"key":"a"}', b"")
    assert msgspec.msgpack.decode(other.params_raw) == params


def test_it_is_read_from_a_pipe_too(write, path):
    write(record(1), record(2), values="keep")
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "wb") as pipe:
        pipe.write(path.read_bytes())
        pipe.close()
        calls = Reader(Path(f"/dev/fd/{reader}")).calls()
        assert [each.id for each in calls] == ["id-1", "id-2"]


def test_a_torn_end_and_lines_that_are_none_are_skipped(write, path):
    write(record(1), record(2), values="keep")
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in range(1, len(last)):
        path.write_bytes(whole[:-cut])
        reader = Reader(path)
        ids = [each.id for each in reader.calls()]
        assert ids == (["id-1", "id-2"] if cut == 1 else ["id-1"])
        assert reader.skipped == (0 if cut == 1 else 1)
    path.write_bytes(b"\n\xff\n{}\n" + whole.replace(b'"v":1', b'"v":2', 1))
    reader = Reader(path)
    assert [each.id for each in reader.calls()] == ["id-2"]
    assert reader.skipped == 4


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b'"key":"a"', b'"key":"\xff"'),
        (b'"found":true', b'"found\xff":true'),
        (b'"params":', b'"params_raw":"A","params":'),
        (b'"result":', b'"result_raw":"?","result":'),
        (b'"namespace":"kv"', b'"namespace":"\\u001b[2J"'),
        (b'"operation":"get"', b'"operation":"../get"'),
    ],
)
def test_a_line_that_somebody_has_changed_is_skipped(write, path, good, bad):
    write(record(1), record(2), values="keep")
    changed = path.read_bytes().replace(good, bad, 1)
    assert bad in changed
    path.write_bytes(changed)
    reader = Reader(path)
    assert [each.id for each in reader.calls()] == ["id-2"]
    assert reader.skipped == 1


def test_a_torn_end_is_left_behind_by_who_writes_next(write, path):
    path.write_bytes(b'{"v":1,"time":1')
    log = RecordLog("kv", RecordConfig(file=str(path)))
    log.add(record(1))
    log.close()
    log.wait_closed()
    reader = Reader(path)
    assert [each.id for each in reader.calls()] == ["id-1"]
    assert reader.skipped == 1


def written(log):
    """Wait until all is written."""
    while log.waiting:
        log._hurry.wait(0.005)


def test_files_are_put_aside_and_the_oldest_go(path):
    large = ExecuteResponse(success=True, result_json=json.dumps({"value": "x" * 700_000}))
    log = RecordLog("kv", RecordConfig(file=str(path), max_bytes=1024 * 1024, keep_files=1))
    for number in range(6):
        log.add(record(number, response=large))
        written(log)
    log.close()
    log.wait_closed()
    (aside,) = rotated_files(path)  # of three
    assert [each.id for each in Reader(aside).calls()] == ["id-4", "id-5"]
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600


def test_what_finds_no_room_is_dropped_and_counted(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # and nobody reads
    try:
        log = RecordLog("kv", RecordConfig(file=str(fifo)), capacity=20)
        large = ExecuteResponse(success=True, result_json=json.dumps("x" * 100_000))
        for number in range(100):
            log.add(record(number, response=large))
        assert log.waiting <= 20
        assert log.dropped >= 80
        huge = ExecuteResponse(success=True, result_json="x" * 3_000_000)
        before = log.dropped
        log.add(record(response=huge))
        assert log.dropped == before + 1
    finally:
        os.close(reader)
        log.close()
        log.wait_closed()


def test_a_file_that_cannot_be_opened_is_told_and_opened_later(tmp_path, caplog):
    directory = tmp_path / "later"
    log = RecordLog("kv", RecordConfig(file=str(directory / "calls.jsonl")))
    log.add(record(1))
    while not log.trouble:
        log._hurry.wait(0.01)
    assert "No such file" in log.trouble
    directory.mkdir()
    written(log)
    assert log.written == 1
    assert not log.trouble
    log.close()
    log.wait_closed()
    assert len(list(Reader(directory / "calls.jsonl").calls())) == 1


def test_nothing_is_written_to_a_file_that_cannot_be_made_private(tmp_path, monkeypatch):
    path = tmp_path / "calls.jsonl"
    path.touch(mode=0o644)

    def refuse(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    file = RotatingFile(path, 1 << 20, 1, private=True)
    file.add(b"{}\n")
    with monkeypatch.context() as patched:  # as for a file of another user
        patched.setattr(os, "fchmod", refuse)
        for _ in range(2):
            with pytest.raises(PermissionError):
                file.write()
    assert path.read_bytes() == b""
    file.write()
    file.close()
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"{}\n", 0o600)


def test_several_recordings_that_hang_have_the_time_of_one(tmp_path, monkeypatch):
    recordings = Recordings()
    for number in range(3):
        recordings.open("kv", RecordConfig(file=str(tmp_path / f"{number}.jsonl")))
    now = 1000.0

    def hang(_log, seconds=LAST_WRITE + 1):
        nonlocal now
        now += seconds

    with monkeypatch.context() as patched:
        patched.setattr(recording, "time", SimpleNamespace(monotonic=lambda: now))
        patched.setattr(RecordLog, "wait_closed", hang)
        recordings.close()
    assert now == 1000.0 + LAST_WRITE + 1
    recordings.close()


def test_all_recordings_end_with_the_proxy(tmp_path):
    recordings = Recordings()
    logs = [
        recordings.open("kv", RecordConfig(file=str(tmp_path / f"{n}.jsonl"))) for n in range(3)
    ]
    for log in logs:
        log.add(record())
    recordings.close()
    assert [log.written for log in logs] == [1, 1, 1]
    assert not any(log.is_alive for log in logs)
    logs[0].add(record())
    assert logs[0].dropped == 1
    assert Path(tmp_path / "2.jsonl").exists()
