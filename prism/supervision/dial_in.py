"""The sockets on which a namespace's plugin dials in."""

import logging
from pathlib import Path

import trio

from prism.config.types import PluginConfig
from prism.streams import unix

log = logging.getLogger("prism.supervision")


class DialIn:
    """Opens sockets and keeps them open between a plugin's connections.

    There are two only while a reload moves the plugin from one path to another.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._listeners: dict[Path, unix.UnixListener] = {}

    async def open(self, plugin: PluginConfig) -> unix.UnixListener:
        """The socket of ``plugin``: opened, unless it is open and its file still in place.

        Raises:
            LaunchError: the path cannot be used.
        """
        path = Path(plugin.socket or "")
        listener = self._listeners.get(path)
        if listener is not None and not listener.in_place:
            await self._close(path)
            listener = None
        if listener is None:
            listener = unix.listen(path, group=plugin.group, mode=plugin.socket_mode)
            self._listeners[path] = listener
            log.info("namespace %s waits for its plugin to dial %s", self._namespace, path)
        return listener

    async def keep_only(self, plugin: PluginConfig | None) -> None:
        """Close all sockets but ``plugin``'s."""
        kept = Path(plugin.socket) if plugin is not None and plugin.socket else None
        for path in [path for path in self._listeners if path != kept]:
            await self._close(path)

    async def _close(self, path: Path) -> None:
        with trio.CancelScope(shield=True):
            await self._listeners.pop(path).aclose()
