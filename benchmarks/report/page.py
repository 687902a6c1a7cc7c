"""The page that quotes what was measured, and the pictures beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Section(NamedTuple):
    """What one question adds to the page: Markdown, and pictures (SVG) by name.

    ``failed`` says what went wrong with sides that were there.
    """

    text: str
    plots: Mapping[str, str] = {}
    failed: Mapping[str, str] = {}

    @property
    def markdown(self) -> str:
        """The text, with its pictures in front."""
        shown = [f"![{name.replace('-', ' ')}](performance/{name}.svg)\n" for name in self.plots]
        return "\n".join([*shown, self.text])


def update_page(page: Path, name: str, section: Section, heading: str = "") -> None:
    """Put ``section`` between the markers ``<!-- measured: name -->`` and ``<!-- end: name -->``.

    ``heading`` stands above it; its plots go into the folder ``performance``
    beside the page.

    Raises:
        ValueError: the page lacks the markers.
    """
    begin, end = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
    before, found_begin, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{page} has no markers for {name!r}")
    text = f"{heading}\n\n{section.markdown}" if heading else section.markdown
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")
    if section.plots:
        folder = page.parent / "performance"
        folder.mkdir(exist_ok=True)
        for plot, svg in section.plots.items():
            (folder / f"{plot}.svg").write_text(svg)
