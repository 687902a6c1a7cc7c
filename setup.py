"""The one thing pyproject.toml cannot say: ``plugins/`` installs as ``prism_plugins``."""

from setuptools import find_packages, setup

setup(
    package_dir={"prism_plugins": "plugins"},
    packages=[
        *find_packages(include=["prism", "prism.*"]),
        "prism_plugins",
        *(f"prism_plugins.{package}" for package in find_packages("plugins")),
    ],
)
