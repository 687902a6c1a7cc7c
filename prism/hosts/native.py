"""The host of a native library: ``python -m prism.hosts.native LIBRARY``.

The proxy starts it for a plugin with ``library:``. What the library does wrong costs this process:
a crash ends it, and the proxy starts another; a call that hangs does when its cancel has no effect.
"""

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from prism.contract.errors import PluginError
from prism.contract.status import StatusCode
from prism.hosts import parse_host_options, serve_hosted
from prism.hosts.library import plugin_class
from prism.hosts.loading import LibraryUnfit, load_library
from prism.sdk.plugin import Plugin

STUCK_STATUS = 70
"""Exit status of a process whose library is stuck: EX_SOFTWARE."""

log = logging.getLogger("prism.sdk")


def main() -> NoReturn:
    """Serve the library that the command line names."""
    options, rest = parse_host_options("native", "library", sys.argv[1:])
    serve_hosted(hosted(options.source, options.place, options.cancel_grace), rest)


def hosted(source: str, place: str, cancel_grace: float) -> type[Plugin]:
    """The plugin class of the library; of one that cannot be loaded, one that says so."""
    try:
        kind = plugin_class(load_library(source, place), cancel_grace=cancel_grace)
    except LibraryUnfit as error:
        return _unfit(str(error), Path(place).name)
    kind.on_stuck = staticmethod(_end)
    return kind


def _unfit(sentence: str, name: str) -> type[Plugin]:
    """A plugin that answers Initialize with ``sentence``, which operators thus get to see."""

    async def start(_plugin: Plugin) -> None:
        raise PluginError(StatusCode.FAILED_PRECONDITION, sentence)

    return type("UnfitLibrary", (Plugin,), {"name": name, "start": start})


def _end(sentence: str) -> NoReturn:
    """End the process, as nothing else ends what runs in it."""
    log.error("%s; its process ends", sentence)  # which sends it at once
    os._exit(STUCK_STATUS)


if __name__ == "__main__":
    main()
