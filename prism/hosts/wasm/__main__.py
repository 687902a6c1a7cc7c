"""``python -m prism.hosts.wasm FILE``: the process in which a module runs.

The proxy starts it for ``type: wasm``. It can be started by hand, too: whatever options there are
for a plugin come after its own.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from prism.hosts import parse_host_options, serve_hosted


def main(arguments: Sequence[str]) -> NoReturn:
    """Serve the module that the arguments name."""
    options, rest = parse_host_options("wasm", "file", arguments)
    parser = argparse.ArgumentParser(
        prog="python -m prism.hosts.wasm FILE", allow_abbrev=False, add_help=False
    )
    parser.add_argument("--name", default="", help="what the plugin is called")
    parser.add_argument("--settings", default="{}", help="`plugin.wasm` of the configuration, JSON")
    found, rest = parser.parse_known_args(rest)
    try:
        from prism.hosts.wasm.plugin import Settings, WasmPlugin
    except ImportError as error:
        parser.exit(1, f"WebAssembly needs {error.name}: the extra `wasm` (docs/install.md)\n")
    try:
        settings = msgspec.json.decode(found.settings, type=Settings)
    except msgspec.MsgspecError as error:
        parser.error(f"--settings: {error}")

    class Module(WasmPlugin):
        name = found.name or Path(options.place).stem
        module = options.source
        module_name = options.place

    Module.settings = settings
    serve_hosted(Module, rest)


if __name__ == "__main__":
    main(sys.argv[1:])
