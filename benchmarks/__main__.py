"""``python -m benchmarks``: measure, print, and write docs/performance.md."""

import argparse
from pathlib import Path

from benchmarks import hop, memory, proxy
from benchmarks.measure import Bystanders, machine
from benchmarks.processes import ROOT
from benchmarks.report import update_page

PAGE = ROOT / "docs" / "performance.md"
PARTS = ("hop", "proxy", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Prism side by side with its peers. Takes some three minutes.",
    )
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--seconds", type=float, default=0.6, help="of each sample (0.6)")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each kind (5)")
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
        if part not in PARTS:
            parser.error(f"no part {part!r}: choose from {', '.join(PARTS)}")
    page = found.page or (None if found.quick else PAGE)
    seconds, rounds = (0.2, 1) if found.quick else (found.seconds, found.rounds)
    for part in found.part or PARTS:
        bystanders = Bystanders()
        if part == "memory":
            text = memory.measure(
                clients=20 if found.quick else 400, namespaces=10 if found.quick else 100
            )
        else:
            text = {"hop": hop, "proxy": proxy}[part].measure(rounds=rounds, seconds=seconds)
        text = f"{machine()}. {bystanders}\n\n{text}"
        print(f"\n{part}\n\n{text}", flush=True)
        if page:
            update_page(page, part, text)


main()
