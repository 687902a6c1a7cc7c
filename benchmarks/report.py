"""Markdown tables, and their place in a page between two markers."""

from collections.abc import Iterable, Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def verdict(what: str, measured: float, target: float, *, at_least: bool, unit: str = "") -> str:
    """A line that says whether a target is met."""
    met = measured >= target if at_least else measured <= target
    bound = "at least" if at_least else "at most"
    return (
        f"- {what}: **{measured:.2f}{unit}** "
        f"(target: {bound} {target:g}{unit}; {'met' if met else 'missed'})"
    )


def update_page(page: Path, name: str, text: str) -> None:
    """Put ``text`` between the markers ``<!-- measured: name -->`` and ``<!-- end: name -->``.

    Raises:
        ValueError: the page lacks them.
    """
    begin, end = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
    before, found_begin, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{page} has no markers for {name!r}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")
