"""What is known of a plugin's content: pinned, signed, neither, or refused."""

import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime

from prism.config.types import PluginConfig, TrustedKey, VerificationConfig
from prism.config.verification import public_bytes
from prism.verification import keys, signature
from prism.verification.content import Content
from prism.verification.refusals import (
    DigestMismatch,
    DigestRevoked,
    KeyExpired,
    KeyRevoked,
    KeyUnknown,
    NameMismatch,
    SignatureInvalid,
    SignatureMalformed,
    SignatureMissing,
    SignaturesUnavailable,
    VersionMismatch,
)
from prism.verification.signature import Statement

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
    """Judges contents by the configuration's pins, keys and policy."""

    def __init__(self, config: VerificationConfig, plugin: str, on_day: Callable[[], date]) -> None:
        self._plugin = plugin
        self._on_day = on_day
        self._policy = config.policy
        self._keys = {keys.key_id(public_bytes(k.key)): k for k in config.trusted_keys}
        self._revoked = frozenset(config.revoked)

    def judge(self, content: Content, plugin: PluginConfig) -> Verdict:
        """The verdict on a content that may run. Blocks while it reads the signature.

        Raises:
            PluginRefused: it may not.
        """
        digest = content.digest.hexdigest
        if digest in self._revoked:
            raise DigestRevoked(
                self._plugin,
                content.path,
                f"its digest {digest} is in verification.revoked",
                "a content that is not revoked",
                "install another version",
            )
        if plugin.sha256 is not None and plugin.sha256 != digest:
            raise DigestMismatch(
                self._plugin,
                content.path,
                f"its digest is {digest}",
                f"{plugin.sha256}, by the configuration",
                "install what was meant, or correct `sha256`",
            )
        key = self._check_signature(content, plugin)
        return Verdict(
            content,
            pinned=plugin.sha256 is not None,
            signer=key.name if key else None,
            key=keys.key_id(public_bytes(key.key)) if key else None,
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
                raise SignatureMissing(
                    self._plugin,
                    place,
                    "there is no signature",
                    f"one of {content.path}",
                    "sign it with `prism plugin sign`; if the plugin is another word of its "
                    "command, name that in `entry`",
                )
            return None
        try:
            statement, signed = signature.parse(written)
        except signature.NotASignature as error:
            raise SignatureMalformed(
                self._plugin,
                place,
                str(error),
                "a file that `prism plugin sign` wrote",
                "copy it again, or sign the plugin again",
            ) from None
        key = self._trusted(statement.key, place)
        self._check_made_by(key, statement, signed, place)
        self._check_same(statement, content, place)
        self._check_meant(statement, plugin, place)
        return key

    def _read(self, place: str) -> bytes | None:
        """A signature file; None if there is none. Who wrote it does not matter: it is signed."""
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._malformed(place, f"it cannot be read: {error.strerror}") from None
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise self._malformed(place, "it is not a regular file")
            try:
                return file.read(signature.MAX_BYTES + 1)
            except OSError as error:
                raise self._malformed(place, f"it cannot be read: {error.strerror}") from None

    def _malformed(self, place: str, found: str) -> SignatureMalformed:
        return SignatureMalformed(
            self._plugin, place, found, "a signature file", "replace it, or sign the plugin again"
        )

    def _trusted(self, key_id: str, place: str) -> TrustedKey:
        if key_id in self._revoked:
            raise KeyRevoked(
                self._plugin,
                place,
                f"it is by key {key_id}, which is in verification.revoked",
                "a key that is not revoked",
                "sign the plugin with another key",
            )
        key = self._keys.get(key_id)
        if key is None:
            known = ", ".join(f"{found.name} ({i})" for i, found in self._keys.items())
            raise KeyUnknown(
                self._plugin,
                place,
                f"it is by key {key_id}",
                f"one of the trusted keys: {known or 'there are none'}",
                "sign the plugin with one of them, or add the key to verification.trusted_keys",
            )
        day = self._on_day()
        if key.expires is not None and day > date.fromisoformat(key.expires):
            raise KeyExpired(
                self._plugin,
                place,
                f"it is by key {key.name} ({key_id}), whose last day was {key.expires}",
                f"a key that is valid on {day}",
                "sign the plugin with a newer key, or move `expires`",
            )
        return key

    def _check_made_by(
        self, key: TrustedKey, statement: Statement, signed: bytes, place: str
    ) -> None:
        try:
            good = keys.is_signed_by(public_bytes(key.key), signed, statement.payload())
        except keys.LibraryMissing:
            raise SignaturesUnavailable(
                self._plugin,
                place,
                "signatures cannot be checked here",
                "the cryptography library",
                f"install it: {keys.INSTALL}",
            ) from None
        if not good:
            raise SignatureInvalid(
                self._plugin,
                place,
                f"it was not made by key {key.name} ({statement.key}), or was changed since",
                "a signature that this key made",
                "copy it again, or sign the plugin again; ask who changed it",
            )

    def _check_same(self, statement: Statement, content: Content, place: str) -> None:
        if statement.digest != content.digest:
            raise DigestMismatch(
                self._plugin,
                content.path,
                f"its digest is {content.digest}{_difference(statement, content)}",
                f"{statement.digest}, by {place}",
                "install what was signed; ask who changed it",
            )

    def _check_meant(self, statement: Statement, plugin: PluginConfig, place: str) -> None:
        """What the catalogue calls it, the signature must call it: or one plugin's
        file could take another's place, and an old version that of a new one."""
        if plugin.name is not None and statement.name != plugin.name:
            raise NameMismatch(
                self._plugin,
                place,
                f"it is for {_called('plugin', statement.name)}",
                f"plugin {plugin.name}",
                "install the right file, or sign it with --name",
            )
        if plugin.version is not None and statement.version != plugin.version:
            raise VersionMismatch(
                self._plugin,
                place,
                f"it is for {_called('version', statement.version)}",
                f"version {plugin.version}",
                "install the right file, or sign it with --version",
            )


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
