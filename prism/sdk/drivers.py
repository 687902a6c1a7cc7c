"""What a package has in place of its plugin, where the plugin's driver is not installed.

A configuration can be checked without the driver, so that the package can be imported without it.
"""

from collections.abc import Callable


def without_driver(
    package: str, plugin: str, title: str, driver: str, error: ImportError
) -> Callable[[str], object]:
    """A ``__getattr__`` for ``package``: who asks for ``plugin`` is told what to install.

    The extra that brings ``driver`` has the name of the package.
    """
    extra = package.rpartition(".")[2]
    missing = (
        f"the {title} plugin needs {driver}, which the extra {extra!r} brings; docs/install.md, "
        f"'Drivers of plugins', says how to install it ({error})"
    )

    def get(name: str) -> object:
        if name == plugin:
            raise ImportError(missing)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
