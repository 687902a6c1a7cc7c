import io
import json
import logging
import os
import sys
import warnings

import pytest
from hpack import Decoder as HpackDecoder
from hpack import Encoder as HpackEncoder

from prism.observability.logs import setup_logging


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _restore():
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook
    yield
    root.handlers[:], sys.excepthook = before[0], before[2]
    root.setLevel(before[1])
    logging.captureWarnings(capture=False)


def test_json_lines():
    stream = io.StringIO()
    setup_logging("info", "auto", stream)
    logger = logging.getLogger("prism.test")
    logger.debug("unseen")
    logger.info("two\nlines", extra={"fields": {"namespace": "kv", "odd": "\ud800"}})
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("failed with %s", "this")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["message"] == "two\nlines"
    assert (first["level"], first["logger"], first["namespace"]) == ("info", "prism.test", "kv")
    assert first["time"].endswith("Z")
    assert first["pid"] == os.getpid()
    assert len(first["time"]) == len("2026-01-01T00:00:00.000Z")
    assert second["message"] == "failed with this"
    assert second["exception"].endswith("ValueError: why")


def test_libraries_do_not_tell_what_clients_send():
    stream = io.StringIO()
    setup_logging("debug", "json", stream)
    logging.getLogger("prism.test").debug("seen")
    HpackDecoder().decode(HpackEncoder().encode([("authorization", "Bearer canary")]))
    assert "seen" in stream.getvalue()
    assert "canary" not in stream.getvalue()


def test_console_lines():
    stream = io.StringIO()
    setup_logging("debug", "console", stream)
    logging.getLogger("prism.test").info(
        "evil\x1b[2J\n2026 fake", extra={"fields": {"reason": "a\nb", "empty": ""}}
    )
    first, second = stream.getvalue().splitlines()
    assert first.endswith(r"INFO     prism.test: evil\x1b[2J reason=a\x0ab")
    assert second == "    2026 fake"


def test_a_message_of_many_lines_is_indented_below_its_first():
    stream = io.StringIO()
    setup_logging("debug", "console", stream)
    logging.getLogger("prism.test").error("failed\nTraceback:\n\n  File\x1b\r\n2026 fake")
    first, *rest = stream.getvalue().split("\n")
    assert first.endswith("prism.test: failed")
    assert rest == ["    Traceback:", "    ", r"      File\x1b\x0d", "    2026 fake", ""]


def test_an_exception_cannot_fake_a_line_or_rewrite_the_terminal():
    stream = io.StringIO()
    setup_logging("info", "console", stream)
    try:
        raise ValueError("\x1b[2J\n2026 fake")
    except ValueError:
        logging.getLogger("prism.test").exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("prism.test: failed")
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in stream.getvalue()


def test_a_process_without_standard_error_has_no_log(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    setup_logging("info", "auto")
    logging.getLogger("prism.test").error("nowhere")


def test_a_second_set_up_takes_the_first_ones_place(tmp_path):
    with (tmp_path / "one").open("w") as one, (tmp_path / "two").open("w") as two:
        for stream in (one, two):
            setup_logging("info", "json", stream)
            logging.getLogger("prism.test").info("line")
        (writer,) = logging.getLogger().handlers
        writer.flush()
        writer.close()
    for name in ("one", "two"):
        assert json.loads((tmp_path / name).read_text())["message"] == "line"


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    setup_logging("info", "auto", stream)
    logging.getLogger("prism.test").warning("w")
    assert "\x1b[33mWARNING" in stream.getvalue()
    for name, value in (("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
        stream = Terminal()
        setup_logging("info", "auto", stream)
        logging.getLogger("prism.test").warning("w")
        assert "\x1b" not in stream.getvalue()
        monkeypatch.setenv("TERM", "xterm")


def test_uncaught_exceptions_and_warnings_are_logged():
    stream = io.StringIO()
    setup_logging("info", "json", stream)
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        sys.excepthook(*sys.exc_info())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", stacklevel=1)
    uncaught, warned = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (uncaught["level"], uncaught["logger"]) == ("critical", "prism")
    assert "RuntimeError: boom" in uncaught["exception"]
    assert "careful" in warned["message"]
