"""Does a plugin keep the frame protocol? A host that tries it, rule by rule of docs/protocol.md.

::

    from prism.sdk.conformance import Setup, Spawned, run

    report = run(Spawned(["./echo"], timeout=10), Setup(config={"size": 3}))
    assert report.conforms, "\\n".join(report.problems())

``prism plugin test`` is the same as a command. The plugin may be in any language: all that it needs
is the protocol. Standard library and msgspec alone; no event loop.
"""

from prism.sdk.conformance import cases_opening  # noqa: F401, I001 - the order of the report
from prism.sdk.conformance import cases_calls, cases_ending, cases_streams  # noqa: F401 - as above
from prism.sdk.conformance.facts import Setup
from prism.sdk.conformance.rules import RULES, Rule
from prism.sdk.conformance.runner import Report, Result, run
from prism.sdk.conformance.target import CannotStart, DiallingIn, Listening, Spawned, Target

__all__ = [
    "RULES",
    "CannotStart",
    "DiallingIn",
    "Listening",
    "Report",
    "Result",
    "Rule",
    "Setup",
    "Spawned",
    "Target",
    "run",
]
