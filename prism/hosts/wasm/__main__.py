"""``python -m prism.hosts.wasm``: the process in which a module runs.

The proxy starts it for ``type: wasm``, with the module as a descriptor. It can be started by hand,
too: whatever options there are for a plugin come after its own.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from prism.sdk import serve


def main(arguments: Sequence[str]) -> NoReturn:
    """Serve the module that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="python -m prism.hosts.wasm", add_help=False, description=__doc__
    )
    parser.add_argument("--module", required=True, help="the file with the module or component")
    parser.add_argument("--name", default="", help="what the plugin is called")
    parser.add_argument("--settings", default="{}", help="`plugin.wasm` of the configuration, JSON")
    found, rest = parser.parse_known_args(arguments)
    try:
        from prism.hosts.wasm.plugin import Settings, WasmPlugin
    except ImportError as error:
        parser.exit(1, f"WebAssembly needs {error.name}: pip install 'prism-data-proxy[wasm]'\n")
    try:
        settings = msgspec.json.decode(found.settings, type=Settings)
    except msgspec.MsgspecError as error:
        parser.error(f"--settings: {error}")
    name = found.name or Path(found.module).stem

    class Module(WasmPlugin):
        module = found.module

    Module.name = Module.module_name = name
    Module.settings = settings
    serve(Module, rest)


if __name__ == "__main__":
    main(sys.argv[1:])
