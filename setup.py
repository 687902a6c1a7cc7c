"""What pyproject.toml cannot say: ``plugins/`` installs as ``prism_plugins``, and what is in C is
optional: without a compiler its twins in Python serve alone."""

from glob import glob

from setuptools import Extension, find_packages, setup


def native(name: str, folder: str, *libraries: str) -> Extension:
    """The extension ``name``, from the sources in ``folder``; one that may fail to build."""
    return Extension(
        name,
        sorted(glob(f"{folder}/*.c")),  # noqa: PTH207 (setuptools wants relative paths)
        depends=sorted(glob(f"{folder}/*.h")),  # noqa: PTH207
        extra_compile_args=["-std=c11", "-Wall", "-Wextra", "-Wno-missing-field-initializers"],
        libraries=list(libraries),
        optional=True,
    )


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
    ],
)
