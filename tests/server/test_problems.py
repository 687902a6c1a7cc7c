import inspect
import json
import math

import pytest

from prism.config.errors import ConfigError, ConfigProblem
from prism.contract import errors
from prism.contract.status import StatusCode
from prism.control.live_config import InvalidConfig
from prism.server.problems import BadRequest, problem

ARGUMENTS = {
    "detail": "why",
    "logged": "something is refused",
    "error": ConfigError([ConfigProblem("f", 1, 2, "listen", "no")]),
    "encoding": "br",
    "content_type": "application/msgpack",
    "origin": "https://elsewhere.example",
    "known": ["identity"],
    "whose": "namespace 'kv'",
    "why": "the disk is full",
    "limit": 3,
    "of": "all clients' requests",
    "size": 7,
    "namespace": "kv",
    "operation": "get",
    "supported": ["set"],
    "method": "PUT",
    "path": "/v1",
    "allowed": ["GET", "HEAD"],
    "status": StatusCode.ABORTED,
    "per": "namespace",
    "calls_per_second": 10.0,
    "burst": 20,
    "cost": 1,
    "priority": "low",
    "retry_after": 1.5,
}


def example(kind):
    wanted = inspect.signature(kind).parameters.values()
    return kind(
        **{each.name: ARGUMENTS[each.name] for each in wanted if each.default is each.empty}
    )


def kinds(kind=errors.CallError):
    """The errors of calls, but those that plugins make of their own."""
    below = [sub for sub in kind.__subclasses__() if sub.__module__.startswith("prism.")]
    return [kind, *(found for sub in below for found in kinds(sub))]


def test_each_problem_of_a_configuration_has_its_place():
    error = example(InvalidConfig)
    _, _, body = problem(error, "id-1")
    assert json.loads(body)["problems"] == [
        {"file": "f", "line": 1, "column": 2, "path": "listen", "message": "no"}
    ]


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind is not BadRequest])
def test_every_error_has_an_answer(kind):
    error = example(kind)
    status, headers, body = problem(error, "id-1", "kv", "get")
    document = json.loads(body)
    assert status == document["status"] == error.http_status
    assert document["code"] == error.status.name
    assert (document["reason"], document["detail"]) == (error.reason, str(error))
    assert (document["request_id"], document["namespace"]) == ("id-1", "kv")
    assert document["title"]
    # Not where an operator decides on when to come again.
    tells_when = status in {429, 503} and error.retry_after != math.inf
    assert ("retry-after" in {name.decode() for name, _ in headers}) == tells_when


@pytest.mark.parametrize("status", StatusCode)
def test_every_status_of_a_plugin_has_an_answer(status):
    answer = problem(errors.PluginError(status, "\ud800\n"), "id-1")
    assert json.loads(answer.body)["detail"] == "?\n"


def test_allow_names_the_methods():
    error = errors.MethodNotAllowed("PUT", "/v1", ["GET", "HEAD"])
    headers = dict(problem(error, "id").headers)
    assert headers[b"allow"] == b"GET, HEAD"


@pytest.mark.parametrize("status", BadRequest._KINDS)
def test_what_the_server_refuses_is_said_as_everything_else(status):
    """As the front ends say it, where they have an error for it."""
    error = BadRequest(status, "why")
    answered, headers, body = problem(error, "id")
    document = json.loads(body)
    assert answered == document["status"] == status
    assert document["title"]
    like = {
        400: errors.InvalidRequest,
        408: errors.RequestTimeout,
        500: errors.InternalError,
        503: errors.Draining,
    }.get(status)
    if like is not None:
        told = (document["code"], document["reason"], document["retryable"])
        assert told == (like.status.name, like.reason, like.retryable)
    assert ((b"sec-websocket-version", b"13") in headers) == (status == 426)


@pytest.mark.parametrize(
    ("known", "told"), [(None, b"1"), (0.0, b"1"), (2.1, b"3"), (math.inf, None)]
)
def test_when_to_come_again(known, told):
    error = errors.PluginUnavailable("gone", retry_after=known)
    assert dict(problem(error, "id").headers).get(b"retry-after") == told


def test_who_must_say_who_it_is_is_told_how():
    headers = dict(problem(errors.Unauthenticated("show the token"), "id").headers)
    assert headers[b"www-authenticate"] == b'Bearer realm="prism"'


def test_whose_credential_does_not_suffice_is_told_so():
    headers = dict(problem(errors.Forbidden("no", shown=True), "id").headers)
    assert headers[b"www-authenticate"] == b'Bearer realm="prism", error="insufficient_scope"'
    assert b"www-authenticate" not in dict(problem(errors.Forbidden("no page"), "id").headers)
