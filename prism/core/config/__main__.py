"""Print a generated file: ``python -m prism.core.config schema`` or ``… reference``."""

import sys

from prism.core.config import reference_markdown, schema_json

GENERATED = {"schema": schema_json, "reference": reference_markdown}

if __name__ == "__main__":
    sys.stdout.write(GENERATED[sys.argv[1]]())
