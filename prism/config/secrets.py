"""Secrets in a configuration: where they may be named, and how they stay hidden.

Nothing is read here: that is done by ``prism.secrets``, when a plugin starts.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from prism.config.document import Place
from prism.config.typecheck import fields_of, meta_of
from prism.config.types import Config, NamespaceConfig
from prism.contract.names import SECRET

HIDDEN = "***"

_SECRETS = frozenset(
    {
        ("authentication", "introspection", "client_secret"),
        ("limits_store", "password"),
        ("secrets", "vault", "token"),
        ("secrets", "vault", "secret_id"),
    }
)
"""Places of secrets outside of namespaces."""

_PLACEHOLDER = re.compile(rf"\{{\{{\s*secret:({SECRET})\s*\}}\}}")
_SECRET_BRACES = re.compile(r"\{\{\s*secret\s*:")
_SECRET_KEY = re.compile(
    r"passw(or)?d|passphrase|(^|(?<!without)[_.-])(pwd|secret|token|credentials?)$"
    r"|(api|access|private|secret)[_-]?key$|secret[_-]?id$",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::?[-?+=][^}]*)?\}")
_URL_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}://[^:@/\s]*:)([^\s/]+)(?=@)")
_PAIR_PASSWORD = re.compile(r"\b((?:password|passwd|pwd)=)([^\s&;]+)", re.IGNORECASE)


def placeholders(text: str) -> list[str]:
    """The names of the secrets that ``text`` refers to, in its order."""
    return _PLACEHOLDER.findall(text)


def fill(text: str, values: Mapping[str, str]) -> str:
    """``text`` with each placeholder replaced by the secret of that name in ``values``."""
    parts = _PLACEHOLDER.split(text)  # text, name, text, name, …, text
    parts[1::2] = [values[name] for name in parts[1::2]]
    return "".join(parts)


def check_secrets(at: Place) -> None:
    """Report placeholders in wrong places, and warn of passwords written in the file."""
    for place, is_key in _texts(at):
        text, path = str(place.node.value), place.path
        block = _block_of(path)
        if (block == "credentials" or path in _SECRETS) and not is_key:
            _check_credential(place, text)
        elif _SECRET_BRACES.search(text):
            if not is_key and _is_below_unknown(path):
                continue  # which has been told; where it is meant to be, this may be right
            place.error(
                "{{ secret:… }} is replaced in the values of `credentials` only, and in "
                "`authentication.introspection.client_secret`, `limits_store.password`, and "
                "`token` and `secret_id` of `secrets.vault`"
            )
        elif not is_key and is_secret(path[-1] if path else "", text):
            place.warning(
                "this looks like a password in the configuration file; move it to `credentials` "
                'as "{{ secret:name }}"'
            )


def _block_of(path: tuple[str | int, ...]) -> str | int:
    """The block of a namespace, or of its shadow, that ``path`` is in; else empty."""
    if path[:1] != ("namespaces",):
        return ""
    below = path[3:] if path[2:3] == ("shadow",) else path[2:]
    return below[0] if len(below) > 1 else ""


def _texts(at: Place) -> Iterator[tuple[Place, bool]]:
    """The places of all texts at and below ``at``, and whether each is a key."""
    if isinstance(at.node.value, dict):
        for name, entry in at.node.value.items():
            yield Place(at.report, entry.key, (*at.path, name)), True
    elif isinstance(at.node.value, str):
        yield at, False
    for below in at.below():
        yield from _texts(below)


def _is_below_unknown(path: tuple[str | int, ...]) -> bool:
    """Whether a key of the file, or of a namespace, stands above that there is not."""
    if path[0] != "namespaces" or len(path) < 3:
        return path[0] not in fields_of(Config)
    return path[2] not in fields_of(NamespaceConfig)


def _check_credential(at: Place, text: str) -> None:
    rest = _PLACEHOLDER.sub("", text)
    if "{{" in rest:
        at.error(
            'a placeholder must read "{{ secret:name }}", the name of letters, digits, ".", "_" '
            'and "-"; other {{ }} are not known'
        )
    elif rest == text and (variable := _VARIABLE.fullmatch(text)):
        name = variable[1]
        at.warning(
            f"${{{name}}} is not expanded, so the plugin gets these characters themselves; write "
            f'"{{{{ secret:{name} }}}}", with {name} in secrets.environment'
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
    named = isinstance(key, str) and _SECRET_KEY.search(key) and not is_reference(value)
    if named and value not in (None, "") and not isinstance(value, bool):
        return HIDDEN
    return mask(value) if isinstance(value, str) else value
