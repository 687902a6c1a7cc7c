"""What is known of a plugin's content: pinned, signed, neither, or refused."""

import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime

from prism.config.fields import public_bytes
from prism.config.types import PluginConfig, TrustedKey, VerificationConfig
from prism.verification import signature
from prism.verification.content import Content
from prism.verification.refusals import Check, PluginRefused
from prism.verification.signature import Statement, key_id

log = logging.getLogger("prism.verification")

SHOWN = 3
"""Names of files that differ, in a message."""


@dataclass(frozen=True)
class Verdict:
    """How far a content can be trusted. ``signer`` is the name of the key, if it is signed."""

    content: Content
    pinned: bool
    signer: str | None
    key: str | None

    @property
    def vouched(self) -> bool:
        """Is this very content the one that was meant?"""
        return self.pinned or self.signer is not None

    def __str__(self) -> str:
        by = f"signed by {self.signer} (key {self.key})" if self.signer else "not signed"
        pinned = ", pinned" if self.pinned else ""
        return f"{self.content.path}: {by}{pinned}, {self.content.digest}"


def log_verdict(plugin: str, verdict: Verdict | None, config: VerificationConfig) -> None:
    """Say what is about to run; louder where keys are trusted and none of them signed it."""
    if verdict is not None:
        unsigned = config.trusted_keys and verdict.signer is None
        level = logging.WARNING if unsigned else logging.INFO
        log.log(level, "%s may run: %s", plugin, verdict)


def today() -> date:
    """The day, in UTC, that keys expire by."""
    return datetime.now(UTC).date()


class Judge:
    """Judges contents by the configuration's pins, keys and policy. ``label`` names the plugin."""

    def __init__(self, config: VerificationConfig, label: str, on_day: Callable[[], date]) -> None:
        self._label = label
        self._on_day = on_day
        self._policy = config.policy
        self._keys = {key_id(public_bytes(key.key)): key for key in config.trusted_keys}
        self._revoked = frozenset(config.revoked)

    def _refusal(self, check: Check, place: str, found: str, **facts: object) -> PluginRefused:
        return PluginRefused(check, self._label, place, found, **facts)

    def judge(self, content: Content, plugin: PluginConfig) -> Verdict:
        """The verdict on a content that may run. Blocks while it reads the signature.

        Raises:
            PluginRefused: it may not.
        """
        digest = content.digest.hexdigest
        if digest in self._revoked:
            found = f"its digest {digest} is in verification.revoked"
            raise self._refusal(Check.DIGEST_REVOKED, content.path, found)
        if plugin.sha256 is not None and plugin.sha256 != digest:
            found = f"its digest is {digest}"
            raise self._refusal(Check.PIN, content.path, found, digest=plugin.sha256)
        key = self._check_signature(content, plugin)
        return Verdict(
            content,
            pinned=plugin.sha256 is not None,
            signer=key.name if key else None,
            key=key_id(public_bytes(key.key)) if key else None,
        )

    def _check_signature(self, content: Content, plugin: PluginConfig) -> TrustedKey | None:
        """The key that signed the content; None where none did and none has to."""
        required = (plugin.signature_policy or self._policy) == "require"
        if not self._keys and not required and plugin.signature is None:
            return None
        place = plugin.signature or content.path + signature.SUFFIX
        written = self._read(place)
        if written is None:
            if required or plugin.signature is not None:
                found = "there is no signature"
                raise self._refusal(Check.SIGNED, place, found, content=content.path)
            return None
        try:
            statement, signed = signature.parse(written)
        except signature.NotASignature as error:
            raise self._refusal(Check.SIGNATURE_FORM, place, str(error)) from None
        key = self._trusted(statement.key, place)
        self._check_made_by(key, statement, signed, place)
        self._check_same(statement, content, place)
        self._check_meant(statement, plugin, place)
        return key

    def _read(self, place: str) -> bytes | None:
        """A signature file; None if there is none. Who wrote it does not matter: it is signed."""
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    with os.fdopen(descriptor, "rb", closefd=False) as file:
                        return file.read(signature.MAX_BYTES + 1)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            found = f"it cannot be read: {error.strerror}"
            raise self._refusal(Check.SIGNATURE_FILE, place, found) from None
        raise self._refusal(Check.SIGNATURE_FILE, place, "it is not a regular file")

    def _trusted(self, named: str, place: str) -> TrustedKey:
        """The trusted key with the id ``named``."""
        if named in self._revoked:
            found = f"it is by key {named}, which is in verification.revoked"
            raise self._refusal(Check.KEY_REVOKED, place, found)
        key = self._keys.get(named)
        if key is None:
            known = ", ".join(f"{each.name} ({i})" for i, each in self._keys.items())
            found = f"it is by key {named}"
            raise self._refusal(Check.KEY_KNOWN, place, found, keys=known or "there are none")
        day = self._on_day()
        if key.expires is not None and day > date.fromisoformat(key.expires):
            found = f"it is by key {key.name} ({named}), whose last day was {key.expires}"
            raise self._refusal(Check.KEY_EXPIRED, place, found, day=day)
        return key

    def _check_made_by(
        self, key: TrustedKey, statement: Statement, signed: bytes, place: str
    ) -> None:
        good = signature.is_signed_by(public_bytes(key.key), signed, statement.payload())
        if not good:
            found = f"it was not made by key {key.name} ({statement.key}), or was changed since"
            raise self._refusal(Check.SIGNATURE, place, found)

    def _check_same(self, statement: Statement, content: Content, place: str) -> None:
        if statement.digest != content.digest:
            found = f"its digest is {content.digest}{_difference(statement, content)}"
            raise self._refusal(
                Check.SIGNED_DIGEST, content.path, found, digest=statement.digest, signature=place
            )

    def _check_meant(self, statement: Statement, plugin: PluginConfig, place: str) -> None:
        """What the catalogue calls it, the signature must call it: or one plugin's
        file could take another's place, and an old version that of a new one."""
        if plugin.name is not None and statement.name != plugin.name:
            found = f"it is for {_called('plugin', statement.name)}"
            raise self._refusal(Check.SIGNED_NAME, place, found, name=plugin.name)
        if plugin.version is not None and statement.version != plugin.version:
            found = f"it is for {_called('version', statement.version)}"
            raise self._refusal(Check.SIGNED_VERSION, place, found, version=plugin.version)


def _called(what: str, name: str | None) -> str:
    return f"no {what} by name" if name is None else f"{what} {name}"


def _difference(statement: Statement, content: Content) -> str:
    """Which files of a package are not as they were signed."""
    names = [
        f"{name} ({'added' if name not in statement.files else how})"
        for name in sorted(statement.files.keys() | content.files.keys())
        if statement.files.get(name) != content.files.get(name)
        for how in ["changed" if name in content.files else "missing"]
    ]
    if not names:
        return ""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f" (not as signed: {', '.join(names[:SHOWN])}{rest})"
