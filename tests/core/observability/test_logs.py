import io
import json
import logging
import sys
import warnings

import pytest

from prism.core.observability.logs import setup_logging


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
    assert len(first["time"]) == len("2026-01-01T00:00:00.000Z")
    assert second["message"] == "failed with this"
    assert second["exception"].endswith("ValueError: why")


def test_console_lines():
    stream = io.StringIO()
    setup_logging("debug", "console", stream)
    logging.getLogger("prism.test").info(
        "evil\x1b[2J\n2026 fake", extra={"fields": {"reason": "a\nb", "empty": ""}}
    )
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r"INFO     prism.test: evil\x1b[2J\x0a2026 fake reason=a\x0ab")


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    setup_logging("info", "auto", stream)
    logging.getLogger("prism.test").warning("w")
    assert "\x1b[33mWARNING" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    setup_logging("info", "auto", stream)
    logging.getLogger("prism.test").warning("w")
    assert "\x1b" not in stream.getvalue()


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
