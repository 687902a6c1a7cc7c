import ast
import subprocess
import sys
from pathlib import Path

import prism.sdk

PROGRAM = """
import sys

ALLOWED = {"prism", "msgspec", "anyio"} | set(sys.stdlib_module_names)
OF_ANYIO = {"idna", "sniffio", "typing_extensions"}
THE_PROXY = ("prism.wire", "prism.streams", "prism.channels", "prism.config", "prism.supervision")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED | OF_ANYIO or name.startswith(THE_PROXY):
            raise ImportError(f"{name} is not allowed here")

sys.meta_path.insert(0, Refuse())
import prism.sdk, prism.sdk.testing
from prism.sdk.testing import run_plugin
import anyio, msgspec

class Params(msgspec.Struct):
    n: int

class Twice(prism.sdk.Plugin):
    @prism.sdk.operation
    async def twice(self, params: Params) -> int:
        return 2 * params.n

async def main():
    async with run_plugin(Twice) as plugin:
        print(await plugin.call("twice", n=21))

anyio.run(main)
"""


def test_the_sdk_needs_only_msgspec_and_anyio() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("42\n", "")


FLOORS = ("prism.contract", "prism.wire", "prism.sdk")
LIBRARIES = {"anyio", "msgspec"} | set(sys.stdlib_module_names)
WITH_WEBSOCKETS = {"wsproto"}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or ".")
    return found


def test_the_sdk_stands_on_the_contract_and_the_wire_alone() -> None:
    package = Path(prism.sdk.__file__).parent
    for path in [*package.glob("*.py"), *(package.parent / "wire").glob("*.py")]:
        for name in imports(path):
            if name.startswith("prism"):
                assert name.startswith(FLOORS), f"{path.name} imports {name}"
            else:
                allowed = LIBRARIES | (WITH_WEBSOCKETS if path.stem == "byte_streams" else set())
                assert name.partition(".")[0] in allowed, f"{path.name} imports {name}"


def test_serving_loads_nothing_of_the_proxy() -> None:
    program = PROGRAM.replace('("prism.wire", ', "(").partition("import prism.sdk, ")[0]
    program += "import prism.sdk.serving; print('loaded')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("loaded\n", "")
