import inspect
import json

import pytest

from prism.calls.request import CallRecord
from prism.calls.trace import new_trace
from prism.config.errors import ConfigError, ConfigProblem
from prism.contract import errors
from prism.contract.status import StatusCode
from prism.control.live_config import InvalidConfig
from prism.frontends.problems import problem

ARGUMENTS = {
    "detail": "why",
    "error": ConfigError([ConfigProblem("f", 1, 2, "listen", "no")]),
    "encoding": "br",
    "origin": "https://elsewhere.example",
    "known": ["identity"],
    "whose": "namespace 'kv'",
    "limit": 3,
    "namespace": "kv",
    "operation": "get",
    "supported": ["set"],
    "method": "PUT",
    "path": "/v1",
    "allowed": ["GET", "HEAD"],
    "status": StatusCode.ABORTED,
}


def example(kind):
    wanted = inspect.signature(kind).parameters.values()
    return kind(*(ARGUMENTS[each.name] for each in wanted if each.default is each.empty))


def kinds(kind=errors.CallError):
    return [kind, *(found for sub in kind.__subclasses__() for found in kinds(sub))]


def test_each_problem_of_a_configuration_has_its_place():
    error = example(InvalidConfig)
    _, _, body = problem(error, CallRecord(0.0, "id-1", new_trace()))
    assert json.loads(body)["problems"] == [
        {"file": "f", "line": 1, "column": 2, "path": "listen", "message": "no"}
    ]


@pytest.mark.parametrize("kind", kinds())
def test_every_error_has_an_answer(kind):
    error = example(kind)
    record = CallRecord(0.0, "id-1", new_trace(), namespace="kv", operation="get")
    status, headers, body = problem(error, record)
    document = json.loads(body)
    assert status == document["status"] == error.http_status
    assert document["code"] == error.status.name
    assert (document["reason"], document["detail"]) == (error.reason, str(error))
    assert (document["request_id"], document["namespace"]) == ("id-1", "kv")
    assert document["title"]
    assert ("retry-after" in {name.decode() for name, _ in headers}) == (status in {429, 503})


@pytest.mark.parametrize("status", StatusCode)
def test_every_status_of_a_plugin_has_an_answer(status):
    record = CallRecord(0.0, "id-1", new_trace())
    answer = problem(errors.PluginError(status, "\ud800\n"), record)
    assert json.loads(answer.body)["detail"] == "?\n"


def test_allow_names_the_methods():
    error = errors.MethodNotAllowed("PUT", "/v1", ["GET", "HEAD"])
    headers = dict(problem(error, CallRecord(0.0, "id", new_trace())).headers)
    assert headers[b"allow"] == b"GET, HEAD"
