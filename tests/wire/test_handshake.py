import pytest
from msgspec.structs import replace

from prism.contract.errors import HandshakeFailed, RemoteProtocolError
from prism.wire.events import Hello
from prism.wire.frames import Codec
from prism.wire.handshake import answer, check_answer, wrong_limit

OURS = Hello(name="prism", version="1.0")


def offer(**fields):
    return Hello(**{"name": "p", "protocol_max": 1, **fields})


def test_a_name_suffices():
    reply = answer(offer(), OURS)
    assert reply == replace(OURS, protocol_min=1, protocol_max=1, codec="json", codecs=("json",))


def test_messagepack_is_preferred_whatever_the_order():
    assert answer(offer(codecs=("json", "cbor", "msgpack")), OURS).codec == "msgpack"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"protocol_max": 0}, "speaks protocol 0 to 0, this host 1 to 1"),
        ({"protocol_min": 2, "protocol_max": 3}, "speaks protocol 2 to 3"),
        ({"protocol_max": 2}, "speaks protocol 2 to 2"),
        ({"protocol_min": 2, "protocol_max": 1}, "speaks protocol 2 to 1"),
        ({"codecs": ()}, "offers codecs \\[\\]"),
        ({"codecs": ("cbor",)}, "offers codecs \\['cbor'\\], this host"),
    ],
)
def test_nothing_in_common(fields, complaint):
    with pytest.raises(HandshakeFailed, match=complaint):
        answer(offer(**fields), OURS)


def test_a_newer_plugin_that_still_speaks_this_version():
    assert answer(offer(protocol_min=1, protocol_max=7), OURS).protocol_max == 1


def test_the_plugin_checks_the_choice():
    assert check_answer(offer(), Hello(protocol_max=1, codec="json")) is Codec.JSON
    both = offer(codecs=("json", "msgpack"))
    assert check_answer(both, Hello(protocol_max=1, codec="msgpack")) is Codec.MSGPACK


@pytest.mark.parametrize(
    "reply",
    [
        Hello(protocol_max=2, codec="json"),
        Hello(protocol_max=0, codec="json"),
        Hello(protocol_max=1),
        Hello(protocol_max=1, codec="msgpack"),
        Hello(protocol_max=1, codec="cbor"),
    ],
)
def test_a_choice_that_was_not_offered(reply):
    with pytest.raises(RemoteProtocolError, match="the host chose"):
        check_answer(offer(codecs=("json", "cbor") if reply.codec == "cbor" else ("json",)), reply)


@pytest.mark.parametrize("field", ["max_frame", "window", "max_streams"])
def test_limits(field):
    assert wrong_limit(Hello()) is None
    assert wrong_limit(replace(Hello(), **{field: 2**32 - 1})) is None
    for value in (0, -1, 2**32, 10**30):
        assert f"{field}={value}" in wrong_limit(replace(Hello(), **{field: value}))


def test_a_hello_in_a_log_shows_no_secret():
    assert "hunter2" not in repr(Hello(name="p", auth="hunter2"))
    assert "name='p'" in repr(Hello(name="p"))
