"""The checks in their order, for each way to start a plugin.

Owner and permissions, of the file and of everything above it; then the content,
by pin and signature; and only then may any of it run, from the copy that was
checked. All of this blocks on the disk: call it in a thread.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from prism.config.types import PluginConfig, PluginForm, VerificationConfig
from prism.verification.command import Command, take_apart
from prism.verification.content import Content, content_of, read_tree, sealed_copy
from prism.verification.judge import Judge, Verdict, today
from prism.verification.module import VerifiedModule, is_own, locate
from prism.verification.refusals import Check
from prism.verification.trust import Opened, Trust


class VerifiedCommand:
    """A command that may run: ``words`` is its argv, ``executable`` what to run.

    ``descriptors`` must be handed down to the process, and then be closed.
    ``verdict`` is None where it cannot be told which file is the plugin, and
    nothing in the configuration asks.
    """

    def __init__(
        self,
        words: list[str],
        executable: str | None,
        descriptors: tuple[int, ...] = (),
        verdict: Verdict | None = None,
    ) -> None:
        self.words = words
        self.executable = executable
        self.descriptors = descriptors
        self.verdict = verdict

    def __enter__(self) -> "VerifiedCommand":
        return self

    def __exit__(self, *_error: object) -> None:
        descriptors, self.descriptors = self.descriptors, ()
        for descriptor in descriptors:
            os.close(descriptor)


class Verifier:
    """Verifies one plugin. ``plugin`` is resolved; ``label`` names it in messages."""

    def __init__(
        self,
        plugin: PluginConfig,
        label: str,
        config: VerificationConfig,
        on_day: Callable[[], date] = today,
    ) -> None:
        self._plugin = plugin
        self._label = label
        self._trust = Trust.of(label, config.trusted_owners)
        self._judge = Judge(config, label, on_day)
        policy = plugin.signature_policy or config.policy
        self._named = plugin.sha256 is not None or plugin.signature is not None
        self._required = self._named or policy == "require"
        self._comparable = self._required or bool(config.trusted_keys)

    def verify(self, search_path: str) -> Verdict | None:
        """Check whatever the plugin is; None for one that Prism does not start, or its own.

        Raises:
            PluginRefused: it may not run.
        """
        match self._plugin.form:
            case PluginForm.COMMAND:
                with self.command(search_path) as command:
                    return command.verdict
            case PluginForm.MODULE:
                return self.module().verdict
            case PluginForm.LIBRARY:
                return self.library()
            case PluginForm.WASM:
                return self.path(self._plugin.file or "")
        return None

    def command(self, search_path: str) -> VerifiedCommand:
        """Check a command; ``search_path`` is the PATH that its process will have.

        Raises:
            PluginRefused: it may not run.
        """
        plugin = self._plugin
        self._check_directory()
        command = take_apart(plugin.argv, plugin.entry, plugin.working_directory, search_path)
        if command.program is None:
            if self._required:
                found = "there is no such program"
                raise self._trust.refusal(Check.PROGRAM_EXISTS, command.words[0], found)
            return VerifiedCommand(list(command.words), None)  # starting it will say so best
        with self._open(command.program) as program:
            if command.entry == 0:
                return self._checked(command, program)
        if command.entry_path is None:
            if self._required or plugin.entry is not None:
                raise self._trust.refusal(
                    Check.ENTRY,
                    " ".join(command.words),
                    "it cannot be told which of these words is the plugin's own file",
                )
            return VerifiedCommand(list(command.words), command.program)
        with self._open(command.entry_path) as script:
            return self._checked(command, script)

    def module(self) -> VerifiedModule:
        """Check the package that a ``module`` is in.

        Raises:
            PluginRefused: it may not be imported.
        """
        plugin = self._plugin
        name = (plugin.module or "").partition(":")[0]
        package = name.partition(".")[0]
        if plugin.path is None and not self._named and is_own(package):
            return VerifiedModule(name, self._label)
        path = locate(package, plugin.path)
        if path is None:
            if self._required or plugin.path is not None:
                found = f"there is no package {package!r} of Python source"
                raise self._trust.refusal(Check.PACKAGE_EXISTS, plugin.path or package, found)
            return VerifiedModule(name, self._label)
        with self._trust.open(path) as opened:
            tree = read_tree(opened, self._trust)
        verdict = self._judge.judge(tree.content, plugin)
        from_tree = verdict.vouched or plugin.path is not None
        return VerifiedModule(name, self._label, tree if from_tree else None, verdict)

    def path(self, path: str) -> Verdict:
        """Check a file or a package's directory, whatever plugin it may belong to.

        Raises:
            PluginRefused: it may not run.
        """
        with self._trust.open(path) as opened:
            return self._judge.judge(content_of(opened, self._trust), self._plugin)

    def library(self) -> Verdict:
        """Check a native library.

        Raises:
            PluginRefused: it may not be loaded.
        """
        with self._open(self._plugin.library or "") as library:
            return self._judge.judge(content_of(library, self._trust), self._plugin)

    def sealed(self, path: str, words: Callable[[int], list[str]]) -> VerifiedCommand:
        """Check a file, and have ``words`` make the command that is given the descriptor of a copy:
        what was checked is what its process reads, whatever becomes of the file.

        Raises:
            PluginRefused: it may not run.
        """
        with self._open(path) as opened:
            copy, digest = sealed_copy(opened, self._trust)
            try:
                verdict = self._judge.judge(Content(opened.path, digest), self._plugin)
            except BaseException:
                os.close(copy)
                raise
        return VerifiedCommand(words(copy), None, (copy,), verdict)

    def _check_directory(self) -> None:
        """The directory to run in, from which ``python -m`` and others take code."""
        directory = self._plugin.working_directory
        # Entering one that is not there fails when the process starts, which says so best.
        if directory is not None and Path(directory).is_dir():
            with self._trust.open(directory):
                pass

    @contextmanager
    def _open(self, path: str) -> Iterator[Opened]:
        """A regular file that only trusted users can have written."""
        with self._trust.open(path) as opened:
            if not opened.is_file:
                raise self._trust.not_regular(opened.status, opened.path)
            yield opened

    def _checked(self, command: Command, file: Opened) -> VerifiedCommand:
        """Judge the plugin's file; what was pinned or signed runs from its sealed copy."""
        if not self._comparable:
            verdict = self._judge.judge(content_of(file, self._trust), self._plugin)
            return VerifiedCommand(list(command.words), command.program, (), verdict)
        copy, digest = sealed_copy(file, self._trust)
        try:
            verdict = self._judge.judge(Content(file.path, digest), self._plugin)
            if verdict.vouched and command.entry == 0 and not file.status.st_mode & 0o111:
                found = f"it is not executable (mode {stat.S_IMODE(file.status.st_mode):04o})"
                raise self._trust.refusal(Check.EXECUTABLE, file.path, found)
        except BaseException:
            os.close(copy)
            raise
        if not verdict.vouched:
            os.close(copy)
            return VerifiedCommand(list(command.words), command.program, (), verdict)
        return _from_copy(command, copy, verdict)


def _from_copy(command: Command, copy: int, verdict: Verdict) -> VerifiedCommand:
    """The command with its file replaced by the descriptor of a copy."""
    words = list(command.words)
    place = f"/proc/self/fd/{copy}"
    if command.entry == 0:
        return VerifiedCommand(words, place, (copy,), verdict)
    assert command.entry is not None  # noqa: S101 - for mypy: only known files are judged
    words[command.entry] = place
    if command.interpreter is not None:
        words[1:1] = command.interpreter.for_descriptor
    return VerifiedCommand(words, command.program, (copy,), verdict)
