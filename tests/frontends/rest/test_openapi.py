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
    assert message == {"$ref": "#/components/schemas/ScanMessage"}
    assert schemas["ScanMessage"] == {"type": "object", "title": "ScanMessage"}
    bodies = {
        name: each["requestBody"]["content"]["application/json"]["schema"]
        for name, each in operations.items()
    }
    assert bodies["scan"] == {
        "anyOf": [
            {"$ref": "#/components/schemas/page"},
            {"$ref": "#/components/schemas/all"},
        ]
    }
    assert bodies["set"] == {"type": "object"}
    assert contents["set"] == {"application/json": {"schema": {}}}
    required = {name for name, each in operations.items() if each["requestBody"]["required"]}
    assert required == {"get"}
    assert operations["get"]["summary"] == "Read it."
    assert operations["get"]["x-prism-access"] == "read"


def described_schemas(namespace, **schemas):
    """The components of ``get`` and ``put``, of which these are the schemas."""
    operations = namespace.slot.current.operations
    operations.clear()
    for name in ("get", "put"):
        found = {
            role: json.dumps(schemas[f"{name}_{role}"])
            for role in ("params_schema", "result_schema")
            if f"{name}_{role}" in schemas
        }
        operations[name] = OperationDeclaration(name=name, access=OperationAccess.READ, **found)
    described = openapi(namespace)
    validate(described)
    paths = {path.rpartition("/")[2]: item["post"] for path, item in described["paths"].items()}
    bodies = {
        name: each["requestBody"]["content"]["application/json"]["schema"]
        for name, each in paths.items()
    }
    return described["components"]["schemas"], bodies


def component(name):
    return {"$ref": f"#/components/schemas/{name}"}


def titled(name, /, **properties):
    return {"title": name, "type": "object", "properties": properties}


def test_types_that_contain_themselves_refer_to_their_component(namespace):
    schemas, bodies = described_schemas(namespace, get_params_schema=TREE)
    assert bodies["get"] == component("Tree")
    assert schemas["Tree"] == {"title": "Tree", "type": "array", "items": component("Tree")}


def test_what_refers_to_other_parts_of_itself_stays_whole(namespace):
    properties = {"left": {"type": "string"}, "right": {"$ref": "#/properties/left"}}
    schemas, bodies = described_schemas(
        namespace, get_params_schema={"properties": properties, "title": "Pair"}
    )
    assert bodies["get"] == component("GetParams")
    right = schemas["GetParams"]["properties"]["right"]
    assert right == component("GetParams/properties/left")


@pytest.mark.parametrize(
    ("schema", "reference"),
    [
        ({"$ref": "#/$defs/Gone"}, component("GetParams/$defs/Gone")),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {}}}, component("GetParams/$defs/a~1b")),
        ({"$ref": "#here", "$defs": {"A": {"$anchor": "here"}}}, {"$ref": "#here"}),
    ],
)
def test_a_reference_to_nothing_that_is_known_is_left_to_the_reader(namespace, schema, reference):
    operations = namespace.slot.current.operations
    told = OperationDeclaration(
        name="get", access=OperationAccess.READ, params_schema=json.dumps(schema)
    )
    operations["get"] = told
    assert openapi(namespace)["components"]["schemas"]["GetParams"].items() >= reference.items()


def test_the_same_schema_is_one_component_and_another_of_its_title_has_a_name_of_its_own(
    namespace,
):
    key, other = titled("Key", key={"type": "string"}), titled("Key", id={"type": "integer"})
    schemas, bodies = described_schemas(
        namespace, get_params_schema=key, get_result_schema=key, put_params_schema=other
    )
    assert set(schemas) == {"Problem", "Key", "PutKey"}
    assert bodies == {"get": component("Key"), "put": component("PutKey")}
    assert schemas["PutKey"]["title"] == "PutKey", "generators name classes by it"


def test_a_title_that_is_prisms_own_or_no_name_is_not_used(namespace):
    schemas, _ = described_schemas(
        namespace, get_params_schema=titled("Problem"), put_params_schema=titled("a / b")
    )
    assert set(schemas) == {"Problem", "GetProblem", "PutParams"}
    assert schemas["Problem"]["required"]


def test_objects_with_a_title_within_others_are_components_and_data_is_left_alone(namespace):
    data = {"title": "Item", "properties": {}, "type": "array"}
    item = titled("Item", title={"default": data})
    schemas, _ = described_schemas(
        namespace,
        get_params_schema=titled("Items", title={"type": "array", "items": item}),
    )
    assert schemas["Items"]["properties"]["title"]["items"] == component("Item")
    assert schemas["Item"]["properties"]["title"]["default"] == data


def test_an_array_of_anything_says_so(namespace):
    rows = titled("Rows", rows={"type": "array"}, pair={"type": "array", "prefixItems": []})
    schemas, _ = described_schemas(namespace, get_params_schema=rows)
    assert schemas["Rows"]["properties"]["rows"] == {"type": "array", "items": {}}
    assert "items" not in schemas["Rows"]["properties"]["pair"]


def test_a_schema_may_be_true(namespace):
    _, bodies = described_schemas(namespace, get_params_schema=True)
    assert bodies["get"] is True


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
