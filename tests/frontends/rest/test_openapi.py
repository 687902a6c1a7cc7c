"""What is told of operations, and to whom."""

import json
import os

import msgspec
import pytest

from prism.access.authentication import Authentication
from prism.access.identity import Identity
from prism.access.permissions import AccessTable
from prism.config.types import NamespaceAccess
from prism.contract.messages import OperationAccess, OperationDeclaration
from prism.frontends.rest.describe import description
from prism.frontends.rest.openapi import openapi
from prism.sdk.declaration import declare
from prism_plugins.sqlite import SQLitePlugin

TREE = {
    "$ref": "#/$defs/Tree",
    "$defs": {"Tree": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
}
DECLARED = [
    OperationDeclaration(
        name="get",
        idempotent=True,
        access=OperationAccess.READ,
        description="Read it.\nAnd no more.",
        params_schema='{"type":"object","required":["key"]}',
        result_schema=json.dumps(TREE),
    ),
    OperationDeclaration(name="set", access=OperationAccess.WRITE),
    OperationDeclaration(
        name="watch",
        streaming=True,
        access=OperationAccess.READ,
        result_schema='{"type":"string"}',
    ),
    OperationDeclaration(
        name="scan",
        also_streaming=True,
        access=OperationAccess.READ,
        params_schema='{"title":"page"}',
        result_schema='{"type":"array"}',
        stream_params_schema='{"title":"all"}',
        stream_result_schema='{"type":"object"}',
    ),
]


def validate(described: dict) -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("openapi_spec_validator", reason="make installs it")
    from openapi_spec_validator import OpenAPIV31SpecValidator

    OpenAPIV31SpecValidator(described).validate()


@pytest.fixture
def namespace(make_namespace):
    made = make_namespace()
    instance = made.slot.current
    instance.operations.clear()
    instance.operations.update({declared.name: declared for declared in DECLARED})
    instance.groups = ["key_value"]
    return made


async def test_it_is_served(namespace, make_client):
    client = make_client(namespace)
    answer = await client.request("GET", "/v1/kv/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json == openapi(namespace)
    for path, status in (("/v1/nope/openapi.json", 404), ("/v1/kv/openapi.yaml", 400)):
        assert (await client.request("GET", path)).status == status
    assert (await client.request("POST", "/v1/kv/openapi.json", b"{}")).status == 405


def test_calls_and_streams(namespace):
    described = openapi(namespace)
    validate(described)
    assert sorted(described["paths"]) == [
        "/v1/kv/get", "/v1/kv/scan", "/v1/kv/set", "/v1/kv/watch"
    ]  # fmt: skip
    operations = {
        path.rpartition("/")[2]: item["post"] for path, item in described["paths"].items()
    }
    schemas = described["components"]["schemas"]
    contents = {name: each["responses"]["200"]["content"] for name, each in operations.items()}
    streams = {"text/event-stream", "application/x-ndjson"}
    assert set(contents["watch"]) == streams
    assert set(contents["scan"]) == {"application/json", *streams}
    message = contents["scan"]["application/x-ndjson"]["schema"]
    assert message == {"$ref": "#/components/schemas/scan.message"}
    assert schemas["scan.message"] == {"type": "object"}
    bodies = {
        name: each["requestBody"]["content"]["application/json"]["schema"]
        for name, each in operations.items()
    }
    assert bodies["scan"] == {
        "anyOf": [
            {"$ref": "#/components/schemas/scan.params"},
            {"$ref": "#/components/schemas/scan.stream_params"},
        ]
    }
    assert bodies["set"] == {"type": "object"}
    assert contents["set"] == {"application/json": {"schema": {}}}
    required = {name for name, each in operations.items() if each["requestBody"]["required"]}
    assert required == {"get"}
    assert operations["get"]["summary"] == "Read it."
    assert operations["get"]["x-prism-access"] == "read"


def test_references_within_a_schema_move_with_it(namespace):
    found = openapi(namespace)["components"]["schemas"]["get.result"]
    assert found["$ref"] == "#/components/schemas/get.result/$defs/Tree"
    assert found["$defs"]["Tree"]["items"] == {"$ref": found["$ref"]}


def test_only_what_the_caller_may_use_is_told(namespace):
    rules = {"allow": [{"who": ["reader"], "permissions": ["read"]}]}
    namespace.access = AccessTable("kv", msgspec.convert(rules, NamespaceAccess))
    reader = Identity("reader")
    described = openapi(namespace, reader)
    validate(described)
    assert "/v1/kv/set" not in described["paths"]
    assert set(described["paths"]) == {"/v1/kv/get", "/v1/kv/scan", "/v1/kv/watch"}
    assert set(description(namespace, reader)["operations"]) == {"get", "scan", "watch"}
    assert openapi(namespace, Identity("other"))["paths"] == {}


def test_how_callers_say_who_they_are(namespace):
    assert "security" not in openapi(namespace)
    certificates = Authentication(certificate_name="common_name")
    described = openapi(namespace, authentication=certificates)
    validate(described)
    assert described["security"] == [{"certificate": []}]


def test_a_namespace_without_a_plugin(namespace):
    namespace.slot.current = None
    namespace.slot.operations = {}
    described = openapi(namespace)
    validate(described)
    assert described["paths"] == {}


def test_the_description_of_a_namespace_has_the_schemas(namespace):
    described = json.loads(msgspec.json.encode(description(namespace)))
    assert described["groups"] == ["key_value"]
    operations = described["operations"]
    assert operations["get"] == {
        "idempotent": True,
        "streaming": False,
        "also_streaming": False,
        "access": "read",
        "description": "Read it.\nAnd no more.",
        "params": {"type": "object", "required": ["key"]},
        "result": TREE,
    }
    assert operations["watch"]["message"] == {"type": "string"}
    assert "result" not in operations["watch"]
    assert operations["scan"]["stream_params"] == {"title": "all"}
    assert operations["scan"]["message"] == {"type": "object"}
    assert "params" not in operations["set"]


def test_the_sqlite_plugins_operations_are_all_told(namespace):
    operations = namespace.slot.current.operations
    operations.clear()
    declared = [declare(operation) for operation in SQLitePlugin.operations.values()]
    operations.update({each.name: each for each in declared})
    described = openapi(namespace)
    validate(described)
    assert len(described["paths"]) == len(SQLitePlugin.operations)
    for each in declared:
        assert each.description, each.name
        for text in (each.params_schema, each.result_schema):
            assert json.loads(text)["type"] == "object", each.name
