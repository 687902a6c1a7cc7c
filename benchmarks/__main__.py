"""``python -m benchmarks``: measure, print, and write docs/performance.md."""

import argparse
import sys
from pathlib import Path

from benchmarks.effort import QUICK, Effort
from benchmarks.load import h2load
from benchmarks.machine import Bystanders, machine
from benchmarks.processes import ROOT
from benchmarks.questions import QUESTIONS
from benchmarks.report.page import update_page

PAGE = ROOT / "docs" / "performance.md"


def main() -> None:
    usual = Effort()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Prism side by side with its peers. All takes some 15 minutes.",
    )
    parser.add_argument("part", nargs="*", help=f"{', '.join(QUESTIONS)}; all by default")
    parser.add_argument(
        "--seconds", type=float, default=usual.seconds, help=f"of each sample ({usual.seconds:g})"
    )
    parser.add_argument(
        "--rounds", type=int, default=usual.rounds, help=f"samples of each kind ({usual.rounds})"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one short round, to see that everything works; the page is left alone",
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="page to update (docs/performance.md)"
    )
    found = parser.parse_args()
    for part in found.part:
        if part not in QUESTIONS:
            parser.error(f"no part {part!r}: choose from {', '.join(QUESTIONS)}")
    if not h2load.is_there():
        sys.exit(f"{h2load.PROGRAM} is missing: sudo apt-get install {h2load.PACKAGE}")
    page = found.page or (None if found.quick else PAGE)
    effort = QUICK if found.quick else Effort(found.rounds, found.seconds)
    failed: list[str] = []
    for part in found.part or QUESTIONS:
        bystanders = Bystanders()
        section = QUESTIONS[part].measure(effort)
        heading = f"{machine()} {bystanders}"
        print(f"\n{part}\n\n{heading}\n\n{section.text}", flush=True)
        if page:
            update_page(page, part, section, heading)
        failed += [f"{part}: {side}: {why}" for side, why in section.failed.items()]
    if failed:
        sys.exit("\n".join(["", "sides that failed:", *failed]))


main()
