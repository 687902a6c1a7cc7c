"""Why a plugin is refused: one class for each reason, none of which lets any code run.

The word in ``reason`` is what programs, logs and the documentation know it by.
"""

from prism.streams.errors import LaunchError


class PluginRefused(LaunchError):
    """A plugin whose code must not run: which check failed, and how to pass it.

    ``reason`` is a stable word for programs; docs/plugin-verification.md lists
    them, and ``prism.verification.refusals`` has a class for each.
    ``place`` is the file or directory at fault.
    """

    reason: str = "refused"

    def __init__(self, plugin: str, place: str, found: str, expected: str, way_out: str) -> None:
        super().__init__(plugin, place, found, expected, way_out)
        self.plugin = plugin
        self.place = place
        self.found = found
        self.expected = expected
        self.way_out = way_out

    def __str__(self) -> str:
        return (
            f"{self.plugin} was refused ({self.reason}): {self.place}: {self.found}; "
            f"expected {self.expected}; {self.way_out}"
        )


class FileMissing(PluginRefused):
    """There is no such file or directory."""

    reason = "file_missing"


class Unreadable(PluginRefused):
    """The proxy may not, or cannot, read it."""

    reason = "unreadable"


class NotRegular(PluginRefused):
    """It is a device, a pipe, a socket, or a directory where a file belongs."""

    reason = "not_regular"


class NotExecutable(PluginRefused):
    """The program has no execute permission."""

    reason = "not_executable"


class CopyFailed(PluginRefused):
    """It must run from a copy in memory, and the system does not make one."""

    reason = "copy_failed"


class TooLarge(PluginRefused):
    """It is over a limit."""

    reason = "too_large"


class WrongOwner(PluginRefused):
    """It belongs to a user who is not trusted to own plugins."""

    reason = "wrong_owner"


class GroupWritable(PluginRefused):
    """A group can write it that has members who are not trusted to own plugins."""

    reason = "group_writable"


class WorldWritable(PluginRefused):
    """Any user can write it."""

    reason = "world_writable"


class SymbolicLink(PluginRefused):
    """A link where none is followed: in a package, or one of a chain without an end."""

    reason = "symlink"


class EntryUnknown(PluginRefused):
    """It cannot be told which file of a command is the plugin."""

    reason = "entry_unknown"


class ModuleUnverifiable(PluginRefused):
    """A Python module that cannot be checked, or not be imported as it was checked."""

    reason = "module_unverifiable"


class DigestMismatch(PluginRefused):
    """The content is not the one that was pinned or signed."""

    reason = "digest_mismatch"


class DigestRevoked(PluginRefused):
    """This very content is on the list of what must not run."""

    reason = "digest_revoked"


class SignatureMissing(PluginRefused):
    """The policy wants a signature, and there is none."""

    reason = "signature_missing"


class SignatureMalformed(PluginRefused):
    """The signature file is not one."""

    reason = "signature_malformed"


class SignatureInvalid(PluginRefused):
    """The signature was not made by the key it names, or not for this statement."""

    reason = "signature_invalid"


class KeyUnknown(PluginRefused):
    """The signature is by a key that is not trusted."""

    reason = "key_unknown"


class KeyRevoked(PluginRefused):
    """The signature is by a key that is on the list of those that must not count."""

    reason = "key_revoked"


class KeyExpired(PluginRefused):
    """The signature is by a key whose last day has passed."""

    reason = "key_expired"


class NameMismatch(PluginRefused):
    """The signature is for a plugin of another name."""

    reason = "name_mismatch"


class VersionMismatch(PluginRefused):
    """The signature is for another version."""

    reason = "version_mismatch"


class SignaturesUnavailable(PluginRefused):
    """The library that checks signatures is not installed."""

    reason = "signatures_unavailable"
