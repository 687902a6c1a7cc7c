"""What operations tell of themselves."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from prism.contract.messages import InitializeRequest, OperationAccess
from prism.sdk import Plugin, Positioned, operation
from prism.sdk.declaration import declare, schema_of


class Part(msgspec.Struct):
    """A part,
    in two lines."""

    name: Annotated[str, Meta(description="its name")]


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    parts: list[Part]
    other: Raw | UnsetType = UNSET


class Tree(msgspec.Struct):
    branches: list["Tree"] = []


class Unknown:
    """Of which msgspec knows no schema."""


class Telling(Plugin, group="telling"):
    @operation(idempotent=True, access="read")
    async def both(self, params: Part) -> Whole:
        """Do one.

        In more words.
        """
        return Whole([params])

    @operation(name="both", idempotent=True, access="read")
    async def both_as_a_stream(self, params: Whole) -> AsyncIterator[Positioned[Part]]:
        """Not shown: the other form speaks for both."""
        yield Positioned(Part("a"), "1")

    @operation
    async def only_a_stream(self, params: Part) -> AsyncIterator[Part | Positioned[Part]]:
        yield params

    @operation
    async def tells_nothing(self, params: dict[str, Any]):
        return params

    @operation
    async def returns_none(self, params: Part) -> None: ...


PART = {
    "title": "Part",
    "description": "A part, in two lines.",
    "type": "object",
    "properties": {"name": {"description": "its name", "type": "string"}},
    "required": ["name"],
}


def test_schemas_stand_by_themselves() -> None:
    declared = declare(Telling.operations["both"])
    assert json.loads(declared.params_schema) == PART
    assert json.loads(declared.result_schema) == {
        "title": "Whole",
        "type": "object",
        "properties": {"parts": {"type": "array", "items": PART}, "other": {}},
        "required": ["parts"],
        "additionalProperties": False,
    }
    assert declared.stream_params_schema == declared.result_schema
    assert declared.stream_result_schema == declared.params_schema
    assert declared.description == "Do one.\n\nIn more words."
    assert declared.also_streaming
    assert declared.access is OperationAccess.READ


def test_of_a_stream_it_is_each_message() -> None:
    declared = declare(Telling.operations["only_a_stream"])
    assert json.loads(declared.result_schema) == PART
    assert declared.stream_result_schema == ""


def test_what_is_not_annotated_is_not_told() -> None:
    declared = declare(Telling.operations["tells_nothing"])
    assert declared.result_schema == ""
    assert json.loads(declared.params_schema) == {"type": "object"}
    nothing = declare(Telling.operations["returns_none"])
    assert json.loads(nothing.result_schema) == {"type": "object"}


def test_a_type_that_contains_itself_keeps_its_references() -> None:
    schema = json.loads(schema_of(Tree))
    assert schema["$ref"] == "#/$defs/Tree"
    items = schema["$defs"]["Tree"]["properties"]["branches"]["items"]
    assert items == {"$ref": "#/$defs/Tree"}


def test_a_result_may_be_one_of_several() -> None:
    part, tree = json.loads(schema_of(Part)), json.loads(schema_of(Whole))
    assert json.loads(schema_of(Part | Whole)) == {"anyOf": [part, tree]}
    assert schema_of(Part | Unknown) == ""
    assert schema_of(Part | Tree) == ""


class Either(msgspec.Struct):
    """What was done."""

    results: list[Part | Whole]
    more: bool = False


def test_also_within_a_list_of_a_result() -> None:
    both = json.loads(schema_of(Part | Whole))
    assert json.loads(schema_of(Either)) == {
        "title": "Either",
        "description": "What was done.",
        "type": "object",
        "properties": {
            "results": {"type": "array", "items": both},
            "more": {"type": "boolean"},
        },
        "required": ["results"],
    }


def test_a_type_without_a_schema_is_not_told() -> None:
    assert schema_of(Unknown) == ""
    assert json.loads(schema_of(dict[str, object])) == {
        "type": "object",
        "additionalProperties": {"description": "anything"},
    }


async def test_initialize_tells_all_of_it() -> None:
    class Mine(Telling):
        pass

    answers = [await Mine().initialize(InitializeRequest()) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0].groups == ["telling"]
    told = {one.name: one for one in answers[0].operations}
    assert told["both"] == declare(Telling.operations["both"])


async def test_a_subclass_tells_of_its_own_operations() -> None:
    await Telling().initialize(InitializeRequest())

    class Less(Telling):
        only_a_stream = None

    answer = await Less().initialize(InitializeRequest())
    assert {one.name for one in answer.operations} == set(answer.supported_operations)
    assert "only_a_stream" not in answer.supported_operations
