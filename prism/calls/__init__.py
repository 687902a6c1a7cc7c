"""One call, one way: namespaces, policies, routing, deadlines, the relay of streams."""

from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec


def is_compiled() -> bool:
    """Whether what every call comes by was compiled by mypyc (``COMPILED`` in setup.py)."""
    found = find_spec("prism.calls.call")
    return found is not None and isinstance(found.loader, ExtensionFileLoader)
