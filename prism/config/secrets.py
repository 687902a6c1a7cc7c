"""Secrets: where they may be named, how they are read, and how they stay hidden."""

import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import msgspec

from prism.config.document import Place
from prism.config.errors import ConfigError, ConfigProblem
from prism.config.typecheck import fields_of, meta_of
from prism.config.types import Config

MAX_SECRET_BYTES = 64 * 1024
"""The largest secret file read: a key with its certificate chain fits many times."""

SHORTEST_TOKEN = 16
"""Characters: fewer can be guessed. ``openssl rand -hex 32`` makes a good one."""

HIDDEN = "***"

_SECRETS = frozenset({("authentication", "introspection", "client_secret")})
"""Places of secrets outside of namespaces."""

_PLACEHOLDER = re.compile(r"\{\{\s*secret:([A-Za-z0-9][A-Za-z0-9._-]{0,254})\s*\}\}")
_SECRET_BRACES = re.compile(r"\{\{\s*secret\s*:")
_SECRET_KEY = re.compile(
    r"passw(or)?d|passphrase|(^|(?<!without)[_.-])(pwd|secret|token|credentials?)$"
    r"|(api|access|private|secret)[_-]?key$",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}://[^:@/\s]*:)([^\s/]+)(?=@)")
_PAIR_PASSWORD = re.compile(r"\b((?:password|passwd|pwd)=)([^\s&;]+)", re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Credentials:
    """A namespace's credentials, resolved when called; two with the same texts are equal.

    Its repr hides the texts: one that is no reference may be a secret itself.
    """

    texts: Mapping[str, str] = field(repr=False)
    directory: FilePath
    _warned_of: set[FilePath] = field(default_factory=set, init=False, repr=False, compare=False)

    def __call__(self) -> dict[str, str]:
        """The credentials with their secrets, as they are now. Raises ConfigError."""
        return resolve_credentials(self.texts, self.directory, self._warn_once)

    def _warn_once(self, file: FilePath) -> None:
        """A plugin that does not start reads them again and again."""
        if file not in self._warned_of:
            self._warned_of.add(file)
            _log_exposed(file)


def exposed(file: FilePath) -> str:
    """What to say of a secret's ``file`` that any user may read."""
    return f"any user may read the secret file {file}; chmod it to 0600"


def _log_exposed(file: FilePath) -> None:
    _log.warning("%s", exposed(file))


def resolve_credentials(
    credentials: Mapping[str, str],
    secrets_directory: str | FilePath,
    on_exposed: Callable[[FilePath], object] = _log_exposed,
) -> dict[str, str]:
    """``credentials`` with every ``{{ secret:name }}`` replaced by the secret.

    Reads ``secrets_directory/name`` now, so that a rotated secret is seen by the
    next instance. Newlines at its end are dropped. Blocks for as long as the
    files take to read. ``on_exposed`` is told of a file that any user may read: by default,
    the log is.

    Raises:
        ConfigError: secrets that cannot be read, all of them; it names secrets
            and files, never values.
    """
    problems: list[ConfigProblem] = []
    resolved: dict[str, str] = {}
    directory = FilePath(secrets_directory)
    for key, value in credentials.items():
        parts = _PLACEHOLDER.split(value)  # text, name, text, name, …, text
        for index in range(1, len(parts), 2):
            name = parts[index]
            try:
                parts[index] = read_secret(directory / name, on_exposed=on_exposed)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                message = f'the secret "{name}" cannot be read: {reason}'
                file = str(directory / name)
                problems.append(ConfigProblem(file, 0, 0, f"credentials.{key}", message))
        resolved[key] = "".join(parts)
    if problems:
        raise ConfigError(problems)
    return resolved


def read_secret(
    file: FilePath,
    *,
    private: bool = False,
    on_exposed: Callable[[FilePath], object] = _log_exposed,
) -> str:
    """What is in a secret's file, without newlines at its end.

    ``on_exposed`` is told of a file that any user may read; a ``private`` one is refused, as is
    one that somebody else could have written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no file for a secret; says why.
    """
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if private:
            _check_private(status)
        elif status.st_mode & stat.S_IROTH:
            on_exposed(file)
        content = opened.read(MAX_SECRET_BYTES + 1)
    if len(content) > MAX_SECRET_BYTES:
        raise ValueError(f"it is larger than {MAX_SECRET_BYTES} bytes")
    try:
        secret = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if not secret:
        raise ValueError("it is empty")
    return secret


def read_token(file: FilePath) -> str:
    """An operator's token, one line of ASCII.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no token, or somebody else's to read; says why.
    """
    token = read_secret(file, private=True)
    if len(token) < SHORTEST_TOKEN:
        raise ValueError(f"it is shorter than {SHORTEST_TOKEN} characters")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("it is not one line of ASCII without spaces")
    return token


def _check_private(status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise ValueError(
            f"it belongs to uid {status.st_uid}; it must be root's, or the proxy's "
            f"(uid {os.geteuid()})"
        )
    if status.st_mode & (stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
        may = "read" if status.st_mode & stat.S_IROTH else "change"
        raise ValueError(
            f"other users may {may} it (mode {stat.S_IMODE(status.st_mode):04o}); chmod it to 0600"
        )


def check_secrets(at: Place) -> None:
    """Report placeholders in wrong places, and warn of passwords written in the file."""
    for place, is_key in _texts(at):
        text, path = str(place.node.value), place.path
        block = path[2] if len(path) > 3 and path[0] == "namespaces" else ""
        if (block == "credentials" or path in _SECRETS) and not is_key:
            _check_credential(place, text)
        elif _SECRET_BRACES.search(text):
            place.error(
                "{{ secret:… }} is replaced in the values of `credentials` only, and in "
                "`authentication.introspection.client_secret`"
            )
        elif not is_key and is_secret(path[-1] if path else "", text):
            place.warning(
                "this looks like a password in the configuration file; move it to `credentials` "
                'as "{{ secret:name }}"'
            )


def _texts(at: Place) -> Iterator[tuple[Place, bool]]:
    """The places of all texts at and below ``at``, and whether each is a key."""
    if isinstance(at.node.value, dict):
        for name, entry in at.node.value.items():
            yield Place(at.report, entry.key, (*at.path, name)), True
    elif isinstance(at.node.value, str):
        yield at, False
    for below in at.below():
        yield from _texts(below)


def _check_credential(at: Place, text: str) -> None:
    rest = _PLACEHOLDER.sub("", text)
    if "{{" in rest:
        at.error(
            'a placeholder must read "{{ secret:name }}", the name of letters, digits, ".", "_" '
            'and "-"; other {{ }} are not known'
        )
    elif rest == text and is_secret(at.path[-1], text):
        at.warning('the secret itself is in the configuration file; better "{{ secret:name }}"')


def is_secret(key: str | int, text: str) -> bool:
    """Whether a text under this key looks like, or contains, a password."""
    if not text:
        return False
    named = isinstance(key, str) and _SECRET_KEY.search(key) is not None
    return named or mask(text) != text


def mask(text: str) -> str:
    """``text`` with the passwords in URLs and ``password=…`` pairs hidden."""
    text = _URL_PASSWORD.sub(rf"\1{HIDDEN}", text)
    return _PAIR_PASSWORD.sub(rf"\1{HIDDEN}", text)


def redacted(config: Config) -> dict[str, Any]:
    """``config`` as plain data fit to be shown: secrets as ``***``, placeholders as they are.

    It is a configuration again: what is not set is left out, defaults are there.
    """
    shown: dict[str, Any] = redact(as_written(config))
    return shown


def is_reference(text: Any) -> bool:
    """Whether ``text`` is a placeholder, and nothing else."""
    return isinstance(text, str) and _PLACEHOLDER.fullmatch(text) is not None


def as_written(value: Any) -> Any:
    """``value`` as a file could have it: no keys without a value, and of those that belong to some
    types of plugins, or to other keys, only what differs from the defaults."""
    if isinstance(value, list | tuple):
        return [as_written(item) for item in value]
    if isinstance(value, Mapping):
        return {name: as_written(item) for name, item in value.items()}
    if not isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    found = {}
    for name, described in fields_of(type(value)).items():
        item = getattr(value, name)
        depends = meta_of(described.type, "types") or meta_of(described.type, "needs")
        if item is not None and not (depends and item in (described.default, {})):
            found[name] = as_written(item)
    return found


def redact(value: Any, key: str | int = "") -> Any:
    """Plain data of a configuration, at and below ``key``, with its secrets as ``***``."""
    if key == "credentials" and isinstance(value, dict):
        return {name: text if is_reference(text) else HIDDEN for name, text in value.items()}
    if isinstance(value, dict):
        return {name: redact(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [redact(item, key) for item in value]
    named = isinstance(key, str) and _SECRET_KEY.search(key)
    if named and value not in (None, "") and not isinstance(value, bool):
        return HIDDEN
    return mask(value) if isinstance(value, str) else value
