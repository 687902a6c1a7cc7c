"""Loads the class of a plugin that runs in the proxy's own process.

A reload wants the code that is on disk now, while the old instance goes on with
the code that it has. So its package is taken out of ``sys.modules`` and imported
again: new module objects, beside the old ones, which stay alive for as long as
the old instance uses them. If that fails, the old ones are put back. (A package
that is imported from verified bytes is renewed by ``verification``, when they differ.)

What is fresh is the plugin's own package: the package that the module is in or
is, and everything below it. Libraries are shared, as everything in a process is.
An import that the old instance makes later, inside a function, finds the new
modules; and extension modules in C cannot be loaded twice by Python. A plugin
for which that matters belongs into a process of its own.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import trio

from prism.channels.in_process import is_fault
from prism.contract.service import BackendPlugin
from prism.streams.errors import LaunchError
from prism.supervision.instance import InstanceSpec
from prism.verification import VerifiedModule, Verifier, log_verdict
from prism.verification.module import anew
from prism.verification.refusals import PluginRefused

_added: list[str] = []
"""Directories in which modules are looked for, beside what is installed."""


async def load_plugin(spec: InstanceSpec, *, fresh: bool) -> Callable[[], BackendPlugin]:
    """The class that ``spec.plugin.module`` names (``package.module:Class``).

    It is verified and imported in a worker thread, so that calls go on meanwhile, and is waited
    for even if cancelled: code half imported would be in the way of the next attempt.

    Raises:
        LaunchError: it may not run, is not there, or cannot be imported.
    """
    label = spec.label
    module_name, _, class_name = (spec.plugin.module or "").partition(":")
    try:
        module, kind = await trio.to_thread.run_sync(_import, spec, fresh, class_name)
    except PluginRefused:
        raise
    except ModuleNotFoundError as error:
        missing = explain_missing(error.name or module_name, spec.plugin.path)
        raise LaunchError(f"{label}: {missing}", crashed=True) from None
    except BaseException as error:
        if not is_fault(error):
            raise
        raise LaunchError(
            f"{label}: importing {module_name} failed: {type(error).__name__}: {error}",
            crashed=True,
        ) from error
    if kind is None or (isinstance(kind, type) and not _is_plugin(kind)):
        wrong = f"module {module_name} has no {class_name!r}"
        if kind is not None:
            wrong = f"{module_name}:{class_name} is not a prism.sdk.Plugin"
        has = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and _is_plugin(value) and value.__module__ == module.__name__
        ]
        hint = f"; the module has {', '.join(has)}" if has else ""
        raise LaunchError(f"{label}: {wrong}{hint}", crashed=True)
    return kind


def _is_plugin(kind: type) -> bool:
    return hasattr(kind, "initialize") and hasattr(kind, "execute")


def _import(
    spec: InstanceSpec, fresh: bool, class_name: str
) -> tuple[ModuleType, Callable[[], BackendPlugin] | None]:
    """The module and its class, which a module may import only when it is asked for it."""
    verified = Verifier(spec.plugin, spec.label, spec.verification).module()
    log_verdict(spec.label, verified.verdict, spec.verification)
    is_afresh = fresh and verified.tree is None
    module = import_afresh(verified) if is_afresh else verified.import_module()
    return module, getattr(module, class_name, None)


def import_afresh(verified: VerifiedModule) -> ModuleType:
    """Import a module and its package again, whether or not they are loaded.

    Whatever the import raises passes through; ``sys.modules`` is then as it was.
    """
    name = verified.name
    loaded = sys.modules.get(name)
    package = (getattr(loaded, "__package__", None) or name) if loaded is not None else name
    importlib.invalidate_caches()
    with anew(package):
        return verified.import_module()


# -- where modules are looked for ---------------------------------------------------------


def look_in(directory: Path) -> None:
    """Look in ``directory`` too, after everything else: it hides no installed module."""
    place = str(directory)
    if place not in sys.path:
        sys.path.append(place)
    if place not in _added:
        _added.append(place)


def explain_missing(module: str, path: str | None) -> str:
    """Why ``module`` cannot be imported, for a plugin that lies in ``path``, and the way out."""
    if path is not None:
        return f"no module {module!r} in {path}, nor installed for {sys.executable}"
    places = [f"installed for {sys.executable}", *(f"in {place}" for place in _added)]
    looked = f"neither {' nor '.join(places)}" if _added else f"not {places[0]}"
    return f"no module {module!r}: it is {looked}; `path` names the directory of a plugin's module"
