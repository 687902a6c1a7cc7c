from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from prism.contract.json_words import in_json_words


class Params(Struct, forbid_unknown_fields=True):
    n: int = 0
    f: float | None = None
    s: str = ""
    few: Annotated[list[int | str], Meta(max_length=1)] = []
    b: bool = False
    kind: Literal["a", "b"] = "a"
    least: Annotated[int, Meta(ge=1)] = 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"n": "x"}', "Expected an integer, found text - at `$.n`"),
        ('{"n": 1.5}', "Expected an integer, found a number - at `$.n`"),
        ('{"n": true}', "Expected an integer, found true or false - at `$.n`"),
        ('{"f": []}', "Expected a number or null, found an array - at `$.f`"),
        ('{"s": {}}', "Expected text, found an object - at `$.s`"),
        ('{"s": null}', "Expected text, found null - at `$.s`"),
        ('{"few": [null]}', "Expected an integer or text, found null - at `$.few[0]`"),
        ('{"few": [1, 2]}', "Expected an array of length <= 1 - at `$.few`"),
        ('{"b": 1}', "Expected true or false, found an integer - at `$.b`"),
        ('{"least": 0}', "Expected an integer >= 1 - at `$.least`"),
        ('{"kind": "c"}', "Invalid enum value 'c' - at `$.kind`"),
        ('{"m": 1}', "Object contains unknown field `m`"),
        ("[]", "Expected an object, found an array"),
    ],
)
def test_what_msgspec_says(text: str, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(text, type=Params)
    assert in_json_words(str(caught.value)) == said


def test_every_word_of_msgspec_is_known() -> None:
    """Whatever order msgspec names the members of a union in."""
    assert in_json_words("Expected `str | int | array | object`, got `bool`") == (
        "Expected text or an integer or an array or an object, found true or false"
    )
