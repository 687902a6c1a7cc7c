"""What a message advises, value by value."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("insecure: 'true'", 'expected true or false, found the text "true"; remove the quotes'),
        ("insecure: maybe", 'expected true or false, found the text "maybe"'),
        ("insecure: 1", "expected true or false, found the number 1"),
        ("listen: {port: '80'}", 'from 0 to 65535, found the text "80"; remove the quotes'),
        ("listen: {port: 80.0}", "from 0 to 65535, found the number 80.0"),
        ("listen: {port: true}", "from 0 to 65535, found true"),
        ("listen: {port: http}", 'from 0 to 65535, found the text "http"'),
        ("listen: {address: 127}", 'expected text, found the number 127; put it in quotes: "127"'),
        (
            "listen: {address: no}",
            'expected text, found false (written no); put it in quotes: "no"',
        ),
        ("log: {level: 5}", "expected one of debug, error, info, warning, found the number 5"),
        ("log: {level: Warn}", 'found the text "Warn"; did you mean "warning"?'),
        ("log:", "expected a mapping, found nothing (null); remove the key, or give it a value"),
        ("namespaces: {a: b}", 'expected a list, found a mapping; begin each item with "- "'),
        ("namespaces: [a]", "expected a mapping, found text"),
        ("secrets: {directory: ''}", 'expected text that is not empty, found the text ""'),
        ("secrets: {directory: [a]}", "expected text that is not empty, found a list"),
        ("secrets: {directorys: a}", 'did you mean "directory"?'),
        ("port: 80", 'unknown key; "port" belongs inside "listen"'),
    ],
)
def test_what_is_said(problems: Callable[[str], list[str]], text: str, message: str) -> None:
    (problem,) = problems(text)
    assert problem.endswith(message) or message in problem


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("yes", "expected text, found true or false; put it in quotes"),
        ("1.5", "expected text, found a number; put it in quotes"),
        ("[a]", "expected text, found a list"),
        ("~", "expected text, found nothing (null); remove the key, or give it a value"),
    ],
)
def test_what_is_said_of_a_credential(
    problems: Callable[[str], list[str]], value: str, message: str
) -> None:
    text = f"namespaces: [{{name: a, backend: sqlite, credentials: {{k: {value}}}}}]"
    (problem,) = problems(text)
    assert problem.endswith(f"credentials.k: {message}")
