"""The description says what the routes do: compared with the table, and with real answers."""

import inspect
import re

import pytest
from msgspec.structs import replace

from prism.config.types import ShadowConfig
from prism.frontends.admin import answers, follow
from prism.frontends.admin.access import Right
from prism.frontends.admin.openapi import OPENAPI
from prism.frontends.admin.routes import OPENAPI_PATH, ROUTES
from prism.supervision.slot import Slot

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def resolve(schema: dict) -> dict:
    if "$ref" in schema:
        return OPENAPI["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def fits(value, schema: dict, where: str = "") -> None:
    """Asserts that the value is as the schema says: types, enums, required keys, no others."""
    schema = resolve(schema)
    if "anyOf" in schema:
        errors = []
        for option in schema["anyOf"]:
            try:
                fits(value, option, where)
                return
            except AssertionError as error:
                errors.append(error)
        raise AssertionError(f"{where}: {errors}")
    if "enum" in schema:
        assert value in schema["enum"], where
    if "type" in schema:
        assert isinstance(value, TYPES[schema["type"]]), (where, value, schema)
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema.get("required", [])) <= value.keys() <= schema["properties"].keys(), where
        for key, item in value.items():
            fits(item, schema["properties"][key], f"{where}.{key}")
    if isinstance(value, list) and "items" in schema:
        for item in value:
            fits(item, schema["items"], f"{where}[]")


def test_every_route_is_described_and_nothing_else():
    described = {
        (method.upper(), path) for path, item in OPENAPI["paths"].items() for method in item
    }
    assert described == {(route.method, route.path) for route in ROUTES} | {("GET", OPENAPI_PATH)}


def test_every_handler_has_a_route():
    handlers = {route.handler for route in ROUTES} | {route.follow for route in ROUTES}
    for module in (answers, follow):
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction):
            assert name.startswith("_") or function in handlers, name


def test_every_reference_leads_somewhere_and_ids_are_unique():
    text = repr(OPENAPI)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in OPENAPI["components"]["schemas"]
    operations_ = [operation for item in OPENAPI["paths"].values() for operation in item.values()]
    ids = [operation["operationId"] for operation in operations_]
    assert len(ids) == len(set(ids))
    assert all(operation["summary"] for operation in operations_)


def test_what_changes_something_says_that_it_needs_a_token():
    for route in ROUTES:
        security = OPENAPI["paths"][route.path][route.method.lower()]["security"]
        assert ({} in security) is (route.right <= Right.READ)
        # What is in calls is for who operates plugins, though to see it changes nothing.
        is_change = route.method == "POST" or route.path.endswith("/payloads")
        assert is_change is (route.right > Right.READ)


READS = [
    route.path
    for route in ROUTES
    if route.method == "GET" and route.answer is not None and route.path != "/metrics"
]


@pytest.mark.parametrize("path", READS)
async def test_reads_answer_what_is_described(admin, path):
    if path.endswith("/shadow"):  # which the namespace has not by itself
        assert (await admin.ask("GET", path.replace("{namespace}", "kv"))).status == 404
        namespace = admin.proxy.router.find("kv")
        namespace.shadow = Slot("kv:shadow")
        namespace.update(replace(namespace.config, shadow=ShadowConfig()))
    answer = await admin.ask("GET", path.replace("{namespace}", "kv"))
    assert answer.status == 200
    content = OPENAPI["paths"][path]["get"]["responses"]["200"]["content"]
    fits(answer.json, content["application/json"]["schema"], path)


@pytest.mark.parametrize("operation", ["reload", "restart", "drain", "reset"])
async def test_changes_answer_what_is_described(admin, operation):
    path = f"/admin/plugin/{operation}"
    answer = await admin.ask("POST", path, {"namespace": "kv"})
    content = OPENAPI["paths"][path]["post"]["responses"]["200"]["content"]
    fits(answer.json, content["application/json"]["schema"], path)


async def test_applying_answers_what_is_described(admin):
    answer = await admin.ask("POST", "/admin/config/apply", {})
    assert answer.json["applied"]
    content = OPENAPI["paths"]["/admin/config/apply"]["post"]["responses"]["200"]["content"]
    fits(answer.json, content["application/json"]["schema"], "apply")


async def test_errors_are_as_described(admin):
    answer = await admin.ask("GET", "/admin/plugins/none")
    fits(answer.json, {"$ref": "#/components/schemas/Problem"})


async def test_the_description_is_served(admin):
    answer = await admin.ask("GET", OPENAPI_PATH)
    assert answer.json["openapi"] == "3.1.0"
