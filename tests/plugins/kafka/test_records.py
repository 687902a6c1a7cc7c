"""Messages as clients write them."""

import msgspec
import pytest
from msgspec import UNSET, Raw

from prism.sdk import Call, PluginError
from prism_plugins.kafka import params as p
from prism_plugins.kafka.records import Record, read_record, read_records

MESSAGES = [
    {"value": {"n": 1}},
    {"value": "text"},
    {"value": None},
    {"value": "text", "encoding": "text"},
    {"value": "AAE=", "encoding": "base64"},
    {"tombstone": True, "key": "k"},
    {"value": 1, "key": "k"},
    {"value": 1, "key": "AAE=", "key_encoding": "base64"},
    {"value": 1, "headers": [{"name": "a", "value": "b"}]},
    {"value": 1, "partition": 0},
    {"value": 1, "timestamp": 1},
]


@pytest.mark.parametrize("binary", [False, True])
def test_a_batch_is_read_as_each_of_its_messages(binary):
    decode, encode = (
        (msgspec.msgpack.decode, msgspec.msgpack.encode)
        if binary
        else (msgspec.json.decode, msgspec.json.encode)
    )
    call = Call("publish_batch", "ns", {}, binary=binary)
    found = [
        one for one in MESSAGES if not (binary and one.get("encoding") == "base64")
    ]  # which has bytes
    messages = [decode(encode(one), type=p.Publishing) for one in found]
    records = read_records(messages, call)
    assert records == [read_record(message, call) for message in messages]
    assert records[0] == Record(b'{"n":1}')


@pytest.mark.parametrize(
    "message",
    [p.Publishing(), p.Publishing(value=UNSET, key="k"), p.Publishing(Raw(b"1"), tombstone=True)],
)
def test_a_batch_with_a_message_that_is_wrong_is_refused(message):
    call = Call("publish_batch", "ns", {}, binary=False)
    with pytest.raises(PluginError):
        read_records([p.Publishing(Raw(b"1")), message], call)
