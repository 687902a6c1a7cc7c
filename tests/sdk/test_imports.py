import subprocess
import sys

PROGRAM = """
import sys

ALLOWED = {"prism", "msgspec", "anyio"} | set(sys.stdlib_module_names)
OF_ANYIO = {"idna", "sniffio", "typing_extensions"}
THE_PROXY = ("prism.wire", "prism.channels", "prism.supervision", "prism.calls", "prism.frontends")

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
