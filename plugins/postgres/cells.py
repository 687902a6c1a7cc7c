"""Values of PostgreSQL's types as JSON and MessagePack, and back; docs/postgres.md has the table.

Results come in the server's text form, which is exact: its digits become the digits in JSON, and
no number passes through a float. What is no number, boolean, array, json or bytea is a string.
"""

import binascii
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw
from psycopg.postgres import types as known_types

from .errors import invalid

ToJSON = Callable[[bytes], bytes]
ToObject = Callable[[bytes], Any]

BYTEA = 17
JSON_TYPES = {114, 3802}
_SPECIAL_NUMBERS = {b"NaN": b'"NaN"', b"Infinity": b'"Infinity"', b"-Infinity": b'"-Infinity"'}
_NEEDS_QUOTES = re.compile(r'[{},;"\\\s]|^$|^null$', re.IGNORECASE)
_decode_json = msgspec.json.decode
_encode_json = msgspec.json.encode


class Codec(NamedTuple):
    """How a type's cells leave: their JSON text, or the object that MessagePack encodes."""

    to_json: ToJSON
    to_object: ToObject


def _text_to_json(cell: bytes) -> bytes:
    return _encode_json(cell.decode())


def _number_to_json(cell: bytes) -> bytes:
    return _SPECIAL_NUMBERS.get(cell, cell)


def _bytea_to_json(cell: bytes) -> bytes:
    base64 = binascii.b2a_base64(_bytea(cell), newline=False)
    return b'{"value":"%b","encoding":"base64"}' % base64


def _bytea(cell: bytes) -> bytes:
    return binascii.unhexlify(cell[2:])


def _timestamp(cell: bytes) -> bytes:
    """ISO 8601: a T between date and time, and Z or minutes in the offset."""
    text = cell.replace(b" ", b"T", 1) if cell[:1].isdigit() else cell
    if text.endswith(b" BC"):
        return _zone(text[:-3]) + b" BC"
    return _zone(text)


def _zone(text: bytes) -> bytes:
    if text.endswith(b"+00"):
        return text[:-3] + b"Z"
    if text[-3:-2] in (b"+", b"-") and text[-2:].isdigit() and b":" in text:
        return text + b":00"
    return text


def _json_to_object(cell: bytes) -> Any:
    try:
        return _decode_json(cell)
    except (ValueError, RecursionError):
        return cell.decode(errors="replace")


TEXT = Codec(_text_to_json, bytes.decode)
_QUOTED = Codec(lambda cell: b'"' + cell + b'"', bytes.decode)
_INTEGER = Codec(lambda cell: cell, int)
_WIDE = Codec(_number_to_json, bytes.decode)
_TIMESTAMP = Codec(
    lambda cell: b'"' + _timestamp(cell) + b'"', lambda cell: _timestamp(cell).decode()
)

_BY_NAME: dict[str, Codec] = {
    "bool": Codec(lambda cell: b"true" if cell == b"t" else b"false", lambda cell: cell == b"t"),
    "bytea": Codec(_bytea_to_json, _bytea),
    "int2": _INTEGER,
    "int4": _INTEGER,
    "int8": _INTEGER,
    "oid": _INTEGER,
    "float4": Codec(_number_to_json, float),
    "float8": Codec(_number_to_json, float),
    "numeric": _WIDE,
    "json": Codec(lambda cell: cell, _json_to_object),
    "jsonb": Codec(lambda cell: cell, _json_to_object),
    "uuid": _QUOTED,
    "timestamp": _TIMESTAMP,
    "timestamptz": _TIMESTAMP,
}
_SAFE_AS_STRINGS = ("int8", "numeric")
"""What ``json_numbers: strings`` quotes: a client's JSON may round them."""


class Codecs:
    """The codec of each type, by its oid; of types that are not built in, asks the server.

    ``strings``: numbers that a double cannot hold are strings in JSON.
    """

    def __init__(self, *, strings: bool) -> None:
        self._codecs: dict[int, Codec] = {}
        self._elements: dict[int, tuple[int, str]] = {}  # of array types: element, delimiter
        for info in known_types:
            codec = _BY_NAME.get(info.name, TEXT)
            if strings and info.name in _SAFE_AS_STRINGS:
                codec = Codec(_QUOTED.to_json, codec.to_object)
            self._codecs[info.oid] = codec
            if info.array_oid:
                self._set_array(info.array_oid, info.oid, info.delimiter)

    def __getitem__(self, oid: int) -> Codec:
        """The codec; as text, where the type is not known."""
        return self._codecs.get(oid, TEXT)

    def knows(self, oids: Iterable[int]) -> bool:
        """Whether there is nothing to ``learn`` about them."""
        return self._codecs.keys() >= set(oids)

    async def learn(
        self,
        oids: Sequence[int],
        ask: Callable[[list[int]], Awaitable[Sequence[tuple[int, int, int, str]]]],
    ) -> None:
        """Know all of these types from now on; those of arrays and domains by their parts.

        ``ask`` returns for each oid: itself, its base type's (of a domain), its elements' (of an
        array), and the delimiter.
        """
        wanted = [oid for oid in oids if oid not in self._codecs]
        parts: dict[int, tuple[int, int, str]] = {}
        while wanted:
            for oid, base, element, delimiter in await ask(wanted):
                parts[oid] = base, element, delimiter
            wanted = [
                part
                for base, element, _ in parts.values()
                for part in (base, element)
                if part and part not in self._codecs and part not in parts
            ]
        for oid in [*parts, *oids]:
            self._build(oid, parts)

    def _build(self, oid: int, parts: Mapping[int, tuple[int, int, str]]) -> None:
        if oid in self._codecs:
            return
        base, element, delimiter = parts.get(oid, (0, 0, ","))
        if base:
            self._build(base, parts)
            self._codecs[oid] = self[base]
            if base in self._elements:
                self._elements[oid] = self._elements[base]
        elif element:
            self._build(element, parts)
            self._set_array(oid, element, delimiter)
        else:
            self._codecs[oid] = TEXT

    def _set_array(self, oid: int, element: int, delimiter: str) -> None:
        codec = self[element]
        mark = delimiter.encode()
        self._elements[oid] = element, delimiter
        self._codecs[oid] = Codec(
            lambda cell: _array_to_json(cell, mark, codec.to_json),
            lambda cell: _array(cell, mark, codec.to_object),
        )

    # -- parameters ---------------------------------------------------------------

    def encode(self, value: Raw, oid: int, name: str) -> tuple[bytes | None, int]:
        """A parameter of type ``oid`` from its JSON, and its format: 1 for binary.

        Raises:
            PluginError: INVALID_ARGUMENT, naming the parameter.
        """
        data = bytes(value)
        if data == b"null":
            return None, 0
        if oid in JSON_TYPES:
            return data, 0
        first = data[:1]
        if first == b"{":
            return self._encode_object(data, oid, name)
        if first == b"[":
            found = self._elements.get(oid)
            if found is None:
                raise invalid(
                    f"parameter {name} is a list, and the statement wants no array or json there "
                    f"(type {type_name(oid)}); a cast such as {name}::int[] says what it is"
                )
            return self._array_literal(data, *found, name).encode(), 0
        return _checked(_scalar(data), name).encode(), 0

    def _encode_object(self, data: bytes, oid: int, name: str) -> tuple[bytes, int]:
        try:
            wrapped = _decode_json(data, type=_Bytes)
            decoded = binascii.a2b_base64(wrapped.value, strict_mode=True)
        except (msgspec.MsgspecError, ValueError):
            raise invalid(
                f'parameter {name} is an object that is not {{"value": base64 text, "encoding": '
                f'"base64"}}, and the statement wants no json there (type {type_name(oid)})'
            ) from None
        if oid != BYTEA:
            raise invalid(
                f"parameter {name} is binary, and the statement wants {type_name(oid)} there"
            )
        return decoded, 1

    def _array_literal(self, data: bytes, element: int, delimiter: str, name: str) -> str:
        return (
            "{"
            + delimiter.join(
                self._element_literal(bytes(item), element, delimiter, name)
                for item in _decode_json(data, type=list[Raw])
            )
            + "}"
        )

    def _element_literal(self, data: bytes, element: int, delimiter: str, name: str) -> str:
        if data == b"null":
            return "NULL"
        if element in JSON_TYPES:
            text = data.decode()
        elif data[:1] == b"[":
            nested = self._elements.get(element)  # a domain over an array
            if nested is None:
                return self._array_literal(data, element, delimiter, name)
            text = self._array_literal(data, *nested, name)
        elif data[:1] == b"{":
            text = "\\x" + self._encode_object(data, element, name)[0].hex()
        else:
            text = _checked(_scalar(data), name)
        if not _NEEDS_QUOTES.search(text):
            return text
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'


class _Bytes(msgspec.Struct, forbid_unknown_fields=True, tag_field="encoding", tag="base64"):
    value: str


def type_name(oid: int) -> str:
    """For people."""
    info = known_types.get(oid)
    return info.regtype if info is not None else f"with oid {oid}"


def from_object(value: Any) -> Raw:
    """A parameter that came as MessagePack, as the JSON that means the same."""
    return Raw(_encode_json(_plain(value)))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"value": value, "encoding": "base64"}
    if isinstance(value, float) and value - value != 0:
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise invalid("the keys of a map inside a parameter must be strings")
        return {key: _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | int):
        return value
    raise invalid("a parameter must be a number, text, bytes, boolean, nil, list or map")


def _scalar(data: bytes) -> str:
    """Text as it is; numbers by their own digits, and true and false, as PostgreSQL reads them."""
    return _decode_json(data, type=str) if data[:1] == b'"' else data.decode()


def _checked(text: str, name: str) -> str:
    if "\0" in text:
        raise invalid(f"parameter {name}: PostgreSQL's text cannot hold the character U+0000")
    return text


def _array_to_json(cell: bytes, delimiter: bytes, element: ToJSON) -> bytes:
    def join(items: list[Any]) -> bytes:
        return b"[%b]" % b",".join(
            join(item) if isinstance(item, list) else b"null" if item is None else item
            for item in items
        )

    return join(_array(cell, delimiter, element))


def _array(cell: bytes, delimiter: bytes, element: Callable[[bytes], Any]) -> list[Any]:
    """PostgreSQL's text of an array, as lists of what ``element`` makes of its elements."""
    if cell[:1] == b"[":  # lower bounds, as in [0:1]={1,2}
        cell = cell[cell.index(b"=") + 1 :]
    stack: list[list[Any]] = []
    position, mark = 0, delimiter[0]
    while True:
        match cell[position]:
            case 0x7B:  # {
                stack.append([])
                position += 1
            case 0x7D:  # }
                done = stack.pop()
                position += 1
                if not stack:
                    return done
                stack[-1].append(done)
            case 0x22:  # "
                end = position + 1
                while cell[end] != 0x22:
                    end += 2 if cell[end] == 0x5C else 1
                text = cell[position + 1 : end]
                if b"\\" in text:
                    text = re.sub(rb"\\(.)", rb"\1", text, flags=re.DOTALL)
                stack[-1].append(element(text))
                position = end + 1
            case byte if byte == mark:
                position += 1
            case _:
                end = position
                while cell[end] not in (mark, 0x7D):
                    end += 1
                text = cell[position:end]
                stack[-1].append(None if text == b"NULL" else element(text))
                position = end
