"""Takes a plugin's credentials out of whatever is said: answers, errors, logs, metrics.

Both sides do it. The SDK, before anything leaves the plugin; and the proxy, at the border,
because a plugin in another language has no SDK, and the message of a driver that cannot
connect likes to hold the whole address, password included.

Results of operations are data, and pass as they are. So do the names of users: they are no
secrets, and short ones (``app``, ``prism``) are parts of words that have nothing to do with them.
"""

import html
import json
import re
import traceback
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

import msgspec

REDACTED = "[redacted]"
MIN_PART = 8
"""Characters by which a part of a secret counts as one: its beginning where a text was cut, one
of its lines, or its middle within other base64. Shorter ones occur by chance."""

_USER_KEY = re.compile(r"(^|[_.-])(user([_-]?(name|id))?|login|client[_-]?id)$", re.IGNORECASE)
"""Credentials whose values are the names of users: ``username``, ``sasl_username``, ``client_id``.
All others are secrets, whatever they are called."""


S = TypeVar("S", bound=msgspec.Struct)


def is_user_key(name: str) -> bool:
    """Whether the credential ``name`` is the name of a user, which is no secret."""
    return _USER_KEY.search(name) is not None


class Redaction:
    """Hides the values of ``credentials``, also in the spellings that drivers and loggers use:
    percent-encoded in a URL, escaped in a repr, in HTML, or once or twice in JSON, as base64
    or hexadecimal digits, and as the lines of a value that has several. The names of users stay.

    ``longest`` is the length of the longest spelling: so much of a text's end may be the
    beginning of a secret that was cut off.
    """

    def __init__(self, credentials: Mapping[str, str] | None = None) -> None:
        spellings: set[str] = set()
        for name, value in (credentials or {}).items():
            if not is_user_key(name):
                spellings.update(_spellings(value))
        # The longest first: one may be a part of another.
        self._secrets = sorted(spellings - {""}, key=len, reverse=True)
        self._beginnings = [
            (secret[:MIN_PART], secret) for secret in self._secrets if len(secret) > MIN_PART
        ]
        self.longest = len(self._secrets[0]) if self._secrets else 0

    def text(self, text: str) -> str:
        """The text without any credential's value, nor the beginning of one at its end."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        for beginning, secret in self._beginnings:
            at = text.find(beginning, max(0, len(text) - len(secret) + 1))
            while at >= 0 and not secret.startswith(text[at:]):
                at = text.find(beginning, at + 1)
            if at >= 0:
                text = text[:at] + REDACTED
        return text

    def start_of(self, text: str, limit: int) -> str:
        """The first ``limit`` characters of a text of which more may have come, redacted.

        ``text`` should have ``longest`` characters more than that.
        """
        shown = self.text(text)
        if len(text) <= limit:
            return shown
        # What is left of a secret that was cut off would be at the end.
        return shown[: min(limit, max(0, len(shown) - self.longest))]

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
                changes[name] = {self.text(key): self.text(text) for key, text in value.items()}
        return msgspec.structs.replace(message, **changes)


def _spellings(value: str) -> Iterator[str]:
    """``value`` in every way in which it may be written."""
    yield from _in_text(value)
    for line in value.splitlines():
        if line != value and len(line) >= MIN_PART and not line.startswith("-----"):
            yield from _in_text(line)
    raw = value.encode(errors="surrogatepass")
    yield from _in_base64(raw)
    if len(raw) * 2 >= MIN_PART:
        yield raw.hex()
        yield raw.hex().upper()


def _in_text(value: str) -> Iterator[str]:
    yield value
    yield repr(value)[1:-1]
    yield html.escape(value)
    for quoted in (quote(value, safe="", errors="replace"), quote(value, errors="replace"),
                   quote_plus(value, errors="replace")):  # fmt: skip
        yield quoted
        yield _lower_escapes(quoted)
    for escaped in (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]):
        # PHP escapes slashes, Go what HTML would take for its own.
        for variant in (escaped, escaped.replace("/", r"\/"), escaped.translate(_GO_ESCAPES)):
            yield variant
            yield json.dumps(variant, ensure_ascii=False)[1:-1]


def _lower_escapes(quoted: str) -> str:
    first, *escapes = quoted.split("%")
    return "%".join([first, *(escape[:2].lower() + escape[2:] for escape in escapes)])


def _in_base64(raw: bytes) -> Iterator[str]:
    """``raw`` in both alphabets, with padding and without, in lines, and within something longer
    (``user:password``), where it may begin at any of three places of a group."""
    whole = b64encode(raw).decode()
    found = [whole, whole.rstrip("=")] if len(whole.rstrip("=")) >= 4 else []
    for width in (64, 76):
        if len(whole) > width:
            lines = [whole[at : at + width] for at in range(0, len(whole), width)]
            found += [line for line in lines if len(line) >= MIN_PART]
    for before in range(3):
        # The characters that hold bits of ``raw`` alone.
        start = (before * 8 + 5) // 6
        inner = b64encode(b"\0" * before + raw)[start : (before + len(raw)) * 8 // 6].decode()
        if len(inner) >= MIN_PART:
            found.append(inner)
    for text in found:
        yield text
        yield text.translate(_URL_SAFE)


_GO_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}
_URL_SAFE = str.maketrans("+/", "-_")
