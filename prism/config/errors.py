"""What is wrong with a configuration: every problem, each with its place."""

from collections.abc import Sequence
from typing import TypeAlias

from prism.contract.errors import PrismError

Path: TypeAlias = tuple[str | int, ...]
"""The keys, and positions in lists, that lead to a value."""
Mark: TypeAlias = tuple[int, int]
"""Line and column, from 1."""


class ConfigProblem(Exception):
    """One thing wrong with a configuration: where, what, and what would be right.

    ``line`` and ``column`` count from 1; 0 means that the place is unknown.
    ``path`` is written as in ``namespaces[0].plugin.type``.
    """

    def __init__(self, file: str, line: int, column: int, path: str, message: str) -> None:
        super().__init__(file, line, column, path, message)
        self.file = file
        self.line = line
        self.column = column
        self.path = path
        self.message = message

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(PrismError):
    """A configuration that cannot be used; ``problems`` holds every one found."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class Report:
    """The errors and warnings of one file, collected.

    A fault is told once, however many aliases repeat it.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.errors: list[ConfigProblem] = []
        self.warnings: list[ConfigProblem] = []
        self._told: set[tuple[bool, Mark, str]] = set()
        self._broken: set[Path] = set()

    def error(self, mark: Mark, path: Path, message: str, *, usable: bool = False) -> None:
        """Say what is wrong at ``mark``, where the value of ``path`` is written.

        ``usable``: there is a value all the same, of which more can be said.
        """
        self._tell(self.errors, mark, path, message)
        if not usable:
            self._broken.update(path[:length] for length in range(len(path) + 1))

    def warning(self, mark: Mark, path: Path, message: str) -> None:
        """Say what is probably not meant."""
        self._tell(self.warnings, mark, path, message)

    def is_sound(self, path: Path) -> bool:
        """Whether everything at and below ``path`` is usable."""
        return path not in self._broken

    def _tell(self, problems: list[ConfigProblem], mark: Mark, path: Path, message: str) -> None:
        told = (problems is self.errors, mark, message)
        if told not in self._told:
            self._told.add(told)
            problems.append(ConfigProblem(self.file, *mark, path_text(path), message))


def path_text(path: Path) -> str:
    """``("namespaces", 0, "plugin")`` as ``namespaces[0].plugin``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{clip(step)}" for step in path)
    return "".join(steps).removeprefix(".")


def clip(text: str, length: int = 40) -> str:
    """``text`` on one line, cut to ``length`` characters."""
    line = "".join(c if c.isprintable() else " " for c in text[: length + 1])
    return line if len(line) <= length else line[: length - 1] + "…"
