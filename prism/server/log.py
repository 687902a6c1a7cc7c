"""What the server says about failures: which error and where, never its data.

Messages of foreign exceptions may quote what a client sent (a header, a token), so
only the exception's class and the places it passed through are logged.
"""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("prism.server")


def from_client(address: tuple[str, int] | None) -> dict[str, dict[str, str]]:
    """For ``extra`` of a log line: the client that it is about, ``HOST:PORT``."""
    return {"fields": {"client": client_name(address)} if address is not None else {}}


def client_name(address: tuple[str, int]) -> str:
    """A client as logs name it: ``192.0.2.1:5555``, ``[2001:db8::1]:5555``."""
    host, port = address
    if not port:
        return host  # known from a proxy, by its address alone
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Let no ``Exception`` out of the block: log it, once, as ``what`` failed.

    ``trio.Cancelled`` and ``KeyboardInterrupt`` pass, also out of a group.
    """
    try:
        yield
    except (Exception, BaseExceptionGroup) as error:
        log_failures(what, error)


def log_failures(what: str, error: Exception | BaseExceptionGroup[BaseException]) -> None:
    """Log, once, as ``what`` failed, each ``Exception`` in ``error``; raise what else is there."""
    if isinstance(error, Exception):
        logger.error("%s failed: %s", what, describe(error))
        return
    failures, rest = error.split(Exception)
    if failures is not None:
        logger.error("%s failed: %s", what, describe(failures))
    if rest is not None:
        raise rest from None


def describe(error: BaseException) -> str:
    """The classes of ``error`` (of a group: its leaves) and its traceback, without messages."""
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(describe(part) for part in error.exceptions)
    places = "".join(
        f"\n  {frame.filename}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__, limit=-20)
    )
    return f"{type(error).__module__}.{type(error).__qualname__}{places}"
