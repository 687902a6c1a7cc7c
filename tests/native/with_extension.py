"""Run a Python program with another build of an extension in the place of the installed one.

Usage: python with_extension.py MODULE EXTENSION PROGRAM [ARGUMENT...], where EXTENSION is the
path of the build, and PROGRAM the path of a script, or pytest.
"""

import importlib.util
import runpy
import sys


def put_in_place(name: str, path: str) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    _, name, path, program, *_ = sys.argv
    put_in_place(name, path)
    sys.argv = sys.argv[3:]
    if program == "pytest":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(program, run_name="__main__")
