"""Between messages as clients write and read them, and as Kafka keeps them."""

import binascii
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE
from confluent_kafka import Message as KafkaMessage
from msgspec import UNSET, Raw, UnsetType

from prism.sdk import Call, PluginError, StatusCode, Value

from . import params as p

Headers = list[tuple[str, bytes | None]]


class Record(NamedTuple):
    """A message as it goes to Kafka."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = []
    partition: int = -1
    timestamp: int = 0

    @property
    def size(self) -> int:
        """Roughly what it takes in Kafka: value, key and headers."""
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.value or b"") + len(self.key or b"") + headers


def read_records(messages: Sequence[p.Publishing], call: Call) -> list[Record]:
    """The same as ``read_record`` of each."""
    if call.binary:
        return [read_record(message, call) for message in messages]
    # As most are: nothing but a value.
    plain: tuple[object, ...] = (UNSET, UNSET, False, None, [], None, None)
    records = []
    for message in messages:
        value = message.value
        if value is not UNSET and plain == (
            message.encoding,
            message.key_encoding,
            message.tombstone,
            message.key,
            message.headers,
            message.partition,
            message.timestamp,
        ):
            records.append(Record(bytes(value)))
        else:
            records.append(read_record(message, call))
    return records


def read_record(message: p.Publishing, call: Call) -> Record:
    """What a client wants published.

    Raises:
        PluginError: INVALID_ARGUMENT, a value that does not fit its encoding, or none.
    """
    return Record(
        _read_value(message, call),
        None if message.key is None else _read_text(message.key, message.key_encoding, "key"),
        [(header.name, _read_header(header)) for header in message.headers]
        if message.headers
        else [],
        -1 if message.partition is None else message.partition,
        message.timestamp or 0,
    )


def _read_value(message: p.Publishing, call: Call) -> bytes | None:
    value, encoding = message.value, message.encoding
    if encoding is UNSET and value is not UNSET and not (message.tombstone or call.binary):
        return bytes(value)  # as most are
    if isinstance(value, UnsetType):
        if message.tombstone:
            return None
        raise _invalid("value is missing; for a message without one, tombstone: true")
    if message.tombstone:
        raise _invalid("a tombstone has no value")
    if encoding == "text":
        try:
            decode = msgspec.msgpack.decode if call.binary else msgspec.json.decode
            return decode(value, type=str).encode()
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise _invalid("with encoding 'text', value must be text") from error
    return Value.read(value, encoding, call).data


def _read_header(header: p.Header) -> bytes | None:
    if header.value is None:
        return None
    return _read_text(header.value, header.encoding, f"header {header.name!r}")


def _read_text(text: str, encoding: p.Base64 | UnsetType, what: str) -> bytes:
    if encoding is UNSET:
        return text.encode()
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise _invalid(f"{what} is no base64 text") from error


def show(message: KafkaMessage, topic: str, values: p.Values, call: Call) -> p.Message:
    """A message of Kafka's, for a client that knows its topic as ``topic``."""
    shown = p.Message(topic, message.partition(), message.offset())
    kind, milliseconds = message.timestamp()
    if kind != TIMESTAMP_NOT_AVAILABLE:
        shown.timestamp = milliseconds
    key = message.key()
    if key is not None:
        shown.key, shown.key_encoding = _show_text(key)
    value = message.value()
    if value is None:
        shown.tombstone = True
    else:
        shown.value, shown.encoding = _show_value(value, values, call)
    headers = message.headers()
    if headers:
        shown.headers = [_show_header(name, value) for name, value in headers]
    return shown


def _show_value(data: bytes, values: p.Values, call: Call) -> tuple[Raw, p.Encoding | UnsetType]:
    """JSON as it is, else text, else bytes: what it is can be seen by its ``encoding``."""
    if values == "base64":
        return Value(data, binary=True).write(call)
    try:
        msgspec.json.decode(data)  # a Raw would not be looked into
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        try:
            text = data.decode()
        except UnicodeError:
            return Value(data, binary=True).write(call)
        encode = msgspec.msgpack.encode if call.binary else msgspec.json.encode
        return Raw(encode(text)), "text"
    if b"\n" in data or b"\r" in data:  # outside of strings; would end a line of a stream
        data = data.replace(b"\n", b" ").replace(b"\r", b" ")
    return Value(data, binary=False).write(call)


def _show_header(name: str, value: bytes | None) -> p.Header:
    if value is None:
        return p.Header(name, None)
    return p.Header(name, *_show_text(value))


def _show_text(data: bytes) -> tuple[str, p.Base64 | UnsetType]:
    try:
        return data.decode(), UNSET
    except UnicodeError:
        return binascii.b2a_base64(data, newline=False).decode(), "base64"


def _invalid(detail: str) -> PluginError:
    return PluginError(StatusCode.INVALID_ARGUMENT, detail)
