"""msgspec's sentences about JSON, in JSON's words: who sends it need not know Python's types."""

import re

_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
}
_TYPES = re.compile(r"\b(Expected|got) `([a-z| ]{1,200})`")


def in_json_words(sentence: str) -> str:
    """ "Expected `int | null`, got `str` - at `$.n`" as "Expected an integer or null, found text -
    at `$.n`"; what is no such sentence stays."""

    def words(match: re.Match[str]) -> str:
        kinds = [_WORDS.get(kind, kind) for kind in match[2].split(" | ")]
        return f"{'found' if match[1] == 'got' else 'Expected'} {' or '.join(kinds)}"

    return _TYPES.sub(words, sentence)
