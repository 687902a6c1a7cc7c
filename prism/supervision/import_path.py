"""Where the modules of in-process plugins are looked for, beside what is installed."""

import sys
from pathlib import Path

_added: list[str] = []


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
