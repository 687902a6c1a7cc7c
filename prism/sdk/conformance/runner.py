"""Plays the cases against a plugin, one after another, and gathers what was found.

Cases that leave a connection as they found it share one. The others have connections of their own,
which with a program that is started means a process each.
"""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Literal

import msgspec

from prism.contract.redaction import Redaction
from prism.contract.service import Method
from prism.sdk.conformance.facts import CANARY, Facts, Setup
from prism.sdk.conformance.link import Answer, Limits, Link
from prism.sdk.conformance.rules import (
    CASES,
    RULES,
    WATCHED,
    Case,
    Needs,
    Rule,
    Skipped,
    Violation,
)
from prism.sdk.conformance.target import DiallingIn, Running, Target
from prism.sdk.conformance.watch import SECRETS

Outcome = Literal["passed", "failed", "skipped"]

SHOWN_OUTPUT = 20
"""Lines that the plugin wrote which are shown beside a case that failed."""


class Result(msgspec.Struct, frozen=True):
    """What was found of one rule. ``found``: what was wrong, or why it was not tried; ``frames``:
    those that show it; ``output``: what the plugin wrote then."""

    rule: Rule
    outcome: Outcome
    found: list[str] = []
    frames: list[str] = []
    output: list[str] = []
    seconds: float = 0.0


class Report(msgspec.Struct, frozen=True):
    """The results in the order of the rules; ``plugin`` is what its HELLO said."""

    plugin: str
    results: list[Result]

    def count(self, outcome: Outcome, severity: str | None = None) -> int:
        """How many results are so."""
        return sum(
            each.outcome == outcome and severity in (None, each.rule.severity)
            for each in self.results
        )

    def problems(self) -> list[str]:
        """What was found wrong, a line each."""
        return [
            f"{each.rule.id} ({each.rule.severity}): {'; '.join(each.found)}"
            for each in self.results
            if each.outcome == "failed"
        ]

    @property
    def conforms(self) -> bool:
        """Is no rule broken that a plugin must keep?"""
        return self.count("failed", "must") == 0


class Trial:
    """What a case plays with."""

    def __init__(self, target: Target, setup: Setup) -> None:
        self.target = target
        self.setup = setup
        self.facts = Facts(setup)
        self.timeout = target.timeout
        self.begun: list[Running] = []
        self.dials: bool | None = None  # does it dial in, as far as that was tried?
        self._shared: Running | None = None

    # -- connections ----------------------------------------------------------

    def fresh(self, limits: Limits | None = None, chunk: int = 0) -> Running:
        """A new connection, on which nothing has been said."""
        if self.target.dials_in:
            self.end_shared()
            self.end_begun()  # it dials again when it is left
        running = self.target.connect(limits, chunk)
        self.begun.append(running)
        return running

    def greeted(self, limits: Limits | None = None, **options: Any) -> Running:
        """A new connection with both HELLOs said."""
        running = self.fresh(limits, options.pop("chunk", 0))
        running.link.handshake(**options)
        return running

    def ready(self, limits: Limits | None = None, **options: Any) -> Running:
        """A new connection to an initialized plugin."""
        running = self.greeted(limits, **options)
        self.initialize(running.link)
        return running

    def initialize(self, link: Link) -> Answer:
        """Initialize as it has to succeed.

        Raises:
            Violation: it did not.
        """
        answer = link.call(Method.INITIALIZE, self.setup.initialize())
        if not answer.ok or not answer.message.get("success"):
            error = answer.message.get("error") or f"status {answer.status}"
            raise Violation(
                f"Initialize failed: {error}; give the plugin what it needs by --config and "
                "--credentials"
            )
        return answer

    def shared(self) -> Link:
        """The connection that cases share; initialized."""
        if self._shared is None or self._shared.link.ended:
            self.end_shared()
            running = self.target.connect()
            self._shared = running
            self.facts.offer = running.link.handshake()
            answer = self.initialize(running.link)
            self.facts.learn(answer, running.link)
        return self._shared.link

    @property
    def shared_running(self) -> Running | None:
        """The shared connection, if there is one."""
        return self._shared

    def end_shared(self) -> None:
        """Let the shared connection go, as a host that is done does."""
        running, self._shared = self._shared, None
        if running is None:
            return
        with suppress(Violation):
            if not running.link.ended:
                running.link.call(Method.SHUTDOWN, {"timeout_seconds": 5, "reason": "done"})
                running.link.expect_end("after Shutdown")
        self.begun.append(running)
        running.end()

    def end_begun(self) -> None:
        """End the connections of the case."""
        for running in self.begun:
            running.end()
        if isinstance(self.target, DiallingIn) and any(
            not each.link.watch.has_closed for each in self.begun
        ):
            self.target.restart()  # one that was refused waits before it dials again

    # -- what a case may ask of the plugin ------------------------------------

    def learned(self) -> Facts:
        """What is known of the plugin, asked for if it is not known yet."""
        if self.facts.answer is None:
            self.shared()
        return self.facts


def run(
    target: Target,
    setup: Setup | None = None,
    *,
    only: Collection[str] = (),
    on_result: Callable[[Result], None] | None = None,
) -> Report:
    """Try every rule, or those in ``only``; ``on_result`` hears each result as it comes.

    Raises:
        CannotStart: the plugin cannot be started or reached.
        KeyError: there is no such rule.
    """
    setup = setup or Setup()
    for name in only:
        if name not in RULES:
            raise KeyError(name)
    wanted = set(only) or set(RULES)
    watching = wanted & WATCHED
    trial = Trial(target, setup)
    target.redaction = Redaction({**setup.credentials, CANARY: setup.canary})
    gathered = _Watched(target.redaction)
    results: dict[str, Result] = {}
    tell = on_result or (lambda result: None)
    cases = sorted(CASES, key=lambda case: case.needs is not Needs.SHARED)
    try:
        for case in cases:
            if case.rule.id not in wanted and not _shows(case, watching, only):
                continue
            result = _play(trial, case, gathered)
            if case.rule.id in wanted:
                results[case.rule.id] = result
                tell(result)
        trial.end_shared()
        gathered.take(trial, "the end")
    finally:
        trial.end_shared()
        trial.end_begun()
        target.close()
    for name in RULES:
        if name in watching:
            results[name] = gathered.result(name)
            tell(results[name])
    order = {name: at for at, name in enumerate(RULES)}
    return Report(
        plugin=trial.facts.name, results=sorted(results.values(), key=lambda r: order[r.rule.id])
    )


_SHOW = {
    "credit-obeyed": "stream-credit",
    "no-data-after-end": "stream-credit",
    "frame-length": "too-large",
}
"""Cases with connections of their own that are needed for a rule which is watched."""


def _shows(case: Case, watching: Collection[str], only: Collection[str]) -> bool:
    """Is ``case`` played for the rules that are watched? If they alone are asked for, those on the
    shared connection suffice."""
    if not only:
        return bool(watching)
    needed = {_SHOW.get(name) for name in watching}
    return bool(watching) and (case.needs is Needs.SHARED or case.rule.id in needed)


def _play(trial: Trial, case: Case, gathered: "_Watched") -> Result:
    begun = time.monotonic()
    trial.begun = []
    found: list[str] = []
    outcome: Outcome = "passed"
    shared = case.needs is Needs.SHARED
    try:
        if shared:
            trial.shared()
        case.play(trial)
        if shared:
            link = trial.shared_running.link if trial.shared_running else None
            if link is not None:
                link.ping()  # whatever the case left to come has come
    except Skipped as error:
        outcome, found = "skipped", [str(error)]
    except Violation as error:
        outcome, found = "failed", [trial.target.redaction.text(str(error))]
    for running in trial.begun:
        trial.facts.offer = trial.facts.offer or running.link.offer
    frames: list[str] = []
    output: list[str] = []
    if outcome == "failed":
        involved = trial.begun or ([trial.shared_running] if trial.shared_running else [])
        for number, running in enumerate(involved):
            if number:
                frames.append("--- another connection")
            frames += running.link.seen()
    if outcome == "failed" and shared:
        trial.end_shared()
        if isinstance(trial.target, DiallingIn):
            trial.target.restart()
    trial.end_begun()
    if outcome == "failed":
        for running in trial.begun:
            output += running.output.splitlines()[-SHOWN_OUTPUT:]
    gathered.take(trial, case.rule.id)
    text = trial.target.redaction.text
    return Result(
        case.rule,
        outcome,
        found,
        frames,
        [text(line) for line in output],
        round(time.monotonic() - begun, 3),
    )


class _Watched:
    """What the watches of all connections have found, by rule."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._applied: set[str] = set()
        self._found: dict[str, list[str]] = {}
        self._frames: dict[str, list[str]] = {}
        self._looked_at: dict[int, int] = {}

    def take(self, trial: Trial, case: str) -> None:
        """Look at the connections that ``case`` used."""
        all_running = list(trial.begun)
        if trial.shared_running is not None:
            all_running.append(trial.shared_running)
        for running in all_running:
            watch = running.link.watch
            self._applied |= watch.applied
            seen = self._looked_at.get(id(watch), 0)
            for each in watch.found[seen:]:
                self._add(each.rule, f"in {case}: {each.what}", running.link)
            self._looked_at[id(watch)] = len(watch.found)
            output = running.output
            if output:
                self._applied.add(SECRETS)
            if self._redaction.text(output) != output:
                lines = output.splitlines()
                told = [line for line in lines if self._redaction.text(line) != line]
                line = self._redaction.text(told[0] if told else "several lines")
                self._add(SECRETS, f"in {case}, its output: {line}", running.link)

    def _add(self, rule: str, what: str, link: Link) -> None:
        found = self._found.setdefault(rule, [])
        if len(found) < 5 and what not in found:
            found.append(what)
        self._frames.setdefault(rule, link.seen())

    def result(self, name: str) -> Result:
        """What there is to say of a rule."""
        rule = RULES[name]
        if found := self._found.get(name):
            return Result(rule, "failed", found, self._frames[name])
        if name not in self._applied:
            return Result(rule, "skipped", ["no frame of the kind came"])
        return Result(rule, "passed")
