"""How results are written: for people, as JSON, as JUnit XML for a CI."""

import json
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import quoteattr

import msgspec

from prism.sdk.conformance.rules import RULES, WATCHED
from prism.sdk.conformance.runner import Report, Result


def as_lines(result: Result) -> Iterator[str]:
    """A result for people: one line, and below what is needed to mend it."""
    rule = result.rule
    if result.outcome == "passed":
        yield f"pass  {rule.id}: {rule.title}"
        return
    if result.outcome == "skipped":
        yield f"skip  {rule.id}: {result.found[0]}"
        return
    yield f"{'FAIL' if rule.severity == 'must' else 'warn'}  {rule.id}: {rule.title}"
    for what in result.found:
        yield f"      {what}"
    yield f"      section {rule.section}: {one_line(rule.sentence)}"
    yield f"      way out: {rule.fix}"
    if result.frames:
        yield "      frames (-> host, <- plugin):"
        for line in result.frames:
            yield f"        {line}"
    if result.output:
        yield "      the plugin wrote:"
        for line in result.output:
            yield f"        {line}"


def summary(report: Report) -> str:
    """The last line for people."""
    failed, warned = report.count("failed", "must"), report.count("failed", "should")
    return (
        f"{report.plugin}: {report.count('passed')} passed, {failed} failed, {warned} warned, "
        f"{report.count('skipped')} skipped"
    )


def one_line(text: str) -> str:
    """``text`` with its line breaks as blanks."""
    return " ".join(text.split())


def as_data(report: Report) -> dict[str, Any]:
    """For programs."""
    return {
        "plugin": report.plugin,
        "conforms": report.conforms,
        "counts": {
            "passed": report.count("passed"),
            "failed": report.count("failed", "must"),
            "warned": report.count("failed", "should"),
            "skipped": report.count("skipped"),
        },
        "results": [
            {
                **msgspec.to_builtins(each.rule),
                "sentence": one_line(each.rule.sentence),
                **{k: v for k, v in msgspec.to_builtins(each).items() if k != "rule"},
            }
            for each in report.results
        ],
    }


def rules_as_data() -> list[dict[str, Any]]:
    """All rules for programs; ``tried``: by a case of its own, or else in all."""
    return [
        {
            **msgspec.to_builtins(rule),
            "sentence": one_line(rule.sentence),
            "tried": rule.id not in WATCHED,
        }
        for rule in RULES.values()
    ]


def as_json(report: Report) -> str:
    """JSON text."""
    return json.dumps(as_data(report), indent=2, ensure_ascii=False)


def as_junit(report: Report) -> str:
    """JUnit XML, one test case a rule; a SHOULD that is broken is told in ``system-out``."""
    failed, skipped = report.count("failed", "must"), report.count("skipped")
    seconds = sum(each.seconds for each in report.results)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f"<testsuite name={quoteattr('prism plugin test ' + printable(report.plugin))} "
        f'tests="{len(report.results)}" '
        f'failures="{failed}" errors="0" skipped="{skipped}" time="{seconds:.3f}">',
    ]
    for each in report.results:
        name = f'name={quoteattr(each.rule.id)} classname="section-{each.rule.section}"'
        lines.append(f'  <testcase {name} time="{each.seconds:.3f}">')
        text = printable("\n".join(as_lines(each)))
        if each.outcome == "skipped":
            lines.append(f"    <skipped message={quoteattr(printable(each.found[0]))}/>")
        elif each.outcome == "failed" and each.rule.severity == "must":
            message = quoteattr(printable("; ".join(each.found)))
            lines.append(f"    <failure message={message}>{escaped(text)}</failure>")
        elif each.outcome == "failed":
            lines.append(f"    <system-out>{escaped(text)}</system-out>")
        lines.append("  </testcase>")
    return "\n".join([*lines, "</testsuite>"])


def escaped(text: str) -> str:
    """``text`` within an XML element."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def printable(text: str) -> str:
    """``text`` without what XML, or a terminal, cannot have."""
    return "".join(
        each if each in "\n\t" or each.isprintable() else each.encode("unicode_escape").decode()
        for each in text
    )
