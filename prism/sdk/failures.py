"""What an exception becomes: a status and a sentence for the caller, a log entry for us.

Callers learn what a plugin says on purpose (``PluginError``) and no more.
Credentials are taken out of every sentence and every traceback.
"""

import logging
import secrets
from collections.abc import Mapping

from prism.contract.errors import CallError
from prism.contract.redaction import Redaction
from prism.contract.status import StatusCode


class Failures:
    """Turns exceptions into answers, for one plugin."""

    def __init__(self, plugin: str) -> None:
        self._logger = logging.getLogger(f"prism.plugin.{plugin}")
        self._redaction = Redaction()

    def keep_secret(self, credentials: Mapping[str, str]) -> None:
        """From now on these values appear in no answer and no log entry."""
        self._redaction = Redaction(credentials)

    def of_call(
        self, error: Exception, operation: str, request_id: str = ""
    ) -> tuple[StatusCode, str]:
        """Status and detail for the caller of an operation that raised ``error``.

        ``request_id`` leads from the log entry to the proxy's line about the call.
        """
        said = _said_on_purpose(error)
        if said is not None:
            return said.status, self._redaction.text(said.detail)
        error_id = secrets.token_hex(4)
        request = f", request {request_id}" if request_id else ""
        self._log(error, f"operation {operation!r} failed, error id {error_id}{request}")
        detail = f"the plugin failed unexpectedly; its log has the cause under error id {error_id}"
        return StatusCode.INTERNAL, detail

    def of_lifecycle(self, error: Exception, step: str) -> tuple[StatusCode, str]:
        """Status and detail for the operator, when ``step`` of the plugin's life failed.

        Unlike a client, the operator may read the exception's own text.
        """
        said = _said_on_purpose(error)
        if said is not None:
            return said.status, self._redaction.text(said.detail)
        self._log(error, f"{step} failed")
        return StatusCode.INTERNAL, self._redaction.text(
            f"{step} failed: {type(error).__name__}: {error}"
        )

    def _log(self, error: Exception, what: str) -> None:
        self._logger.error("%s\n%s", what, self._redaction.traceback(error))


def _said_on_purpose(error: BaseException) -> CallError | None:
    """The CallError, also when a task group wrapped it alone into a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, CallError) else None
