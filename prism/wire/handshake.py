"""How the two HELLOs settle protocol version and codec."""

from msgspec.structs import replace

from prism.contract.errors import HandshakeFailed, RemoteProtocolError
from prism.wire.codecs import CODEC_NAMES
from prism.wire.events import PROTOCOL_VERSION, Hello
from prism.wire.frames import Codec

_LIMITS = ("max_frame", "window", "max_streams")


def wrong_limit(hello: Hello) -> str | None:
    """What is wrong with a HELLO's limits, which are 32-bit numbers above 0."""
    for name in _LIMITS:
        if not 0 < getattr(hello, name) < 2**32:
            return f"HELLO with {name}={getattr(hello, name)}; it must be 1 to 2^32 - 1"
    return None


def answer(offer: Hello, ours: Hello) -> Hello:
    """The host's HELLO in reply to a plugin's ``offer``.

    Picks the highest version both sides speak, and MessagePack where offered.

    Raises:
        HandshakeFailed: there is no version or no codec in common; the message
            is fit to be sent to the plugin as GOAWAY's reason.
    """
    lowest = offer.protocol_min or offer.protocol_max
    version = min(offer.protocol_max, PROTOCOL_VERSION)
    if version < max(lowest, PROTOCOL_VERSION):
        raise HandshakeFailed(
            f"plugin {offer.name!r} speaks protocol {lowest} to {offer.protocol_max}, "
            f"this host {PROTOCOL_VERSION} to {PROTOCOL_VERSION}"
        )
    codec = next((name for name in CODEC_NAMES if name in offer.codecs), None)
    if codec is None:
        raise HandshakeFailed(
            f"plugin {offer.name!r} offers codecs {list(offer.codecs)}, "
            f"this host {list(CODEC_NAMES)}"
        )
    return replace(ours, protocol_min=version, protocol_max=version, codec=codec, codecs=(codec,))


def check_answer(offer: Hello, reply: Hello) -> Codec:
    """The codec that the host's ``reply`` chose, as the plugin that made ``offer`` sees it.

    Raises:
        RemoteProtocolError: the host chose what was not offered.
    """
    highest = offer.protocol_max or PROTOCOL_VERSION
    lowest = offer.protocol_min or highest
    if not lowest <= reply.protocol_max <= highest:
        raise RemoteProtocolError(
            f"the host chose protocol {reply.protocol_max}; offered were {lowest} to {highest}"
        )
    if reply.codec not in offer.codecs or reply.codec not in CODEC_NAMES:
        raise RemoteProtocolError(
            f"the host chose codec {reply.codec!r}; offered were {list(offer.codecs)}"
        )
    return CODEC_NAMES[reply.codec]
