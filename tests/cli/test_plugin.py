"""How plugins, and what they write, are told to programs and people."""

import json

import pytest
import yaml
from click.testing import CliRunner

from prism.cli.main import prism
from prism.cli.plugin import _log_line, _show, _tell, _trial, _watched, _with_last_line

RECORDS = [{"namespace": "kv", "state": "ready", "pid": None}, {"namespace": "kv", "state": "down"}]


@pytest.mark.parametrize(
    ("output", "read_all"),
    [
        ("json", lambda text: [json.loads(line) for line in text.splitlines()]),
        ("yaml", lambda text: list(yaml.safe_load_all(text))),
    ],
)
def test_one_after_the_other_can_be_told_apart(output, read_all):
    printed = "".join(f"{_watched(record, output)}\n" for record in RECORDS)
    assert read_all(printed) == RECORDS


def test_a_line_of_the_log_shows_newlines_and_nothing_that_drives_a_terminal():
    line = {
        "time": 0,
        "level": "ERROR",
        "instance": "kv/1",
        "text": "failed\nTrace\x1b[2J:\n\there",
    }
    assert _log_line(line) == (
        "1970-01-01T00:00:00.000+00:00 ERROR   kv/1 failed\n    Trace\ufffd[2J:\n    \there"
    )


CANARY = {"share": 0.1, "calls": 0, "min_calls": 100, "error_rate": 0.0, "old_error_rate": 0.0,
    "seconds": 30.2, "min_seconds": 30.0, "max_seconds": 600.0}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "canary: 0 of 100 calls, rolled back in 9m30s"),
        ({"seconds": 599.9}, "canary: 0 of 100 calls, rolled back in 0s"),
        (
            {"calls": 99, "error_rate": 0.05, "old_error_rate": 0.001},
            "canary: 99 of 100 calls, errors 5.0% (old: 0.1%), rolled back in 9m30s",
        ),
        (
            {"calls": 120, "seconds": 12},
            "canary: 120 of 100 calls, errors 0.0% (old: 0.0%), judged in 18s",
        ),
    ],
)
def test_how_a_canary_stands(changes, line):
    assert _trial(CANARY | changes) == line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--min-calls", "5"], "--min-calls: of a canary, so --canary SHARE is needed"),
        (["--max-seconds", "5", "--min-seconds", "1"], "--min-seconds, --max-seconds: of a canary"),
        (["--abort", "--version", "v2"], "--abort stops a reload, and begins none"),
        (["--abort", "--canary", "10%"], "--abort stops a reload, and begins none"),
    ],
)
def test_options_of_a_reload_that_make_no_sense(options, says):
    result = CliRunner().invoke(prism, ["plugin", "reload", "kv", *options])
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


def test_the_status_of_a_plugin_that_failed(capsys):
    _show(
        {"state": "failed", "retry_in": 18.845197708589694, "last_output": ["a", "b\x1b"]}, "table"
    )
    assert capsys.readouterr().out.splitlines() == [
        "state:    failed",
        "retry in: 18.8 s",
        "last output:",
        "    a",
        "    b\ufffd",
    ]


@pytest.mark.parametrize(
    ("instance", "line", "reason"),
    [
        (None, "no such table", "it ended; it wrote: no such table"),
        (None, "x" * 1000, f"it ended; it wrote: {'x' * 120}…"),
        ("kv/2", "no such table", "it ended"),
    ],
)
def test_the_list_has_the_last_line_of_a_plugin_that_is_not_there(instance, line, reason):
    status = {"instance": instance, "reason": "it ended", "last_output": ["before", line]}
    assert _with_last_line(status)["reason"] == reason
    status["last_output"].append(" \n")
    assert _with_last_line(status)["reason"] == reason


def test_the_status_has_the_last_line_of_a_plugin_that_crashed_and_the_error_once(capsys):
    _show(
        {"instance": None, "reason": "it crashed: exit 3; reset it", "last_error": "exit 3",
         "last_output": ["no such table"]},
        "table",
    )  # fmt: skip
    assert capsys.readouterr().out.splitlines()[:2] == [
        "reason: it crashed: exit 3; reset it; it wrote: no such table",
        "last output:",
    ]


def test_limits_of_a_namespace_as_people_read_them(monkeypatch):
    found = {
        "name": "kv",
        "plugin": {"plugin": "kv", "state": "ready"},
        "operations": [],
        "policies": {"breaker": {"state": "open", "since": 1e9}, "retries": {}},
        "limits": {"max_in_flight": None, "max_timeout_seconds": 3600.0, "timeout_seconds": 300.0},
    }
    monkeypatch.setattr("prism.cli.plugin.Admin.get", lambda _self, _path: found)
    result = CliRunner().invoke(prism, ["namespace", "describe", "kv"])
    assert "max_in_flight -, max_timeout_seconds 3600, timeout_seconds 300\n" in result.output
    assert (
        "breaker:    state open, since 2001-09-09T01:46:40+00:00\nretries:    -\n" in result.output
    )


def test_blocks_lists_and_rates_of_a_namespace_as_people_read_them(monkeypatch):
    rate = {"calls_per_second": 2.0, "burst": 3, "per": "namespace", "operations": []}
    scans = {"calls_per_second": 0.1, "burst": 1, "per": "principal", "operations": ["get", "scan"]}
    counts = {"keys": 1, "refused": 4}
    found = {
        "name": "kv",
        "plugin": {"plugin": "kv", "state": "ready"},
        "operations": [],
        "policies": {
            "rate": {"namespace": rate | counts, "principal": scans | counts, "store": "up"},
            "breaker": {"instances": [{"instance": "kv/1", "state": "open"}, {"state": "closed"}]},
            "hedging": {"after_ms": {"get": 1.5}, "sent": 0},
        },
        "limits": {
            "adaptive": {"min": 4, "max": None},
            "fair_shares": False,
            "max_payload_bytes": 1048576,
            "rate": [rate, scans],
        },
    }

    def described():
        # Each time anew: what is shown of an answer is made of it.
        monkeypatch.setattr(
            "prism.cli.plugin.Admin.get", lambda _self, _path: json.loads(json.dumps(found))
        )
        result = CliRunner().invoke(prism, ["namespace", "describe", "kv"])
        assert result.exit_code == 0, result.output
        return [line.partition(":") for line in result.output.splitlines()]

    lines = {name: value.strip() for name, _, value in described()}
    assert lines["limits"] == "adaptive (min 4, max -), fair_shares no, max_payload_bytes 1048576"
    assert lines["rate"] == (
        "2/s, burst 3, per namespace, keys 1, refused 4; "
        "0.1/s, burst 1, per principal, of get, scan, keys 1, refused 4; store up"
    )
    assert lines["breaker"] == "instances (instance kv/1, state open; state closed)"
    assert lines["hedging"] == "after_ms (get 1.5), sent 0"

    del found["policies"]["rate"]  # one that is to come, as with an older proxy
    lines = {name: value.strip() for name, _, value in described()}
    assert lines["limits"].endswith(
        "rate (2/s, burst 3, per namespace; 0.1/s, burst 1, per principal, of get, scan)"
    )
    del found["policies"]  # of a proxy that has none yet
    assert "breaker" not in {name for name, _, _ in described()}


def test_a_breaker_is_operated(monkeypatch):
    asked = []

    def post(_self, path, body):
        asked.append((path, body))
        breaker = {"action": "open", "by": "uid 0", "since": 1e9, "state": "open"}
        return {"namespace": "kv", "breaker": breaker}

    monkeypatch.setattr("prism.cli.plugin.Admin.post", post)
    result = CliRunner().invoke(prism, ["namespace", "breaker", "kv", "open"])
    assert asked == [("/admin/breaker", {"namespace": "kv", "action": "open"})]
    assert result.output.splitlines() == [
        "namespace: kv",
        "action:    open",
        "by:        uid 0",
        "since:     2001-09-09T01:46:40+00:00",
        "state:     open",
    ]
    result = CliRunner().invoke(prism, ["namespace", "breaker", "kv", "shut"])
    assert "'open', 'close', 'auto'" in result.output


def test_seconds_of_a_canary_that_takes_an_hour(capsys):
    _show({"canary": {"error_rate": 0.01234, "seconds": 12.345, "max_seconds": 3600.0}}, "table")
    assert capsys.readouterr().out == (
        "canary: error_rate 0.0123, seconds 12.3, max_seconds 3600\n"
    )


def test_the_receipt_of_a_failure_says_that_there_is_no_instance_still(capsys):
    receipt = {"outcome": "failed", "phases": {"absent": 0.3456, "total": 0.5}}
    _show(receipt, "table")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "absent" in line]
    assert line.endswith("absent 0.346 s, total 0.500 s; it has no instance still")


REPLICA = {
    "name": "1",
    "zone": "",
    "state": "ready",
    "reason": "",
    "instance": "orders/1/1",
    "version": "v1",
    "pid": 71,
    "in_flight": 4,
    "health": "HEALTHY",
    "retry_in": None,
    "share": 0.5,
    "ejected_for": None,
    "ejections": 0,
}


def test_the_status_has_a_table_of_the_replicas(capsys):
    ejected = {"name": "2", "share": 0.0, "ejected_for": 9.5, "pid": None, "version": None}
    _show({"namespace": "orders", "replicas": [REPLICA, REPLICA | ejected]}, "table")
    assert capsys.readouterr().out == (
        "namespace: orders\n"
        "replicas:\n"
        "NAME  STATE  VERSION  PID  IN FLIGHT  SHARE  EJECTED FOR  REASON\n"
        "1     ready  v1       71   4          50%    -            -\n"
        "2     ready  -        -    4          0%     9.5 s        -\n"
    )


def test_a_receipt_has_a_table_of_the_replicas(capsys):
    names = {"old": {"id": "orders/1/1"}, "new": {"id": "orders/1/2"}}
    first = {"replica": "1", "outcome": "swapped", "reason": "", "phases": {"total": 0.5}, **names}
    second = first | {"replica": "2", "outcome": "rolled_back", "reason": "no table", "new": None}
    with pytest.raises(SystemExit) as ended:
        _tell({"outcome": "partial", "replicas": [first, second]}, "table")
    assert ended.value.code == 1
    assert capsys.readouterr().out == (
        "outcome: partial\n"
        "replicas:\n"
        "NAME  OUTCOME      OLD         NEW         TOTAL    REASON\n"
        "1     swapped      orders/1/1  orders/1/2  0.500 s  -\n"
        "2     rolled_back  orders/1/1  -           0.500 s  no table\n"
    )
