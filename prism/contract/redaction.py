"""Takes a plugin's credentials out of whatever is said: answers, errors, logs.

Both sides do it. The SDK, before anything leaves the plugin; and the proxy's
channels, because a plugin in another language has no SDK, and the message of a
driver that cannot connect likes to hold the whole address, password included.
"""

import traceback
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

import msgspec

REDACTED = "[redacted]"

S = TypeVar("S", bound=msgspec.Struct)


class Redaction:
    """Hides the values of ``credentials``, also in the spellings that drivers use:
    percent-encoded in a URL, escaped in a repr or in JSON."""

    def __init__(self, credentials: Mapping[str, str] | None = None) -> None:
        spellings: set[str] = set()
        for value in (credentials or {}).values():
            spellings |= {value, quote(value, safe=""), quote(value), quote_plus(value)}
            spellings |= {repr(value)[1:-1], msgspec.json.encode(value).decode()[1:-1]}
        # The longest first: one may be a part of another.
        self._secrets = sorted(spellings - {""}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text without any credential's value."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return text

    def traceback(self, error: BaseException) -> str:
        """The error's traceback, without any credential's value."""
        return self.text("".join(traceback.format_exception(error)).rstrip())

    def fields(self, message: S, *names: str) -> S:
        """``message`` with these fields redacted: texts, or maps of texts."""
        if not self._secrets:
            return message
        changes: dict[str, Any] = {}
        for name in names:
            value = getattr(message, name)
            if isinstance(value, str):
                changes[name] = self.text(value)
            else:
                changes[name] = {key: self.text(text) for key, text in value.items()}
        return msgspec.structs.replace(message, **changes)
