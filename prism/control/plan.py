"""What a change of the configuration would do, and how one went; frozen values for operators."""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from prism.config.types import Config
from prism.supervision.apply import Action
from prism.supervision.status import Receipt

AT_ONCE = ("handover_timeout_seconds", "log.level", "plugins", "secrets", "verification")
"""Settings of the whole process that a running one takes over: these, and all below them."""


class NamespaceChange(msgspec.Struct, frozen=True):
    """What becomes of one namespace.

    ``update``: its limits or texts change, its plugin goes on. ``restart``: its plugin may
    not run twice, so that calls wait. ``note`` says where it runs what the file does not say.
    """

    namespace: str
    action: Action | Literal["update"]
    note: str = ""


class SettingChange(msgspec.Struct, frozen=True):
    """A setting of the whole process that differs: ``setting`` is its path in the file."""

    setting: str
    takes_effect: Literal["now", "at restart"]


class ConfigPlan(msgspec.Struct, frozen=True):
    """What applying the file, as it is now, would do."""

    file: str
    changes: list[NamespaceChange]
    settings: list[SettingChange]
    warnings: list[str]


class ConfigOutcome(msgspec.Struct, frozen=True):
    """How an application went: all of it took effect, or, with ``failures``, nothing did.

    ``failures`` maps a namespace to the reason. ``receipts`` are of the plugins replaced: one
    that may not run twice, and did not come up, is ``rolled_back`` there. ``generation`` is
    the number of the configuration in use; the first is 1.
    """

    file: str
    applied: bool
    generation: int
    changes: list[NamespaceChange]
    settings: list[SettingChange]
    warnings: list[str]
    failures: dict[str, str]
    receipts: list[Receipt]


def setting_changes(before: Config, after: Config) -> Iterator[SettingChange]:
    """Every setting outside the namespaces that differs."""
    for name in Config.__struct_fields__:
        if name != "namespaces":
            for path in _differing(getattr(before, name), getattr(after, name), name):
                at_once = any(path == one or path.startswith(f"{one}.") for one in AT_ONCE)
                yield SettingChange(path, "now" if at_once else "at restart")


def _differing(before: Any, after: Any, path: str) -> Iterator[str]:
    """The paths, below ``path``, of the keys that differ."""
    if before == after:
        return
    if type(before) is not type(after) or not isinstance(before, msgspec.Struct):
        yield path
        return
    for name in before.__struct_fields__:
        yield from _differing(getattr(before, name), getattr(after, name), f"{path}.{name}")
