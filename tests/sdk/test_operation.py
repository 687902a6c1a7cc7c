from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest

from prism.contract.messages import OperationAccess
from prism.sdk import Call, Plugin, operation


class Key(msgspec.Struct):
    key: str


class Base(Plugin):
    @operation
    async def get(self, params: Key) -> None: ...

    @operation(name="execute")
    async def run(self, params: Key) -> None: ...


def test_names_and_inheritance() -> None:
    class Derived(Base):
        @operation(idempotent=True)
        async def get(self, params: Key) -> None: ...

        run = None

    assert list(Base.operations) == ["get", "execute"]
    assert list(Derived.operations) == ["get"]
    assert Derived.operations["get"].idempotent
    assert (Base.name, Derived.name) == ("base", "base")


def test_access() -> None:
    class Declaring(Plugin):
        @operation(access="read")
        async def get(self, params: Key) -> None: ...

        @operation
        async def set(self, params: Key) -> None: ...

    declared = [one.declaration.access for one in Declaring.operations.values()]
    assert declared == [OperationAccess.READ, OperationAccess.UNDECLARED]


def test_cost() -> None:
    class Declaring(Plugin):
        @operation(cost=5)
        async def scan(self, params: Key) -> None: ...

        @operation(cost=1)
        async def get(self, params: Key) -> None: ...

        @operation
        async def set(self, params: Key) -> None: ...

    # On the wire 0 stands for 1.
    assert [one.declaration.cost for one in Declaring.operations.values()] == [5, 0, 0]


@pytest.mark.parametrize("cost", [0, -1, 1_000_001, 1.5, True, "5"])
def test_a_cost_that_there_is_not(cost: Any) -> None:
    with pytest.raises(TypeError, match="cost is a whole number from 1 to 1000000, not "):
        operation(cost=cost)


def test_two_forms_with_different_costs() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.stream: both forms .* the same cost"):

        class Wrong(Plugin):
            @operation(name="get", cost=2)
            async def one(self, params: Key) -> None: ...

            @operation(name="get")
            async def stream(self, params: Key) -> AsyncIterator[None]:
                yield None


def test_an_access_that_there_is_not() -> None:
    with pytest.raises(TypeError, match="'admin', not 'reed'"):

        class Wrong(Plugin):
            @operation(access="reed")  # type: ignore[call-overload]
            async def get(self, params: Key) -> None: ...


def test_two_forms_with_different_access() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.stream: both forms .* the same access"):

        class Wrong(Plugin):
            @operation(access="read")
            async def get(self, params: Key) -> None: ...

            @operation(name="get", access="write")
            async def stream(self, params: Key) -> AsyncIterator[int]:
                yield 1


def test_a_sync_handler() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.get: .*async def"):

        class Wrong(Plugin):
            @operation
            def get(self, params: Key) -> None: ...


def test_a_static_method() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.get: .*plain method"):

        class Wrong(Plugin):
            @staticmethod
            @operation
            async def get(params: Key) -> None: ...


def test_a_missing_annotation() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.get: parameter 'params' needs a type"):

        class Wrong(Plugin):
            @operation
            async def get(self, params) -> None: ...


def test_an_annotation_that_cannot_be_decoded() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.get: 'params' cannot be decoded as"):

        class Wrong(Plugin):
            @operation
            async def get(self, params: int | Key | dict[str, int]) -> None: ...


class Row(msgspec.Struct, array_like=True):
    key: str


class Pair(NamedTuple):
    key: str


class Tagged(msgspec.Struct, tag=True):
    key: str


class Other(msgspec.Struct, tag=True):
    key: str


class Keys(TypedDict):
    key: str


@dataclass
class Data:
    key: str


def class_with(params: Any, call: Any = Call) -> type[Plugin]:
    async def get(self, params, call) -> None: ...

    get.__annotations__ = {"params": params, "call": call}
    return type("Made", (Plugin,), {"get": operation(get)})


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (str, "str"),
        (str | int, "str | int"),
        (list[Key], "list["),
        (Annotated[str, msgspec.Meta(max_length=3)], "Annotated[str"),
        (Literal["a"], "Literal"),
        (Row, "Row"),
        (Pair, "Pair"),
        (ValueError, "ValueError"),
    ],
)
def test_params_that_are_no_object(kind: Any, shown: str) -> None:
    form = r"write \(self, params: Params\), where Params is a class Params\(msgspec.Struct\)"
    with pytest.raises(TypeError, match=rf"Made\.get: 'params' is of type .*{form}") as raised:
        class_with(kind)
    assert shown in str(raised.value)


@pytest.mark.parametrize(
    "kind",
    [
        Key,
        Tagged | Other,
        Key | None,
        Annotated[Key, msgspec.Meta(description="which")],
        Data,
        Keys,
        dict,
        Mapping[str, int],
        msgspec.Raw,
        Any,
        object,
    ],
)
def test_params_that_are_an_object(kind: Any) -> None:
    made = class_with(kind).operations["get"]
    made.params.decode('{"type": "Other", "key": "a"}' if kind != Mapping[str, int] else "{}", b"")


@pytest.mark.parametrize("kind", [int, dict[str, int]])
def test_a_third_parameter_that_is_no_call(kind: Any) -> None:
    with pytest.raises(
        TypeError, match=r"Made\.get: 'call' is of type .*gets the Call; .*one JSON"
    ):
        class_with(Key, kind)


@pytest.mark.parametrize("kind", [Call, Call | None, Any, object])
def test_a_third_parameter_that_is_a_call(kind: Any) -> None:
    assert class_with(Key, kind).operations["get"].takes_call


def test_an_annotation_that_cannot_be_resolved() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.get: an annotation cannot be resolved"):

        class Wrong(Plugin):
            @operation
            async def get(self, params: "Nowhere") -> None: ...  # noqa: F821


@pytest.mark.parametrize(
    "parameters", ["self", "self, a, b, c", "self, *params", "self, *, params"]
)
def test_wrong_parameters(parameters: str) -> None:
    source = f"class Wrong(Plugin):\n  @operation\n  async def get({parameters}): ...\n"
    with pytest.raises(TypeError, match=r"Wrong\.get: an operation takes \(self, params\)"):
        exec(source, {"Plugin": Plugin, "operation": operation})


def test_a_duplicated_name() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.fetch: .* already .*'get'"):

        class Wrong(Base):
            @operation(name="get")
            async def fetch(self, params: Key) -> None: ...


def test_an_override_without_the_decorator() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.get overrides an operation"):

        class Wrong(Base):
            async def get(self, params: Key) -> None: ...


def test_a_method_of_the_sdk() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.execute: .*operation\(name='execute'\)"):

        class Wrong(Plugin):
            @operation
            async def execute(self, params: Key) -> None: ...


@pytest.mark.parametrize("name", ["Bad", "get-all", "1st", "_x", "x" * 65, "\u00e9"])
def test_a_name_that_no_client_can_call(name: str) -> None:
    with pytest.raises(TypeError, match=r"Wrong\.method: no client can call"):

        class Wrong(Plugin):
            @operation(name=name)
            async def method(self, params: dict[str, int]) -> None: ...
