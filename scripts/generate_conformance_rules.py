"""Write ``schemas/conformance/rules.json``: what ``prism plugin test`` holds a plugin to.

``make generate`` runs this; a test compares the file with what it would write.
"""

import json
from pathlib import Path

from prism.sdk.conformance.report import rules_as_data

FILE = Path(__file__).parents[1] / "schemas" / "conformance" / "rules.json"


def text() -> str:
    """The file's text."""
    return json.dumps(rules_as_data(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
