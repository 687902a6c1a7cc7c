"""What is wrong with a plugin's ``config:`` and ``credentials:`` beyond its types.

The type of a plugin's configuration, a msgspec Struct, may say four things more, which are asked
where a file is checked and again where the plugin starts:

- ``credential_names``: a class variable, the tuple of all names that ``credentials:`` may have;
- ``one_process``: a class variable, why several processes of the plugin should not serve a
  namespace; without it they may;
- ``problems(self, credentials)``: yields a ``SettingsProblem`` for all that does not fit together,
  without looking at files or servers;
- ``store(self, namespace, credentials)``: the ``Store`` in which the data of the namespace are, or
  None where no other namespace can have them. It is asked where a file is right.

Where a file is checked, a key whose value does not fit its type is None in ``self``: that was
told, and what stands beside it is still judged. Credentials are as written, with placeholders.
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple


class SettingsProblem(NamedTuple):
    """One thing that is wrong: ``path`` as in ``("config", "brokers", 0)``, and what."""

    path: tuple[str | int, ...]
    message: str

    def __str__(self) -> str:
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return f"{''.join(steps).removeprefix('.')}: {self.message}"


class Store(NamedTuple):
    """Where the data of a namespace are: on one of ``servers``, in what begins with ``part``.

    ``what``: the place in words, as in "the file a.db". ``apart``: what to do to have another.
    """

    servers: frozenset[str]
    part: str
    what: str
    apart: str

    def overlaps(self, other: "Store") -> bool:
        """Whether some of the data are in both."""
        nested = self.part.startswith(other.part) or other.part.startswith(self.part)
        return nested and not self.servers.isdisjoint(other.servers)


def settings_problems(
    kind: type, config: Any, credentials: Mapping[str, str]
) -> Iterator[SettingsProblem]:
    """All that is wrong with ``config``, an instance of ``kind``, and with ``credentials``."""
    names = getattr(kind, "credential_names", None)
    if isinstance(names, tuple):
        for name in credentials:
            if name not in names:
                yield SettingsProblem(("credentials", name), _unknown(name, names))
    if callable(getattr(kind, "problems", None)):
        yield from config.problems(credentials)


def _unknown(name: str, names: tuple[str, ...]) -> str:
    if not names:
        return "unknown credential; this plugin takes none"
    return f"unknown credential{did_you_mean(name, names)} (accepted: {', '.join(names)})"


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``; did you mean "x"?`` where ``word`` is probably a misspelling of a choice, else empty."""
    close = suggest(word, choices)
    return f'; did you mean "{close}"?' if close else ""


def suggest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that ``word`` is probably a misspelling of."""
    written, known = word[:64].lower().replace("-", "_"), list(choices)
    matches = get_close_matches(written, known, 1, 0.7)
    # "timeout" for "timeout_seconds", "pass" for "password": no misspellings, and yet what is meant
    matches += [choice for choice in known if choice.startswith(f"{written}_")]
    if len(written) >= 4:
        matches += [choice for choice in known if choice.startswith(written)]
    return matches[0] if matches else None
