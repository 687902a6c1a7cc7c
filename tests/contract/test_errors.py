"""The tree drawn in the module's docstring must be the tree that Python sees."""

import inspect
import re

import pytest

from prism.config.errors import ConfigError, ConfigProblem
from prism.contract import errors
from prism.contract.errors import CallError, PluginError, PrismError, UnknownOperation
from prism.contract.status import StatusCode


def drawn() -> list[tuple[int, str, str]]:
    """(depth, class name, HTTP status or "") for every line of the drawing."""
    found = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)(?: +(\d{3}|---))?", line)
        if match:
            found.append((len(match[1]) // 4, match[2], match[3] or ""))
    return found


def actual(kind: type[PrismError] = PrismError, depth: int = 0) -> list[tuple[int, str]]:
    found = [(depth, kind.__name__)]
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            found += actual(child, depth + 1)
    return found


def test_the_drawing_shows_every_class_at_its_place() -> None:
    assert [(depth, name) for depth, name, _ in drawn()] == actual()


def test_the_drawing_shows_the_http_statuses() -> None:
    for _, name, status in drawn():
        if status.isdigit():
            assert getattr(errors, name).http_status == int(status), name


def call_errors() -> list[type[CallError]]:
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, CallError)
    ]


@pytest.mark.parametrize("kind", call_errors(), ids=lambda kind: kind.__name__)
def test_call_errors_have_a_status_and_a_reason(kind: type[CallError]) -> None:
    assert kind.status is not StatusCode.OK
    assert 400 <= kind.http_status < 600
    assert re.fullmatch(r"[a-z_]+", kind.reason)


def test_a_call_that_may_have_run_is_never_called_retryable() -> None:
    for kind in (
        errors.PluginCrashed,
        errors.PluginMisbehaved,
        errors.DeadlineExceeded,
        errors.Draining,
        PluginError,
    ):
        assert not kind.retryable


@pytest.mark.parametrize("status", [code for code in StatusCode if code is not StatusCode.OK])
def test_a_plugin_error_maps_to_an_http_error(status: StatusCode) -> None:
    error = PluginError(status, "no such row")
    assert error.http_status >= 400
    assert str(error) == "no such row"
    assert status.name in str(PluginError(status, ""))


def test_statuses_from_the_wire() -> None:
    assert StatusCode.from_wire(5) is StatusCode.NOT_FOUND
    assert StatusCode.from_wire(17) is StatusCode.UNKNOWN
    assert StatusCode.from_wire(-1) is StatusCode.UNKNOWN


def test_a_config_error_lists_every_problem_with_its_place() -> None:
    problems = [
        ConfigProblem("a.yaml", 3, 7, "listen.port", "is no number"),
        ConfigProblem("a.yaml", 0, 0, "", "is empty"),
    ]
    assert str(ConfigError(problems)) == "a.yaml:3:7: listen.port: is no number\na.yaml: is empty"


def test_an_unknown_operation_says_what_there_is() -> None:
    assert str(UnknownOperation("demo", "gett", ["set", "get"])) == (
        "namespace 'demo' has no operation 'gett'; did you mean 'get'? it offers: get, set"
    )
    assert "'nope'; it offers: get, set" in str(UnknownOperation("demo", "nope", ["set", "get"]))
    assert "offers: none" in str(UnknownOperation("demo", "gett", []))
