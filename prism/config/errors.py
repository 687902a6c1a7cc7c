"""What is wrong with a configuration: every problem, each with its place."""

from collections.abc import Sequence

from prism.contract.errors import PrismError


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
