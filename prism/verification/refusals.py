"""Why a plugin is refused: one exception, and a table of what each check expects.

A refusal has a stable word, which programs, logs and docs/plugin-verification.md know it
by. Several checks can share a word; each says for itself what it expects and what to do.
"""

from enum import Enum

from prism.streams.errors import LaunchError


class Check(Enum):
    """A check that a plugin can fail: ``reason``, what is ``expected``, and the ``way_out``.

    What stands in braces is a fact of the refusal; ``{place}`` is one of each.
    """

    def __init__(self, reason: str, expected: str, way_out: str) -> None:
        self.reason = reason
        self.expected = expected
        self.way_out = way_out

    # the file itself
    FILE_EXISTS = "file_missing", "a file", "install it, or correct the path"
    PROGRAM_EXISTS = (
        "file_missing",
        "a path, or the name of a program in PATH",
        "install it, or correct the path",
    )
    READABLE = (
        "unreadable",
        "a file that uid {uid} may read, on a disk that works",
        "change its permissions, or look at the disk",
    )
    REGULAR = "not_regular", "a regular file", "name the file itself"
    EXECUTABLE = "not_executable", "execute permission", "chmod +x {place}"
    FILE_SIZE = "too_large", "at most {limit} bytes", "make it smaller"
    PACKAGE_SIZE = "too_large", "at most {limit}", "keep data out of it"
    COPY = (
        "copy_failed",
        "memory for it, and a system that runs files there (sysctl vm.memfd_noexec below 2)",
        "make room, or change the setting",
    )
    LINKS_END = (
        "symlink",
        "at most {links} of them, and {steps} names",
        "name the file itself",
    )
    NO_LINK = (
        "symlink",
        "regular files and directories only",
        "put a copy of the file there",
    )

    # who can have written it
    OWNER = (
        "wrong_owner",
        "one of {owners}",
        "chown it, or add the owner to verification.trusted_owners",
    )
    GROUP_PERMISSION = (
        "group_writable",
        "a group without other members, or no write permission for it",
        "chmod g-w {place}",
    )
    WORLD_PERMISSION = "world_writable", "no write permission for others", "chmod o-w {place}"

    # which file is the plugin
    ENTRY = (
        "entry_unknown",
        "a program, or an interpreter and its script",
        "name the word in `entry`",
    )
    PACKAGE_EXISTS = (
        "module_unverifiable",
        "one directory, or one .py file",
        "correct `module` or `path`",
    )
    PLAIN_NAME = "module_unverifiable", "a plain name", "rename or remove it"
    OWN_NAME = (
        "module_unverifiable",
        "a name that nothing else in the proxy has",
        "rename the package; if the proxy imported this one before it had a pin or a signature, "
        "restart the proxy",
    )

    # which content it is
    PIN = (
        "digest_mismatch",
        "{digest}, by the configuration",
        "install what was meant, or correct `sha256`",
    )
    SIGNED_DIGEST = (
        "digest_mismatch",
        "{digest}, by {signature}",
        "install what was signed; ask who changed it",
    )
    DIGEST_REVOKED = (
        "digest_revoked",
        "a content that is not revoked",
        "install another version",
    )

    # who vouches for it
    SIGNED = (
        "signature_missing",
        "one of {content}",
        "sign it with `prism plugin sign`; if the plugin is another word of its command, name "
        "that in `entry`",
    )
    SIGNATURE_FILE = (
        "signature_malformed",
        "a signature file",
        "replace it, or sign the plugin again",
    )
    SIGNATURE_FORM = (
        "signature_malformed",
        "a file that `prism plugin sign` wrote",
        "copy it again, or sign the plugin again",
    )
    SIGNATURE = (
        "signature_invalid",
        "a signature that this key made",
        "copy it again, or sign the plugin again; ask who changed it",
    )
    KEY_KNOWN = (
        "key_unknown",
        "one of the trusted keys: {keys}",
        "sign the plugin with one of them, or add the key to verification.trusted_keys",
    )
    KEY_REVOKED = (
        "key_revoked",
        "a key that is not revoked",
        "sign the plugin with another key",
    )
    KEY_EXPIRED = (
        "key_expired",
        "a key that is valid on {day}",
        "sign the plugin with a newer key, or move `expires`",
    )
    SIGNED_NAME = (
        "name_mismatch",
        "plugin {name}",
        "install the right file, or sign it with --name",
    )
    SIGNED_VERSION = (
        "version_mismatch",
        "version {version}",
        "install the right file, or sign it with --version",
    )


class PluginRefused(LaunchError):
    """A plugin whose code must not run: which check failed, and how to pass it.

    ``plugin`` names it, ``place`` is the file or directory at fault, ``found`` what is wrong
    there; ``facts`` fill in the check's sentences.
    """

    def __init__(self, check: Check, plugin: str, place: str, found: str, **facts: object) -> None:
        self.check = check
        self.reason = check.reason
        self.plugin = plugin
        self.place = place
        self.found = found
        self.expected = check.expected.format(place=place, **facts)
        self.way_out = check.way_out.format(place=place, **facts)
        super().__init__(plugin, place, found)

    def __str__(self) -> str:
        return (
            f"{self.plugin} was refused ({self.reason}): {self.place}: {self.found}; "
            f"expected {self.expected}; {self.way_out}"
        )
