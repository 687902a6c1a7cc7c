"""Making signatures: on the machine that builds plugins, not on the one that runs them."""

import os
import re
from pathlib import Path

from prism.contract import names
from prism.contract.errors import PrismError
from prism.verification import signature
from prism.verification.keys import PrivateKey, key_id
from prism.verification.signature import Statement
from prism.verification.tree import content_of
from prism.verification.trust import Trust


class CannotSign(PrismError):
    """A signature cannot be made or written; says why."""


def check_words(name: str | None, version: str | None) -> None:
    """Raise CannotSign for what can be no plugin's name, or no version."""
    for word, pattern, what in ((name, names.PLUGIN, "name"), (version, names.VERSION, "version")):
        if word is not None and re.fullmatch(pattern, word) is None:
            raise CannotSign(f"{word!r} cannot be a plugin's {what} in a catalogue")


class _Anybody(Trust):
    """Trusts everybody: who builds a plugin knows whose files they are."""

    def check(self, status: os.stat_result, place: str, descriptor: int | None = None) -> None:
        """Passes."""


def sign(
    path: str, key: PrivateKey, name: str | None, version: str | None
) -> tuple[Statement, Path]:
    """Sign what is at ``path`` and write the signature beside it; returns both.

    Raises:
        PluginRefused: it is nothing that could be signed.
        CannotSign: the name or version can be none, or the signature cannot be written.
    """
    check_words(name, version)
    target = os.path.abspath(path)  # noqa: PTH100 - drops the slash at the end
    trust = _Anybody(f"the plugin {path}", frozenset())
    content = content_of(trust.open(target), trust)
    statement = Statement(content.digest, key_id(key.public), name, version, content.files)
    written = signature.render(statement, key.sign(statement.payload()))
    place = Path(target + signature.SUFFIX)
    unfinished = place.with_name(place.name + ".new")
    try:
        unfinished.write_bytes(written)
        unfinished.replace(place)
    except OSError as error:
        raise CannotSign(f"cannot write {place}: {error.strerror}") from None
    return statement, place
