"""The suite's plugin as a program: probe_plugin.py BACKEND."""

import importlib.util
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # for what the suite imports

spec = importlib.util.spec_from_file_location("suite", Path(__file__).with_name("conftest.py"))
suite = importlib.util.module_from_spec(spec)
spec.loader.exec_module(suite)

if __name__ == "__main__":
    from prism.sdk import serve

    serve(suite.Probe, [], backend=sys.argv[1])
