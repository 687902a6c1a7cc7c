"""Python plugins: where their package lies, and how it is imported once it is verified.

A verified package's modules come from a :class:`Tree`, never from the disk, so what is
imported is what was hashed. A name below the package that the tree does not have does
not exist, wherever else Python might find one. Bytecode is neither read nor written.

A package that is imported again with other content is imported afresh: the old modules
leave ``sys.modules``, and go on working for the instance that holds them. With the same
content it is the same modules.
"""

import importlib
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import decode_source, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType

import prism
from prism.verification.content import Tree
from prism.verification.judge import Verdict
from prism.verification.refusals import Check, PluginRefused

OWN = ("prism", "prism_plugins")
"""Packages that come with the proxy: a change of them could be one of these checks."""

_changing: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
"""By package: each plugin is imported in a thread, and another may want the same package."""


@dataclass(frozen=True)
class VerifiedModule:
    """A Python module that may be imported: from ``tree``, if there is one.

    ``label`` names the plugin. ``verdict`` is None for what comes with the proxy, and for
    what is not there.
    """

    name: str
    label: str
    tree: Tree | None = None
    verdict: Verdict | None = None

    def import_module(self) -> ModuleType:
        """Import it; blocks. What it raises itself passes through; ``sys.modules`` is then as
        before.

        Raises:
            PluginRefused: something else in the proxy has the package's name.
        """
        package = self.name.partition(".")[0]
        with _changing[package]:
            if self.tree is None:
                return importlib.import_module(self.name)
            return self._import_from(self.tree, package)

    def _import_from(self, tree: Tree, package: str) -> ModuleType:
        finder = next(
            (f for f in sys.meta_path if isinstance(f, TreeFinder) and f.package == package), None
        )
        if package in sys.stdlib_module_names or (package in sys.modules and finder is None):
            found = f"the proxy has imported another {package!r}"
            raise PluginRefused(Check.OWN_NAME, self.label, tree.path, found)
        if finder is not None and finder.tree.content == tree.content:
            return importlib.import_module(self.name)
        new = TreeFinder(package, tree)
        sys.meta_path.insert(0, new)
        try:
            with anew(package):
                module = importlib.import_module(self.name)
        except BaseException:
            sys.meta_path.remove(new)
            raise
        if finder is not None:
            sys.meta_path.remove(finder)
        return module


@contextmanager
def anew(package: str) -> Iterator[None]:
    """Within it the package, and all below it, is not imported yet. Blocks while another thread
    imports the package.

    Its old modules go on working for those that hold them. Whatever is raised puts them back.
    """
    with _changing[package.partition(".")[0]]:
        before = _unload(package)
        try:
            yield
        except BaseException:
            _unload(package)
            sys.modules.update(before)
            raise


def _unload(package: str) -> dict[str, ModuleType]:
    modules = list(sys.modules)  # another thread may import something else
    names = [name for name in modules if name == package or name.startswith(f"{package}.")]
    return {name: sys.modules.pop(name) for name in names}


# -- where a package lies ----------------------------------------------------------------


def is_own(package: str) -> bool:
    """Does the package come with the proxy?"""
    if package not in OWN:
        return False
    home = Path(prism.__file__).resolve().parent.parent
    spec = _spec(package, None)
    places = (spec.submodule_search_locations if spec is not None else None) or []
    return any(Path(place).resolve() in (home / package, home / "plugins") for place in places)


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


# -- importing from a tree ---------------------------------------------------------------


class TreeFinder(MetaPathFinder):
    """Finds the modules of one package in its tree."""

    def __init__(self, package: str, tree: Tree) -> None:
        self.package = package
        self.tree = tree

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec; None for what does not belong to the package.

        Raises:
            ModuleNotFoundError: it belongs to the package, which does not have it.
        """
        if fullname.partition(".")[0] != self.package:
            return None
        found = self._file_of(fullname)
        if found is None:
            raise ModuleNotFoundError(
                f"the verified package {self.package!r} has no module {fullname!r}", name=fullname
            )
        return spec_from_loader(fullname, _TreeLoader(self.tree, found))

    def _file_of(self, fullname: str) -> str | None:
        """The name of the module's file in the tree."""
        below = "/".join(fullname.split(".")[1:])
        if not self.tree.is_package:
            return None if below else next(iter(self.tree.files))
        initial = f"{below}/__init__.py" if below else "__init__.py"
        return next((name for name in (initial, f"{below}.py") if name in self.tree.files), None)


class _TreeLoader(InspectLoader):
    """Makes a module from one file of a tree. ``get_data`` serves the package's other files."""

    def __init__(self, tree: Tree, file: str) -> None:
        self.tree = tree
        self.file = file

    def is_package(self, fullname: str) -> bool:
        """Is the file the ``__init__`` of a package?"""
        return self.tree.is_package and self.file.rpartition("/")[2] == "__init__.py"

    def get_filename(self, fullname: str) -> str:
        """The path that the source was read from, for tracebacks."""
        return f"{self.tree.path}/{self.file}" if self.tree.is_package else self.tree.path

    def get_source(self, fullname: str) -> str:
        """The verified source text."""
        return decode_source(self.tree.files[self.file])

    def get_code(self, fullname: str) -> CodeType:
        """The verified source, compiled."""
        source = self.tree.files[self.file]
        code: CodeType = compile(source, self.get_filename(fullname), "exec", dont_inherit=True)
        return code

    def get_data(self, path: str) -> bytes:
        """The verified content of a file of the package (``pkgutil.get_data``)."""
        name = path.removeprefix(f"{self.tree.path}/")
        try:
            return self.tree.files[name]
        except KeyError:
            raise FileNotFoundError(f"the verified package has no file {path}") from None
