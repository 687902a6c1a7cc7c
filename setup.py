"""What pyproject.toml cannot say: ``plugins/`` installs as ``prism_plugins``; what is compiled;
the kits in ``sdks/``, of which ``prism plugin new`` makes plugins, are packed as ``prism/kits``.

What is in C is optional: without a compiler its twins in Python serve alone. What is in Python and
every call comes by, mypyc compiles where ``PRISM_COMPILE=1`` asks for it; that may not fail.
"""

import os
from glob import glob
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

COMPILED = {
    "access": "authentication permissions",
    "calls": (
        "admission budget call deadlines gradient ids invoke memory namespace overload "
        "refusals router trace"
    ),
    "calls/policies": (
        "audited authorize await_plugin circuit_breaker deadline hedging in_flight policy "
        "rate_limit read_params record retries shadow shed stream_limit"
    ),
    "channels/frames": "channel link",
    "frontends": "answering data_port headers web_pages",
    "frontends/rest": "app",
    "grpc": "framing",
    "limits": "gcra leases",
    "observability": "access_log audit metrics",
    "server": "exchange rules",
    "server/http1": "chunks connection exchange fields head parser response websocket",
    "server/http2": "connection h2_codec limits stream writer",
    "streams": "outlet sockets",
    "supervision": "balance breaker instance latencies replica_slot slot",
    "wire": "_state codecs connection frames outbox prepared serialization stream",
}
"""The modules that ``PRISM_COMPILE=1`` has compiled, each in its folder of ``prism/``."""
MYPY = ["mypy[mypyc]==2.4.1", "types-protobuf==7.35.1.20260906", "types-PyYAML==6.0.12.20261113"]
"""What compiles them: the exact versions of requirements/constraints.txt, which are tested."""
BUILD_BASE = "build/compiled"
"""A folder of its own, so that nothing of it gets into what is built without."""
COMPILING = os.environ.get("PRISM_COMPILE") == "1"


class BuildExtensions(build_ext):
    """Adds what mypyc makes of ``COMPILED`` to the extensions; an archive of sources has none."""

    def finalize_options(self) -> None:
        if COMPILING and "sdist" not in self.distribution.commands:
            if self.inplace:
                raise SystemExit(
                    "PRISM_COMPILE=1 beside the sources, as in an editable install, would hide "
                    "every change of them: install without --editable, or unset it"
                )
            self.distribution.ext_modules += compiled()
        super().finalize_options()


class BuildPackages(build_py):
    """Packs what ``prism plugin new`` needs. An editable install finds it in the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._kits().items():
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        kits = [] if self.editable_mode else list(self._kits().values())
        return [*super().get_outputs(include_bytecode), *kits]

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *self._kits()]

    def _kits(self) -> dict[str, str]:
        """Where each file goes: of each language the recipe, the template, and what it names."""
        import tomllib

        found: dict[str, str] = {}
        for recipe in sorted(Path("sdks").glob("*/new.toml")):
            folder = recipe.parent
            told = tomllib.loads(recipe.read_text())
            without = {file for text in told.get("without", ()) for file in folder.glob(text)}
            files = {file for text in told.get("files", ()) for file in folder.glob(text)}
            for file in [recipe, *folder.glob("template/**/*"), *(files - without)]:
                if file.is_file() and "__pycache__" not in file.parts:
                    target = Path(self.build_lib, "prism", "kits", file.relative_to("sdks"))
                    found[str(file)] = str(target)
        return found


def compiled() -> list[Extension]:
    """One extension with all of ``COMPILED`` in it, and one for each module that leads there."""
    from mypyc.build import mypycify  # not there in the first pass, which asks what to install

    Path(BUILD_BASE).mkdir(parents=True, exist_ok=True)
    files = [
        f"prism/{folder}/{name}.py" for folder in COMPILED for name in COMPILED[folder].split()
    ]
    return mypycify(
        [f"--cache-dir={BUILD_BASE}/mypy", *files],
        opt_level="1",  # 2 takes half as long again, for one instruction less in a hundred
        debug_level="0",
        multi_file=True,  # the C of one module by one: less memory for the compiler
        group_name="prism",
        target_dir=BUILD_BASE,
    )


def requirements() -> list[str]:
    """What has to be there to compile: mypy, and what the modules import, whose types it reads."""
    import tomllib

    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    return [*MYPY, *project["dependencies"]]


def native(name: str, folder: str, *libraries: str) -> Extension:
    """The extension ``name``, from the sources in ``folder``; one that may fail to build."""
    return Extension(
        name,
        sorted(glob(f"{folder}/*.c")),  # noqa: PTH207 (setuptools wants relative paths)
        depends=sorted([*glob(f"{folder}/*.h"), *glob("schemas/abi/*.h")]),  # noqa: PTH207
        extra_compile_args=["-std=c11", "-Wall", "-Wextra", "-Wno-missing-field-initializers"],
        libraries=list(libraries),
        optional=True,
    )


if __name__ == "__main__":
    setup(
        package_dir={"prism_plugins": "plugins"},
        packages=[
            *find_packages(include=["prism", "prism.*"]),
            "prism_plugins",
            *(f"prism_plugins.{package}" for package in find_packages("plugins")),
        ],
        ext_modules=[
            native("prism.server.http2._nghttp2", "native/nghttp2", "dl"),
            native("prism.calls._json", "native/json"),
            native("prism.hosts._library", "native/library", "dl", "pthread"),
        ],
        cmdclass={"build_ext": BuildExtensions, "build_py": BuildPackages},
        setup_requires=requirements() if COMPILING else [],
        options={"build": {"build_base": BUILD_BASE}} if COMPILING else {},
    )
