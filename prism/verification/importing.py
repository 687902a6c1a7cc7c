"""Importing from bytes that were verified, and from nothing else.

The package's modules come from a :class:`Tree`, never from the disk, so what is
imported is what was hashed. A name below the package that the tree does not have
does not exist, wherever else Python might find one. Bytecode is neither read nor
written.

A package that is imported again with other content is imported afresh: the old
modules leave ``sys.modules``, and go on working for the instance that holds them.
With the same content it is the same modules.
"""

import importlib
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import CodeType, ModuleType

from prism.verification.tree import Tree

_changing: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
"""By package: a reload imports in a thread, and another may want the same package."""


class NameTaken(Exception):
    """The package's name belongs to something else that the proxy has imported."""


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
        return importlib.util.decode_source(self.tree.files[self.file])

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


def import_module(name: str, tree: Tree) -> ModuleType:
    """Import ``name`` from ``tree``, which holds its whole top-level package.

    Whatever the module raises passes through; the modules that were there
    before are then there again.

    Raises:
        NameTaken: a module of the package's name is there that no tree was the source of.
    """
    package = name.partition(".")[0]
    with _changing[package]:
        return _import_module(name, package, tree)


def _import_module(name: str, package: str, tree: Tree) -> ModuleType:
    present = sys.modules.get(package)
    finder = next(
        (f for f in sys.meta_path if isinstance(f, TreeFinder) and f.package == package), None
    )
    if package in sys.stdlib_module_names or (present is not None and finder is None):
        raise NameTaken(f"the proxy has imported another {package!r}")
    if finder is not None and finder.tree.digest == tree.digest and finder.tree.path == tree.path:
        return importlib.import_module(name)
    new = TreeFinder(package, tree)
    before = _take_out(package)
    sys.meta_path.insert(0, new)
    try:
        module = importlib.import_module(name)
    except BaseException:
        sys.meta_path.remove(new)
        _take_out(package)
        sys.modules.update(before)
        raise
    if finder is not None:
        sys.meta_path.remove(finder)
    return module


def _take_out(package: str) -> dict[str, ModuleType]:
    """Remove the package and all below it from ``sys.modules``; returns what was removed."""
    names = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
    return {name: sys.modules.pop(name) for name in names}
