"""Print a generated file: ``python -m prism.config schema`` or ``… reference``."""

import sys

from prism.config import reference_markdown, schema_json

GENERATED = {"schema": schema_json, "reference": reference_markdown}


def main(arguments: list[str]) -> None:
    """Write the named text to standard output."""
    if len(arguments) != 1 or arguments[0] not in GENERATED:
        raise SystemExit(f"usage: python -m prism.config {'|'.join(GENERATED)}")
    sys.stdout.write(GENERATED[arguments[0]]())


if __name__ == "__main__":
    main(sys.argv[1:])
