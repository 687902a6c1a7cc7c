"""Runs the compliance suite, and writes its results into docs/plugins.md.

The servers that plugins need have to be there: `make services-up` starts those that are used
again, the tests start the others. Arguments go to pytest.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.compliance import matrix  # noqa: E402 - found by the line above
from tests.compliance.conftest import RESULTS  # noqa: E402 - as above

_TESTS = ("tests/compliance", "--ignore=tests/compliance/test_matrix.py")


def main() -> int:
    """Returns the exit status: that of the tests, or 1 where a plugin was not tested."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "results"
        path.touch()
        ran = subprocess.run(  # noqa: S603 - our own suite
            [sys.executable, "-m", "pytest", "-q", *_TESTS, *sys.argv[1:]],
            cwd=ROOT,
            env=os.environ | {RESULTS: str(path)},
            check=False,
        )
        lines = path.read_bytes().splitlines()
    results = [msgspec.json.decode(line, type=matrix.Result) for line in lines]
    missing = set(matrix.expected()) - set(results)
    for one in sorted(missing):
        sys.stderr.write(f"not as expected: {one.plugin}, {one.group}, {one.test}\n")
    page = matrix.PAGE.read_text()
    matrix.PAGE.write_text(matrix.replaced(page, matrix.render(results)))
    return 1 if missing else int(ran.returncode > 1)


if __name__ == "__main__":
    sys.exit(main())
