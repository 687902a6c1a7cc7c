"""Namespaces whose callers reach each other's data, since their plugins keep them in one place.

``access`` is of a namespace. Where two have the same file, database or keys, it says less than it
seems to: who may use one reads, and perhaps changes, what is the other's.
"""

from collections.abc import Iterator

import msgspec

from prism.config.catalogue import UnresolvedPlugin, config_type, resolve_plugin
from prism.config.document import Place
from prism.config.types import Config, NamespaceAccess, NamespaceConfig
from prism.contract.settings import Store


def find_shared(config: Config, at: Place) -> Iterator[tuple[Place, str]]:
    """Each namespace whose data an earlier one with another ``access`` has too, and what to do.

    ``config`` is whole, with absolute paths; ``at`` is its root. A namespace without ``access`` is
    nobody's, or everybody's where there is no ``authentication``.
    """
    earlier: list[tuple[NamespaceConfig, Store, int]] = []
    for index, namespace in enumerate(config.namespaces):
        store = None if namespace.access is None else _store(config, namespace)
        if store is None:
            continue
        for other, its, line in earlier:
            if store.overlaps(its) and _who(other.access) != _who(namespace.access):
                yield (
                    at["namespaces"][index]["config"],
                    f'namespace "{other.name}" (line {line}) has {store.what}, too, and its '
                    "access is another: who may use one of them reaches what is in both; "
                    f"{store.apart}",
                )
                break
        earlier.append((namespace, store, at["namespaces"][index].line))


def _store(config: Config, namespace: NamespaceConfig) -> Store | None:
    """Where its plugin keeps the data; None where that is not known, or nobody else's."""
    try:
        kind = config_type(resolve_plugin(config, namespace))
    except UnresolvedPlugin:
        return None
    if kind is None or not hasattr(kind, "store"):
        return None
    settings = msgspec.convert(namespace.config, kind)
    store: Store | None = settings.store(namespace.name, namespace.credentials)
    return store


def _who(access: NamespaceAccess | None) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    """Who may do what, in whatever order it is written."""
    if access is None:
        return frozenset(), frozenset()
    rows = {(who, may) for rule in access.allow for who in rule.who for may in rule.permissions}
    return frozenset(access.owners), frozenset(rows)
