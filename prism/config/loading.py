"""Read a configuration file: either all of it is right, or every problem is listed."""

from dataclasses import dataclass
from pathlib import Path

from prism.config.credentials import check_secrets
from prism.config.errors import ConfigError, ConfigProblem
from prism.config.report import Report
from prism.config.rules import check_rules
from prism.config.typecheck import check_types
from prism.config.types import Config
from prism.config.yaml_tree import parse_tree

MAX_FILE_BYTES = 1024 * 1024
"""The largest configuration file; thousands of namespaces fit."""

MAX_PROBLEMS = 100
"""So many are listed one by one; more is a wrong file rather than wrong lines."""

_SMALLEST = "the smallest useful one is\n\nnamespaces:\n  - name: notes\n    backend: sqlite\n"


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration that can be used: paths absolute, commands split into words.

    ``warnings`` are for the operator; ``file`` is the name it was read under.
    """

    config: Config
    warnings: tuple[ConfigProblem, ...]
    file: str


def load_config(path: str | Path) -> LoadedConfig:
    """Read, check and convert the file. Blocks for as long as the disk takes.

    Raises:
        ConfigError: it cannot be read, or it is wrong; lists every problem found.
    """
    file = str(path)
    try:
        with Path(path).open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(file, f"cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise _unreadable(file, f"is larger than {MAX_FILE_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unreadable(file, f"is not UTF-8 text (line {line})") from None
    return parse_config(text, file)


def parse_config(text: str, file: str) -> LoadedConfig:
    """Check and convert ``text``; relative paths start at the directory of ``file``.

    Raises:
        ConfigError: it is wrong; lists every problem found (the first ``MAX_PROBLEMS``
            one by one), in the file's order.
    """
    root, problems = parse_tree(text, file)
    if root is None:
        raise ConfigError([*problems, *_unreadable(file, f"is empty; {_SMALLEST}").problems])
    report = Report(file)
    report.errors.extend(problems)
    check_types(root, Config, report)
    check_secrets(root, report)
    config = check_rules(root, report, Path(file).absolute().parent)
    if config is None:
        raise ConfigError(_first(sorted(report.errors, key=_place), file))
    return LoadedConfig(config, tuple(sorted(report.warnings, key=_place)), file)


def _first(problems: list[ConfigProblem], file: str) -> list[ConfigProblem]:
    rest = len(problems) - MAX_PROBLEMS
    if rest <= 0:
        return problems
    more = ConfigProblem(file, 0, 0, "", f"and {rest} more problems")
    return [*problems[:MAX_PROBLEMS], more]


def _unreadable(file: str, message: str) -> ConfigError:
    return ConfigError([ConfigProblem(file, 0, 0, "", f"the file {message}")])


def _place(problem: ConfigProblem) -> tuple[int, int]:
    return problem.line, problem.column
