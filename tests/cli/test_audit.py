"""prism audit, by what it says of files that are no audit log, or cannot be read."""

import json

import pytest
from click.testing import CliRunner

from prism.cli.audit import SHOWN_PROBLEMS
from prism.cli.main import prism
from prism.cli.output import CommandError
from prism.observability.audit_reading import MAX_LINE, lines_of


def run(*words):
    return CliRunner().invoke(prism, ["audit", *map(str, words)])


OPENED = '{"seq":1,"chain":"a","time":"t","event":"opened"}\n'
CALL = (
    '{"seq":2,"chain":"a","time":"t","namespace":"kv","operation":"get","principal":"ada",'
    '"decision":"allow","rule":"open","status":"OK","ran":"unknown","duration_ms":1.5,'
    '"request_id":"r"}\n'
)


@pytest.mark.parametrize("text", ["", "root:x:0:0::/root:/bin/sh\n", "1.5\n[1]\nnull\n", "{}\n"])
def test_a_file_without_any_line_of_an_audit_log_is_none(tmp_path, text):
    file = tmp_path / "file"
    file.write_text(text)
    for options in ((), ("-o", "json")):
        done = run("verify", file, *options)
        assert (done.exit_code, done.output) == (1, "")
        assert isinstance(done.exception, CommandError)
        assert str(done.exception).startswith(f"{file}: this is no audit log: ")


def test_the_last_records_of_what_is_no_audit_log(tmp_path):
    file = tmp_path / "file"
    file.write_text('1.5\n"decision"\n[]\n')
    done = run("tail", file)
    assert (done.exit_code, done.output) == (1, "")
    assert isinstance(done.exception, CommandError)
    assert "this is no audit log" in str(done.exception)


def test_lines_between_the_records_that_are_none_are_passed_over(tmp_path):
    file = tmp_path / "file"
    file.write_text(f'1.5\n{OPENED}[]\n{{"chain":"a","decision":"allow"}}\n{CALL}')
    done = run("tail", file)
    assert (done.exit_code, done.output) == (
        0,
        "t ada kv/get OK 1.5 ms (allow, by open, may have run) r\n",
    )
    assert run("tail", file, "--json").output == CALL


def test_that_no_record_is_wanted_is_said_beside_them(tmp_path):
    file = tmp_path / "file"
    file.write_text(OPENED + CALL)
    done = run("tail", file, "--principal", "eve", "--decision", "deny")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"no record of {file} is one with --principal eve --decision deny\n"
    assert run("tail", file).stderr == ""
    file.write_text(OPENED)
    done = run("tail", file)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"{file} has no records yet\n"


def test_a_copy_of_a_log_in_use_may_be_one(tmp_path):
    file = tmp_path / "copy"
    file.write_text(OPENED + CALL)
    done = run("verify", file)
    assert done.exit_code == 1
    assert "nothing has been written since, or this is a copy of a log in use" in done.stdout


def test_of_many_lines_that_are_none_some_are_told(tmp_path):
    file = tmp_path / "file"
    file.write_text(OPENED + "no line of a log\n" * 5000)
    told = json.loads(run("verify", file, "-o", "json").stdout)
    assert len(told["notes"]) < 1010
    assert "4000 more are not whole lines" in told["notes"]
    said = run("verify", file).stderr.splitlines()
    assert said[-1] == f"... and {len(told['notes']) - SHOWN_PROBLEMS} more notes"


def test_a_line_without_an_end_is_not_read_whole(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x" * 3 * MAX_LINE + b"\n" + OPENED.encode())
    read = [(len(text), place) for text, place in lines_of(file)]
    place = f"{file}:1"
    last = (len(OPENED), f"{file}:2")
    assert read == [(MAX_LINE, place)] * 3 + [(1, place), last]


@pytest.mark.parametrize("command", ["verify", "tail"])
@pytest.mark.parametrize(
    ("name", "why"), [("", "Is a directory"), ("missing", "No such file or directory")]
)
def test_what_cannot_be_read(tmp_path, command, name, why):
    done = run(command, tmp_path / name)
    assert (done.exit_code, done.output) == (1, "")
    assert isinstance(done.exception, CommandError)
    assert str(done.exception) == f"{tmp_path / name}: {why}"
