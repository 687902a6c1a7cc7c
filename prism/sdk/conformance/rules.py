"""The rules that a plugin is held to: each is a sentence of docs/protocol.md.

A rule is either *tried* by a case, a function that plays a host and looks at what the plugin does,
or *watched*: it is about every frame, and whatever frames come in any case are held to it.
``schemas/conformance/rules.json`` is made from this table.
"""

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from prism.sdk.conformance.runner import Trial

Severity = Literal["must", "should"]


class Needs(Enum):
    """What a case plays on."""

    SHARED = "shared"
    """A connection that is initialized, and is left as it was found."""
    FRESH = "fresh"
    """Connections of its own."""


class Rule(msgspec.Struct, frozen=True):
    """One rule. ``sentence`` is on the page, word for word, in ``section``; ``fix`` is the way
    out for who breaks it. ``must``: a host relies on it; ``should``: it can live without."""

    id: str
    title: str
    section: str
    sentence: str
    fix: str
    severity: Severity = "must"


class Case(msgspec.Struct, frozen=True):
    """How a rule is tried."""

    rule: Rule
    play: "Callable[[Trial], None]"
    needs: Needs


RULES: dict[str, Rule] = {}
"""All rules by id, in the order of a report."""
CASES: list[Case] = []
"""The cases of those that are tried."""
WATCHED: set[str] = set()
"""The ids of those that are watched."""


def add(rule: Rule) -> Rule:
    """Enter a rule into the table."""
    if rule.id in RULES:
        raise ValueError(f"there are two rules {rule.id}")
    RULES[rule.id] = rule
    return rule


def watched(
    name: str, section: str, title: str, sentence: str, fix: str, severity: Severity = "must"
) -> str:
    """Declare a rule to which every frame is held; returns its id."""
    add(Rule(name, title, section, sentence, fix, severity))
    WATCHED.add(name)
    return name


def tried(
    name: str,
    section: str,
    title: str,
    sentence: str,
    fix: str,
    *,
    needs: Needs = Needs.FRESH,
    severity: Severity = "must",
) -> "Callable[[Callable[[Trial], None]], Callable[[Trial], None]]":
    """Declare a rule, and the case that tries it."""
    rule = add(Rule(name, title, section, sentence, fix, severity))

    def decorate(play: "Callable[[Trial], None]") -> "Callable[[Trial], None]":
        CASES.append(Case(rule, play, needs))
        return play

    return decorate


class Violation(Exception):
    """The plugin broke the rule of this case; says how."""


class Skipped(Exception):
    """This case cannot be applied to this plugin; says why."""
