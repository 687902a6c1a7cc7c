"""Cases about how a connection begins: frames and the handshake."""

import json

from prism.contract.errors import RemoteProtocolError
from prism.contract.service import Method
from prism.sdk.conformance.link import CODECS, Link, frame_bytes
from prism.sdk.conformance.rules import Needs, Skipped, Violation, tried
from prism.sdk.conformance.runner import Trial
from prism.wire import codecs
from prism.wire.events import Hello
from prism.wire.frames import END, Codec, FrameType
from prism.wire.handshake import wrong_limit

QUIET = 0.2
"""Seconds without a frame after which none is taken to come: what is right is never told wrong."""
REASON = "conformance-9f3: there is no protocol in common"


@tried(
    "hello-first",
    "4",
    "it says HELLO first, and at once",
    "The plugin sends HELLO at once, with `aux` = the highest protocol version it speaks",
    "Send HELLO as soon as the connection is there, whichever side made it.",
)
def hello_first(trial: Trial) -> None:
    link = trial.fresh().link
    link.take_offer()


@tried(
    "hello-fields",
    "4",
    "its HELLO can be understood",
    "The limits bind the *other* side and are 1 to 2^32 \u2212 1.",
    'Send aux=1 and {"name": "..."}; more fields only with the types of the table.',
)
def hello_fields(trial: Trial) -> None:
    link = trial.fresh().link
    offer = link.take_offer()
    frame = link.offer_frame
    try:
        hello = codecs.decode(Codec.JSON, Hello, frame.payload)
    except RemoteProtocolError as error:
        raise Violation(str(error)) from None
    if frame.aux < 1 or (hello.protocol_min or frame.aux) > 1:
        raise Violation(
            f"it speaks protocol {hello.protocol_min or frame.aux} to {frame.aux}; there is 1"
        )
    if wrong := wrong_limit(hello):
        raise Violation(wrong)
    if len(frame.payload) > 64 * 1024:
        raise Violation(f"a HELLO of {len(frame.payload)} bytes; it is at most 64 KiB")
    if not set(hello.codecs) & set(CODECS):
        raise Violation(f"it offers the codecs {list(hello.codecs)}; there are json and msgpack")
    unknown = set(offer) - set(Hello.__struct_fields__)
    if unknown:
        raise Violation(f"HELLO has fields that there are not: {', '.join(sorted(unknown))}")


@tried(
    "hello-named",
    "4",
    "its HELLO has a name",
    "of the plugin: the proxy's log has it",
    'Write "name" into HELLO.',
    severity="should",
)
def hello_named(trial: Trial) -> None:
    link = trial.fresh().link
    if not link.take_offer().get("name"):
        raise Violation("HELLO has no name")


@tried(
    "hello-then-silence",
    "4",
    "nothing follows its HELLO until the host's",
    "Before the host's HELLO the plugin sends nothing else.",
    "Keep logs and metrics until the host's HELLO has come.",
)
def hello_then_silence(trial: Trial) -> None:
    link = trial.fresh().link
    link.take_offer()
    if (frame := link.quiet(QUIET)) is not None:
        raise Violation(f"{frame.name} came before the host's HELLO")


@tried(
    "hello-refused",
    "4",
    "it ends where the host refuses it",
    "If there is nothing in common, the host sends GOAWAY with a reason, which is worth printing, "
    "and\ncloses.",
    "Read GOAWAY in place of HELLO; close the connection then.",
)
def hello_refused(trial: Trial) -> None:
    running = trial.fresh()
    running.link.take_offer()
    running.link.send(frame_bytes(FrameType.GOAWAY, payload=b'{"reason":"%s"}' % REASON.encode()))
    running.link.expect_end("after the host's GOAWAY in place of HELLO")


@tried(
    "hello-refused-printed",
    "4",
    "it prints why the host refused it",
    "the host sends GOAWAY with a reason, which is worth printing",
    "Write the reason of GOAWAY to standard error.",
    severity="should",
)
def hello_refused_printed(trial: Trial) -> None:
    running = trial.fresh()
    running.link.take_offer()
    if not trial.target.spawns:
        raise Skipped("what it prints is known of a process that is started for the connection")
    running.link.send(frame_bytes(FrameType.GOAWAY, payload=b'{"reason":"%s"}' % REASON.encode()))
    running.link.expect_end("after the host's GOAWAY in place of HELLO")
    running.exit_status("after the host's GOAWAY in place of HELLO")
    if REASON not in running.output:
        raise Violation("the reason of the host's GOAWAY is not in what it printed")


@tried(
    "version-not-offered",
    "4",
    "it takes no protocol version that it did not offer",
    "The host answers with a HELLO whose `aux` is\nthe chosen version, the highest that both speak",
    "Look at aux of the host's HELLO; close the connection if you do not speak that version.",
)
def version_not_offered(trial: Trial) -> None:
    link = trial.fresh().link
    link.take_offer()
    link.send(link.hello(_json_or_not(link), aux=link.offer_frame.aux + 1))
    link.expect_end("after a HELLO with a version that it did not offer")


@tried(
    "codec-not-offered",
    "4",
    "it takes no codec that it did not offer",
    "A plugin that offers only JSON will get\nnothing but JSON.",
    "Look at codec of the host's HELLO; close the connection if you did not offer it.",
)
def codec_not_offered(trial: Trial) -> None:
    link = trial.fresh().link
    offer = link.take_offer()
    missing = [name for name in CODECS if name not in (offer.get("codecs") or ["json"])]
    link.send(link.hello(missing[0] if missing else "cbor"))
    link.expect_end("after a HELLO with a codec that it did not offer")


@tried(
    "codec-msgpack",
    "4",
    "a plugin that offers MessagePack speaks it",
    "`msgpack`\nwhere offered, else `json`. From then on both use it.",
    'Leave "msgpack" out of codecs, or read and write it.',
)
def codec_msgpack(trial: Trial) -> None:
    link = trial.fresh().link
    offer = link.take_offer()
    if "msgpack" not in (offer.get("codecs") or ["json"]):
        raise Skipped("it offers JSON alone")
    link.send(link.hello("msgpack"))
    trial.initialize(link)
    link.call(Method.HEALTH_CHECK)
    link.call(Method.EXECUTE, {"operation": "prism_conformance_nothing"})
    link.call(Method.SHUTDOWN, {"timeout_seconds": 5})


@tried(
    "hello-unknown-fields",
    "14",
    "it ignores what it does not know in the host's HELLO",
    "Within version 1: new fields, flags, metadata keys and HELLO features may appear; ignore what "
    "you do\nnot know.",
    "Read only the fields that you know of any message.",
)
def hello_unknown_fields(trial: Trial) -> None:
    link = trial.fresh().link
    link.take_offer()
    codec = _json_or_not(link)
    link.send(link.hello(codec, features=["new"], future={"a": [1, None]}))
    trial.initialize(link)


def _json_or_not(link: Link) -> str:
    return "json" if "json" in (link.offer.get("codecs") or ["json"]) else "msgpack"


@tried(
    "frames-cut",
    "3",
    "it reads frames however they are cut",
    "Bytes arrive in any portions.",
    "Collect what comes until a header, and then its payload, is whole.",
)
def frames_cut(trial: Trial) -> None:
    link = trial.greeted(chunk=1).link
    trial.initialize(link)
    link.call(Method.HEALTH_CHECK)


@tried(
    "frames-together",
    "3",
    "it reads many frames that come at once",
    "Keep them until there are 16, read the header",
    "After a frame, look whether the next one is there already, before you wait for more bytes.",
)
def frames_together(trial: Trial) -> None:
    link = trial.fresh().link
    link.take_offer()
    hello = link.hello(_json_or_not(link))
    first, initialize = link.open(Method.INITIALIZE, trial.setup.initialize())
    later = [link.open(Method.HEALTH_CHECK) for _ in range(3)]
    link.send(hello, initialize, *(raw for _, raw in later))
    for stream in (first, *(stream for stream, _ in later)):
        link.close_of(stream)


@tried(
    "header-first-type",
    "3",
    "an unknown type ends the connection, before its payload",
    "an unknown type, or a `length` above what you announced as\n`max_frame`, breaks the protocol.",
    "Check the type as soon as the 16 bytes of the header are there; close the connection.",
)
def header_first_type(trial: Trial) -> None:
    link = trial.ready().link
    link.send_bytes(frame_bytes(77, 3, length=100), "a header of type 77, 100 bytes to come")
    link.expect_end("after a frame of type 77, whose payload has not come")


@tried(
    "header-first-length",
    "3",
    "a payload that is too long ends the connection, before it comes",
    "Never allocate what a header claims before you have checked it.",
    "Compare length with your max_frame as soon as the header is there; close the connection.",
)
def header_first_length(trial: Trial) -> None:
    link = trial.ready().link
    length = int(link.offer.get("max_frame") or 1024 * 1024) + 1
    if length >= 2**32:
        raise Skipped("its max_frame is the largest number")
    header = frame_bytes(FrameType.OPEN, 99, flags=END, codec=1, method=3, length=length)
    link.send_bytes(header, f"the header of an OPEN of {length} bytes, which do not come")
    link.expect_end(f"after the header of a frame of {length} bytes, one more than its max_frame")


_BROKEN_HEADERS = [
    ("frame-on-wrong-stream", "OPEN on stream 0", frame_bytes(FrameType.OPEN, 0, b"{}", method=2)),
    ("ping-on-a-call", "PING on stream 5", frame_bytes(FrameType.PING, 5)),
    ("cancel-with-payload", "CANCEL with a payload", frame_bytes(FrameType.CANCEL, 1, b"{}")),
    ("hello-again", "a second HELLO", frame_bytes(FrameType.HELLO, 0, b'{"codec":"json"}', aux=1)),
    ("open-even-id", "OPEN with an even id", frame_bytes(FrameType.OPEN, 1000, b"{}", method=2)),
    ("open-id-again", "OPEN with the id of the first call",
     frame_bytes(FrameType.OPEN, 1, b"{}", method=2)),
    ("open-unknown-method", "OPEN of method 6", frame_bytes(FrameType.OPEN, 1001, b"{}", method=6)),
    ("frame-never-opened", "CANCEL for a call that was never opened",
     frame_bytes(FrameType.CANCEL, 999, aux=1)),
    ("data-never-opened", "DATA for a call that was never opened",
     frame_bytes(FrameType.DATA, 999, b"{}")),
]  # fmt: skip
_SENTENCES = {
    "frame-on-wrong-stream": (
        "3",
        "`stream` is the call's\nid, 0 for frames about the connection itself.",
        "Check that OPEN, DATA, CLOSE, CANCEL and CREDIT have a stream.",
    ),
    "ping-on-a-call": (
        "3",
        "`stream` is the call's\nid, 0 for frames about the connection itself.",
        "Check that HELLO, PING, GOAWAY and NOTE have stream 0.",
    ),
    "cancel-with-payload": (
        "3",
        "Frames that carry no\nmessage (CANCEL, CREDIT, PING, GOAWAY)",
        "Check that CANCEL, CREDIT and PING have length 0.",
    ),
    "hello-again": (
        "10",
        "A frame that has no entry in the state's row\nbreaks the protocol; sending one is a bug.",
        "Close the connection on a second HELLO.",
    ),
    "open-even-id": (
        "5",
        "The host numbers its calls 1, 3, 5, …",
        "Check that the id of an OPEN is odd.",
    ),
    "open-id-again": (
        "5",
        "Ids only grow, may leave gaps, and are never used twice on a connection.",
        "Keep the highest id that was opened; close the connection on one that is not above it.",
    ),
    "open-unknown-method": (
        "14",
        "New frame types, methods and codecs are used only after both sides have said in HELLO "
        "that\nthey know them.",
        "Close the connection on a method that is not 1 to 5.",
    ),
    "frame-never-opened": (
        "5",
        "A frame for a call that was *never opened* breaks the protocol.",
        "Compare the id with the highest that was opened; close the connection if it is above.",
    ),
    "data-never-opened": (
        "5",
        "A frame for a call that was *never opened* breaks the protocol.",
        "Compare the id with the highest that was opened; close the connection if it is above.",
    ),
}


def _breaks_off(name: str, what: str, data: bytes) -> None:
    section, sentence, fix = _SENTENCES[name]

    @tried(name, section, f"{what} ends the connection", sentence, fix)
    def play(trial: Trial) -> None:
        link = trial.ready().link
        link.send(data)
        _expect_broken(link, what)


for each in _BROKEN_HEADERS:
    _breaks_off(*each)


def _expect_broken(link: Link, what: str) -> None:
    frames = link.expect_end(f"after {what}")
    closed = [each for each in frames if each.kind == FrameType.CLOSE]
    if closed:
        raise Violation(f"{what} was answered with CLOSE of call {closed[0].stream}")


_BROKEN_PAYLOADS = {
    "payload-not-json": ("text that is not JSON", b'{"operation'),
    "payload-two-values": ("two JSON values", b'{}{"a":1}'),
    "payload-no-object": ("a JSON array", b'["a"]'),
    "payload-not-utf8": ("invalid UTF-8", b'{"operation":"\xff\xfe"}'),
}


def _breaks_off_payload(name: str, what: str, payload: bytes) -> None:
    @tried(
        name,
        "3",
        f"a payload of {what} ends the connection",
        "A message is one JSON object (UTF-8) or one MessagePack map with string keys; nothing\n"
        "follows it.",
        "Parse the payload strictly; on an error send GOAWAY with a reason, and close.",
    )
    def play(trial: Trial) -> None:
        if "json" not in trial.learned().codecs:
            raise Skipped("it does not offer JSON")
        link = trial.ready().link
        link.begin(Method.EXECUTE, payload)
        _expect_broken(link, f"a payload of {what}")


for name, (what, payload) in _BROKEN_PAYLOADS.items():
    _breaks_off_payload(name, what, payload)


@tried(
    "payload-wrong-codec",
    "3",
    "a payload in another codec ends the connection",
    "Every payload but those of HELLO and GOAWAY must be\nin the codec that the handshake settled.",
    "Compare byte 10 of a frame that has a payload with the codec of the host's HELLO.",
)
def payload_wrong_codec(trial: Trial) -> None:
    link = trial.ready().link
    link.begin(Method.EXECUTE, b"\x80", codec=3 - link.codec)
    _expect_broken(link, "a payload in the codec that was not settled")


@tried(
    "goaway-told",
    "11",
    "it tells by GOAWAY which rule was broken",
    "There is nothing to repair: send GOAWAY\nwith a reason if you can, and close.",
    'Send GOAWAY with {"reason": "..."} before you close because of a broken rule.',
    severity="should",
)
def goaway_told(trial: Trial) -> None:
    link = trial.ready().link
    link.send(frame_bytes(FrameType.CANCEL, 999, aux=1))
    frames = link.expect_end("after a frame for a call that was never opened")
    if not any(each.kind == FrameType.GOAWAY and each.payload for each in frames):
        raise Violation("it closed the connection without a GOAWAY that has a reason")


@tried(
    "reserved-ignored",
    "3",
    "it ignores unknown flags, and what a frame does not use",
    "What a frame does not use, a sender leaves 0 and a\nreader ignores.",
    "Look only at the flags and fields that a frame of the type uses.",
    needs=Needs.SHARED,
)
def reserved_ignored(trial: Trial) -> None:
    link = trial.shared()
    stream = link.begin(Method.HEALTH_CHECK, {}, flags=END | 0xF0)
    link.close_of(stream)
    link.watch.pinged(7)
    link.send(frame_bytes(FrameType.PING, flags=0xF0, codec=1, method=4, aux=7))
    link.pong(7)


@tried(
    "empty-payload",
    "3",
    "an empty payload is the message with all defaults",
    "An empty payload is the message with all defaults.",
    "Take length 0 for {}.",
    needs=Needs.SHARED,
)
def empty_payload(trial: Trial) -> None:
    link = trial.shared()
    health = link.call(Method.HEALTH_CHECK, None)
    if not health.ok:
        raise Violation(f"a HealthCheck without a payload has status {health.status}")
    nothing = link.call(Method.EXECUTE, None)
    if nothing.ok:
        raise Violation("an Execute that names no operation has status OK")


@tried(
    "unknown-fields",
    "3",
    "it ignores fields that it does not know",
    "A field you do not\nknow is to be ignored.",
    "Read only the fields that you know; skip the others, however they are nested.",
    needs=Needs.SHARED,
)
def unknown_fields(trial: Trial) -> None:
    link = trial.shared()
    deep: object = []
    for _ in range(90):
        deep = [deep]
    call = trial.learned().any_unary()
    plain = link.call(Method.EXECUTE, call.request())
    odd = {"future": {"deep": deep, "n": 1e300, "t": "\u2028"}, **call.request()}
    odder = link.call(Method.EXECUTE, odd)
    if odder.status != plain.status:
        raise Violation(
            f"a call has status {plain.status}; with a field that nobody knows, {odder.status}"
        )


@tried(
    "duplicate-keys",
    "3",
    "of a key that comes twice, the last counts",
    "If a key comes twice, the\nlast one counts.",
    "Use a parser that keeps the last of several values; most do.",
    needs=Needs.SHARED,
)
def duplicate_keys(trial: Trial) -> None:
    link = trial.shared()
    if link.codec != CODECS["json"]:
        raise Skipped("it does not offer JSON")
    call = trial.learned().good()
    text = '{"operation":"prism_conformance_nothing",' + json.dumps(call.request())[1:]
    answer = link.call(Method.EXECUTE, text.encode())
    if not answer.ok:
        raise Violation(f"of two values of `operation` the first was taken: {answer.message}")
