"""The minimal plugin of docs/protocol.md runs as it stands, and keeps the protocol."""

import re
import sys
from pathlib import Path

from prism.sdk.conformance import Setup, Spawned, run

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_the_minimal_plugin(tmp_path):
    (text,) = re.findall(r"^```\n(import .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(text.splitlines()) < 130
    program = tmp_path / "minimal.py"
    program.write_text(text)
    report = run(Spawned([sys.executable, "-S", str(program)], timeout=60), Setup())
    assert report.problems() == []
    assert report.count("passed") > 85
