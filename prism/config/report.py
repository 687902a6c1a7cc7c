"""What was found wrong with one configuration file, collected."""

from prism.config.errors import ConfigProblem
from prism.config.nodes import Node, Path, path_text


class Report:
    """Errors and warnings, each with its place; ``sound`` tells which parts had no error."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.errors: list[ConfigProblem] = []
        self.warnings: list[ConfigProblem] = []
        self._broken: set[Path] = set()

    def error(self, node: Node, path: Path, message: str) -> None:
        self.errors.append(self._problem(node, path, message))
        self._broken.update(path[:length] for length in range(len(path) + 1))

    def warning(self, node: Node, path: Path, message: str) -> None:
        self.warnings.append(self._problem(node, path, message))

    def sound(self, path: Path) -> bool:
        """Whether nothing at or below ``path`` had an error."""
        return path not in self._broken

    def _problem(self, node: Node, path: Path, message: str) -> ConfigProblem:
        return ConfigProblem(self.file, node.line, node.column, path_text(path), message)
