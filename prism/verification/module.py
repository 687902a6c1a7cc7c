"""Where the package of a Python plugin lies, and how it is imported once it is verified."""

import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import prism
from prism.verification.importing import NameTaken, TreeFinder, import_module
from prism.verification.judge import Verdict
from prism.verification.refusals import ModuleUnverifiable
from prism.verification.tree import Tree

OWN = ("prism", "prism_plugins")
"""Packages that come with the proxy: whoever can change them can change these checks."""


@dataclass(frozen=True)
class VerifiedModule:
    """A Python module that may be imported: from ``tree``, if there is one.

    ``verdict`` is None for what comes with the proxy, and for what is not there.
    """

    name: str
    plugin: str
    tree: Tree | None = None
    verdict: Verdict | None = None

    def import_module(self) -> ModuleType:
        """Import it. What it raises itself passes through.

        Raises:
            ModuleUnverifiable: something else in the proxy has the package's name.
        """
        if self.tree is None:
            return importlib.import_module(self.name)
        try:
            return import_module(self.name, self.tree)
        except NameTaken as error:
            raise ModuleUnverifiable(
                self.plugin,
                self.tree.path,
                str(error),
                "a name that nothing else in the proxy has",
                "rename the package; if the proxy imported this one before it had a pin or a "
                "signature, restart the proxy",
            ) from None


def is_own(package: str) -> bool:
    """Does the package come with the proxy?"""
    if package not in OWN:
        return False
    home = Path(prism.__file__).parent.parent
    spec = _spec(package, None)
    places = (spec.submodule_search_locations if spec is not None else None) or []
    return any(Path(place) in (home / package, home / "plugins") for place in places)


def locate(package: str, directory: str | None) -> str | None:
    """The one directory, or the one file of source, that a package is; None if it is neither."""
    spec = _spec(package, directory)
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ())
    if len(places) == 1:
        return places[0]
    if not places and spec.has_location and (spec.origin or "").endswith(".py"):
        return spec.origin
    return None


def _spec(package: str, directory: str | None) -> ModuleSpec | None:
    """Python's own answer, which runs nothing of the package."""
    if directory is not None:
        PathFinder.invalidate_caches()  # it may have been installed just now
        return PathFinder.find_spec(package, [directory])
    finders: Iterable[object] = [f for f in sys.meta_path if not isinstance(f, TreeFinder)]
    for finder in finders:
        find = getattr(finder, "find_spec", None)
        found: ModuleSpec | None = find(package, None, None) if find is not None else None
        if found is not None:
            return found
    return None
