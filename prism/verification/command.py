"""Which file of a command is the plugin.

A command is a program and words for it. Where the program is the plugin, that
is the file; where it is an interpreter (``python3 plugin.py``), the script is.
The digest and the signature are about that one file. The interpreter belongs to
the machine: its owner and permissions are checked, and no more.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interpreter:
    """A program that runs a script named on its command line.

    ``with_value`` are options that take the next word; after one of ``without_script``
    there is no script to be found. ``for_descriptor`` must be given for a script
    that has no name of its own in the file system.
    """

    names: str
    with_value: frozenset[str] = frozenset()
    without_script: frozenset[str] = frozenset()
    for_descriptor: tuple[str, ...] = ()


INTERPRETERS = (
    Interpreter(
        r"python[0-9.]*|pypy[0-9.]*",
        with_value=frozenset({"-W", "-X", "--check-hash-based-pycs"}),
        without_script=frozenset({"-c", "-m", "-"}),
    ),
    Interpreter(
        r"node|nodejs",
        with_value=frozenset({"-r", "--require", "--import", "-C", "--conditions"}),
        without_script=frozenset({"-e", "--eval", "-p", "--print", "-i", "-", "--test"}),
        # Without these it opens what the descriptor's link says, which is nothing.
        for_descriptor=("--preserve-symlinks", "--preserve-symlinks-main"),
    ),
    Interpreter(
        r"sh|bash|dash",
        with_value=frozenset({"-o", "+o", "-O", "+O"}),
        without_script=frozenset({"-c", "-s", "-", "--"}),
    ),
    Interpreter(
        r"perl[0-9.]*|ruby[0-9.]*",
        with_value=frozenset({"-I", "-r"}),
        without_script=frozenset({"-e", "-E", "-", "-x", "-S"}),
    ),
)
"""A command of another interpreter names its file in ``entry``."""


SCRIPTS = frozenset({".py", ".js", ".mjs", ".cjs", ".sh", ".pl", ".rb"})
"""Ends of the names of scripts."""


@dataclass(frozen=True)
class Command:
    """A command taken apart. ``program`` is the path of the program, None if there is none.

    ``entry`` is the index of the word that is the plugin's file, None if it cannot
    be told; ``entry_path`` is its path.
    """

    words: tuple[str, ...]
    program: str | None
    interpreter: Interpreter | None
    entry: int | None
    entry_path: str | None


def take_apart(
    words: Sequence[str], entry: str | None, directory: str | None, search_path: str
) -> Command:
    """Find the program and the plugin's own file; ``directory`` is where relative paths start."""
    program = find_program(words[0], directory, search_path)
    interpreter = None
    index: int | None = 0
    if program is not None:
        interpreter = _interpreter(program)
    if entry is not None:
        index = next((i for i, word in enumerate(words) if word == entry), None)
    elif interpreter is not None:
        index = _script(words, interpreter)
    path = None
    if index == 0:
        path = program
    elif index is not None:
        path = _absolute(words[index], directory)
        if entry is None and not os.path.lexists(path):
            index = path = None  # the value of an option that is not known here, perhaps
    return Command(tuple(words), program, interpreter, index, path)


def find_program(name: str, directory: str | None, search_path: str) -> str | None:
    """The path of a program, looked up as the kernel and a shell would; None if there is none."""
    if "/" in name:
        path = _absolute(name, directory)
        return path if os.path.lexists(path) else None
    for folder in search_path.split(os.pathsep):
        path = os.path.join(folder or os.curdir, name)  # noqa: PTH118 - PATH is text
        if os.access(path, os.X_OK) and not os.path.isdir(path):  # noqa: PTH112 - as above
            return os.path.abspath(path)  # noqa: PTH100 - as above
    return None


def _absolute(word: str, directory: str | None) -> str:
    path = os.path.join(directory or "", word)  # noqa: PTH118 - keeps ".."
    here = os.getcwd()  # noqa: PTH109 - as above
    return os.path.join(here, path)  # noqa: PTH118 - an absolute path stays as it is


def missing_script(command: Command) -> str | None:
    """The script that an interpreter is to run and that is not there; None where it is there, or
    where it cannot be told which word it is."""
    if command.interpreter is None or command.entry_path is not None:
        return None
    index = _script(command.words, command.interpreter)
    word = "" if index is None else command.words[index]
    # Another word may be the value of an option that is not known here.
    is_script = "/" in word or os.path.splitext(word)[1] in SCRIPTS  # noqa: PTH122 - as above
    return word if is_script else None


def _interpreter(program: str) -> Interpreter | None:
    """By the name it is called by, or that of the file it leads to: ``python`` is a link."""
    for path in (program, os.path.realpath(program)):
        name = os.path.basename(path)  # noqa: PTH119 - as above
        for interpreter in INTERPRETERS:
            if re.fullmatch(interpreter.names, name):
                return interpreter
    return None


def _script(words: Sequence[str], interpreter: Interpreter) -> int | None:
    """The index of the first word that is no option."""
    skip = False
    for index, word in enumerate(words[1:], 1):
        if skip:
            skip = False
        elif word in interpreter.without_script or _bundles(word, interpreter):
            return None
        elif word in interpreter.with_value:
            skip = True
        elif not word.startswith(("-", "+")):
            return index
    return None


def _bundles(word: str, interpreter: Interpreter) -> bool:
    """Is it several short options in one, as in ``-ec``, after one of which there is no script?"""
    return re.fullmatch("-[A-Za-z]+", word) is not None and any(
        f"-{letter}" in interpreter.without_script for letter in word[1:]
    )
