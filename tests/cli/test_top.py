"""``prism top``: what is made of two answers, the table, and the terminal it is kept on."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.cli.top import Board, differences, in_order, percentile, table

BOUNDS = [0.001, 0.01, 0.1]


def a_sample(clock, *namespaces, pid=7):
    return {"pid": pid, "clock": clock, "bounds": BOUNDS, "namespaces": list(namespaces)}


def kv(calls=None, durations=None, **more):
    found = {"namespace": "kv", "ready": True, "max_in_flight": 10, **more}
    return found if calls is None else found | {"calls": calls, "durations": durations}


def test_rates_and_percentiles_are_differences_of_two_answers():
    before = a_sample(100.0, kv({"OK": 1000, "NOT_FOUND": 1}, [1001, 0, 0, 0]))
    after = a_sample(
        102.0,
        kv(
            {"OK": 1006, "NOT_FOUND": 2, "UNAVAILABLE": 2, "RESOURCE_EXHAUSTED": 1},
            [1001, 10, 0, 0],
            in_flight=3,
            policies={"concurrency": {"limit": 8, "queued": 4}},
        ),
    )
    (row,) = differences(before, after)
    assert row == {
        "namespace": "kv",
        "ready": True,
        "calls_per_second": 5.0,
        "p50_seconds": pytest.approx(0.0055),
        "p99_seconds": pytest.approx(0.00991),
        "errors_per_second": 1.0,
        "refused_per_second": 0.5,
        "in_flight": 3,
        "max_in_flight": 8,
        "queued": 4,
        "open_streams": 0,
        "waiting": 0,
        "replicas": 1,
        "replicas_ready": 1,
        "policies": {"concurrency": {"limit": 8, "queued": 4}},
        "used_per_second": {},
    }


def test_a_namespace_without_calls_has_no_percentiles_and_one_that_came_counts_from_nothing():
    rows = differences(a_sample(1.0), a_sample(2.0, kv(), kv({"OK": 3}, [3, 0, 0, 0])))
    assert [row["calls_per_second"] for row in rows] == [0.0, 3.0]
    assert [row["p99_seconds"] is None for row in rows] == [True, False]


def test_one_that_was_removed_and_made_anew_has_no_negative_rate():
    before = a_sample(1.0, kv({"OK": 50}, [50, 0, 0, 0]))
    (row,) = differences(before, a_sample(2.0, kv({"OK": 3}, [3, 0, 0, 0])))
    assert (row["calls_per_second"], row["p50_seconds"]) == (0.0, None)


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.floats(0, 1))
def test_a_percentile_is_in_the_bucket_of_its_call(counts, share):
    found = percentile(BOUNDS, counts, share)
    if not sum(counts):
        assert found is None
        return
    ends = [0.0, *BOUNDS, BOUNDS[-1]]
    calls = [place for place, count in enumerate(counts) for _ in range(count)]
    place = calls[max(0, -int(-share * len(calls) // 1) - 1)]
    assert ends[place] - 1e-9 <= found <= ends[place + 1] + 1e-9


def a_row(name, rate, **more):
    (row,) = differences(a_sample(0.0), a_sample(1.0, kv(namespace=name, **more)))
    return row | {"calls_per_second": rate}


def test_the_busiest_comes_first_and_then_the_alphabet():
    rows = [a_row("b", 1.0), a_row("a", 1.0), a_row("c", 9.0)]
    assert [row["namespace"] for row in in_order(rows, "rate")] == ["c", "a", "b"]
    assert [row["namespace"] for row in in_order(rows, "name")] == ["a", "b", "c"]
    assert [row["namespace"] for row in in_order(rows, "p99")] == ["a", "b", "c"]


def test_policies_have_columns_where_one_of_the_rows_has_them():
    rows = [
        a_row("kv", 12.25, policies={"breaker": {"state": "half_open", "errors": 3}}),
        a_row(
            "other",
            0.0,
            ready=False,
            policies={"rate": {"namespace": {"refused": 3}}, "concurrency": {}},
        ),
    ]
    head, first, second = table(rows)
    assert head.startswith("NAMESPACE          CALLS/S  P50 MS")
    assert head.endswith("QUEUED  BREAKER    REFUSED/S  STREAMS  WAITING  RATE")
    assert first.endswith("0  half-open        0.0        0        0  -")
    assert second.startswith("other (no plugin)      0.0       -")
    assert second.endswith("0  -                0.0        0        0  -")


@pytest.mark.parametrize(
    ("policy", "before", "after", "shown"),
    [
        ("rate", {"principal": {"refused": 1}, "store": "up"},
         {"principal": {"refused": 4}, "client": {"refused": 2}, "store": "up"}, "2.5/s"),
        ("retries", {"used": 7}, {"used": 7, "left": 3.5}, "-"),
        ("hedging", {"sent": 1}, {"sent": 2}, "0.5/s"),
        ("shedding", {}, {"refusing": "nothing"}, "-"),
        ("shedding", {}, {"refusing": "low", "refused": 9}, "low"),
        ("record", {}, {"file": "calls.jsonl", "written": 12, "trouble": ""}, "12"),
        ("shadow", {}, {"share": 1.0, "equal": 5, "different": 2}, "2 differ"),
        ("breaker", {}, {"action": "auto", "state": "half_open"}, "half-open"),
        ("breaker", {}, {"instances": [{"state": "open"}, {"state": "closed"},
                                       {"state": "closed"}]}, "1 of 3 open"),
        ("breaker", {}, {"instances": [{"state": "closed"}, {"state": "closed"}]}, "closed"),
    ],
)  # fmt: skip
def test_a_policy_shows_one_word_or_number(policy, before, after, shown):
    rows = differences(
        a_sample(0.0, kv(policies={policy: before})), a_sample(2.0, kv(policies={policy: after}))
    )
    head, line = table(rows)
    assert line[head.index(policy.upper()) :].partition("  ")[0].strip() == shown


def test_on_80_columns_there_is_what_is_most_useful_and_the_heading_whole():
    policies = {
        "breaker": {"instances": [{"state": "open"}, {"state": "closed"}]},
        "rate": {"namespace": {"refused": 3}},
    }
    board = Board("http://127.0.0.1:50052")
    for clock in (1.0, 2.0):
        board.take(a_sample(clock, kv({"OK": 1}, [1, 0, 0, 0], replicas=3, policies=policies)))
    lines = board.lines(24, 80)
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("namespaces have calls; by rate")
    assert lines[2].endswith(" BREAKER     REPLICAS")
    assert "1 of 2 open" in lines[3]
    assert "RATE" in board.lines(24)[2].split()
    board.take(None, "cannot reach the admin port at http://127.0.0.1:50052: Connection refused")
    assert " ".join(board.lines(24, 80)[:2]).endswith("refused; trying again")


def test_replicas_have_a_column_where_there_are_any():
    rows = [a_row("kv", 0.0, replicas=3, replicas_ready=2), a_row("gone", 0.0, ready=False)]
    head, first, second = table(rows)
    assert head.endswith("QUEUED  REPLICAS  REFUSED/S  STREAMS  WAITING")
    assert first.split()[7] == "2/3"
    assert second.split()[9] == "0/1"


def test_thousands_have_as_many_lines_and_columns_as_there_is_room_for():
    board = Board("there")
    names = [f"ns-{number:04}" for number in range(5000)]
    assert not board.take(a_sample(1.0, *(kv(namespace=name) for name in names)))
    busy = [kv({"OK": n + 1}, [n + 1, 0, 0, 0], namespace=name) for n, name in enumerate(names)]
    assert board.take(a_sample(2.0, *busy))
    lines = board.lines(10, 40)
    assert len(lines) == 10
    assert max(map(len, lines)) <= 40
    assert lines[2] == "NAMESPACE CALLS/S P50 MS P99 MS ERR/S"
    assert lines[3].split()[0] == "ns-4999"
    assert lines[-1] == "... and 4,994 more"
    assert len(board.record()["namespaces"]) == 5000


@pytest.mark.parametrize("height", range(1, 8))
def test_a_terminal_of_a_few_lines_is_not_overrun(height):
    board = Board("there")
    for clock in (1.0, 2.0):
        board.take(a_sample(clock, *(kv(namespace=name) for name in "abcdef")))
    assert len(board.lines(height, 80)) <= height


@pytest.mark.parametrize("width", range(1, 12))
def test_a_terminal_of_a_few_columns_is_not_overrun(width):
    board = Board("there")
    for sample in (a_sample(1.0, kv()), a_sample(2.0, kv()), None):
        board.take(sample, "" if sample else "cannot reach the admin port at there: refused")
        assert max(map(len, board.lines(24, width))) <= width


def test_what_answers_cannot_drive_the_terminal():
    board = Board("there")
    shown = {"\x1b[1m": {"state": "\x1b[2J"}, "breaker": {"state": "\x9b2J"}}
    for clock in (1.0, 2.0):
        board.take(a_sample(clock, kv(namespace="\x1b]0;x\x07", policies=shown)))
    board.take(None, "INTERNAL: no\x1b[2J\nmore")
    assert all(line.replace("\ufffd", "").isprintable() for line in board.lines(24, 200))


def test_a_proxy_that_goes_away_is_said_and_the_last_rows_stay():
    board = Board("there")
    board.take(a_sample(1.0, kv()))
    board.take(a_sample(2.0, kv()))
    assert not board.take(None, "cannot reach the admin port at there: refused")
    assert board.lines(10)[0] == "cannot reach the admin port at there: refused; trying again"
    assert board.lines(10)[3].startswith("kv")
    assert not board.take(a_sample(9.0, kv()))
    assert board.take(a_sample(10.0, kv()))
    assert board.record()["seconds"] == 1.0


def test_a_successors_counters_are_not_taken_for_the_same():
    board = Board("there")
    board.take(a_sample(1.0, kv({"OK": 50}, [50, 0, 0, 0])))
    assert not board.take(a_sample(2.0, kv(), pid=8))
    assert board.take(a_sample(3.0, kv({"OK": 1}, [1, 0, 0, 0]), pid=8))
    assert board.record()["namespaces"][0]["calls_per_second"] == 1.0


# -- on a terminal -----------------------------------------------------------------


class Port:
    """An admin port of samples: ``begin`` it, ``end`` it, and begin it again at its place."""

    def __init__(self):
        self.clock = 0.0
        self.number = 0

    def begin(self):
        port = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                port.clock += 1.0
                body = json.dumps(
                    a_sample(
                        port.clock,
                        kv({"OK": int(port.clock) * 42}, [int(port.clock) * 42, 0, 0, 0]),
                        kv(namespace="idle"),
                    )
                ).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", self.number), Answer)
        self.number = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def end(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Terminal:
    """``prism top`` on a terminal of its own."""

    def __init__(self, port, *options):
        self.master, slave = pty.openpty()
        self.resize(12, 100)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prism", "top", "--interval", "0.1",
                "--url", f"http://127.0.0.1:{port.number}", *options],
            stdin=slave, stdout=slave, stderr=slave, process_group=0,
            env={name: value for name, value in os.environ.items()
                if name not in ("COLUMNS", "LINES")},
        )  # fmt: skip
        self.shown = b""

    def resize(self, lines, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, text):
        """Read until ``text`` was shown; returns what came up to there, and forgets it."""
        while text.encode() not in self.shown:
            self.shown += os.read(self.master, 4096)
        seen, _, self.shown = self.shown.partition(text.encode())
        return (seen + text.encode()).decode()

    def press(self, keys):
        os.write(self.master, keys.encode())

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def port():
    port = Port()
    port.begin()
    yield port
    port.end()


@pytest.fixture
def terminal(port):
    terminal = Terminal(port)
    yield terminal
    terminal.end()


def test_the_table_stays_is_sorted_by_keys_and_what_was_there_comes_back(terminal):
    shown = terminal.until("42 calls/s")
    assert "\x1b[?1049h" in shown
    assert "\x1b[2J" not in shown, "it would flicker"
    terminal.until("idle")
    terminal.press("n")
    terminal.until("by name")
    terminal.press("9")
    terminal.until("by p99")
    terminal.press("q")
    terminal.until("\x1b[?1049l")
    assert terminal.process.wait() == 0
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_a_proxy_that_goes_away_and_comes_back(terminal, port):
    terminal.until("42 calls/s")
    port.end()
    terminal.until("trying again")
    port.begin()
    terminal.until("42 calls/s")


def test_a_terminal_that_is_resized(terminal):
    terminal.until("idle")
    terminal.resize(12, 20)
    terminal.process.send_signal(signal.SIGWINCH)
    while True:
        drawn = re.sub(r"\x1b\[[HJK]", "", terminal.until("\x1b[J"))
        if all(len(line) <= 20 for line in drawn.split("\r\n")):
            return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_the_terminal_back(terminal, number):
    terminal.until("42 calls/s")
    terminal.process.send_signal(number)
    terminal.until("\x1b[?1049l")
    assert terminal.process.wait() == 0
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_one_that_is_stopped_gives_the_terminal_back_and_goes_on(terminal):
    terminal.until("42 calls/s")
    terminal.process.send_signal(signal.SIGTSTP)
    terminal.until("\x1b[?1049l")
    _, status = os.waitpid(terminal.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    terminal.process.send_signal(signal.SIGCONT)
    terminal.until("\x1b[?1049h")
    terminal.until("42 calls/s")


def run(port, *options):
    command = [sys.executable, "-m", "prism", "top", "--interval", "0.1"]
    return subprocess.Popen(
        [*command, "--url", f"http://127.0.0.1:{port.number}", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_once_is_a_table_or_numbers(port):
    with run(port, "--once", "--rows", "1") as top:
        assert top.stdout.read().splitlines()[3].split()[:2] == ["kv", "42.0"]
    with run(port, "--once", "-o", "json", "--sort", "name") as top:
        (line,) = top.stdout.read().splitlines()
    found = json.loads(line)
    assert [row["namespace"] for row in found["namespaces"]] == ["idle", "kv"]
    assert found["namespaces"][1]["calls_per_second"] == 42.0


def test_without_a_terminal_a_table_is_one_interval(port):
    with run(port) as top:
        assert "\x1b" not in top.stdout.read()
    assert top.returncode == 0


def test_lines_for_programs_go_on_over_a_proxy_that_was_away(port):
    with run(port, "-o", "json") as top:
        assert json.loads(top.stdout.readline())["seconds"] == 1.0
        port.end()
        assert top.stderr.readline().endswith("; trying again\n")
        port.begin()
        for line in top.stdout:
            assert json.loads(line)["namespaces"][0]["calls_per_second"] == 42.0
            break
        top.kill()


def test_a_proxy_that_is_not_there_at_first_ends_it(port):
    port.end()
    try:
        with run(port, "--once") as top:
            assert "cannot reach the admin port" in top.stderr.read()
        assert top.returncode == 1
    finally:
        port.begin()
