"""What pyproject.toml cannot say: ``plugins/`` installs as ``prism_plugins``, and the
extension is optional: without a C compiler the h2 codec serves alone."""

from glob import glob

from setuptools import Extension, find_packages, setup

NATIVE = "prism/server/http2/native"

setup(
    package_dir={"prism_plugins": "plugins"},
    packages=[
        *find_packages(include=["prism", "prism.*"]),
        "prism_plugins",
        *(f"prism_plugins.{package}" for package in find_packages("plugins")),
    ],
    ext_modules=[
        Extension(
            "prism.server.http2._nghttp2",
            sorted(glob(f"{NATIVE}/*.c")),  # noqa: PTH207 (setuptools wants relative paths)
            depends=sorted(glob(f"{NATIVE}/*.h")),  # noqa: PTH207
            extra_compile_args=["-std=c11", "-Wall", "-Wextra", "-Wno-missing-field-initializers"],
            libraries=["dl"],
            optional=True,
        )
    ],
)
