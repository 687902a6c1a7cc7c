"""Cases about ExecuteStream: half-close, credit, and who may be called how."""

from contextlib import suppress

from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.sdk.conformance.cases_calls import NOTHING, expect
from prism.sdk.conformance.link import Limits, Link, frame_bytes
from prism.sdk.conformance.rules import Needs, Skipped, Violation, tried
from prism.sdk.conformance.runner import Trial
from prism.wire.frames import HEADER_SIZE, Frame, FrameType

_OTHER_METHOD = "A call by the other method is answered UNIMPLEMENTED, with a sentence."
SMALL_WINDOW = 64
MAX_MESSAGES = 200
"""Messages of a stream that are looked at."""


@tried(
    "stream-of-unary",
    "6",
    "ExecuteStream of an operation without a stream is UNIMPLEMENTED",
    _OTHER_METHOD,
    "Answer ExecuteStream with UNIMPLEMENTED (12) unless the operation is streaming or "
    "also_streaming.",
    needs=Needs.SHARED,
)
def stream_of_unary(trial: Trial) -> None:
    link = trial.shared()
    name = trial.learned().unary_only()
    for flags in (0, 1):
        request = {"operation": name, "params_json": "{}"}
        answer = link.call(Method.EXECUTE_STREAM, request, flags=flags)
        expect(answer, StatusCode.UNIMPLEMENTED, f"an ExecuteStream of {name}")


@tried(
    "stream-unknown",
    "6",
    "ExecuteStream of an operation that there is not is UNIMPLEMENTED",
    "A plugin without streaming operations closes every ExecuteStream with UNIMPLEMENTED",
    "Answer UNIMPLEMENTED (12).",
    needs=Needs.SHARED,
)
def stream_unknown(trial: Trial) -> None:
    request = {"operation": NOTHING, "params_json": "{}"}
    answer = trial.shared().call(Method.EXECUTE_STREAM, request)
    expect(answer, StatusCode.UNIMPLEMENTED, f"an ExecuteStream of {NOTHING}")


@tried(
    "stream-data-late",
    "6",
    "DATA that was under way for a stream that is closed is ignored",
    "never sees\nDATA, except some that was under way: ignore it.",
    "Drop DATA for an id that you do not know, but have seen.",
    needs=Needs.SHARED,
)
def stream_data_late(trial: Trial) -> None:
    link = trial.shared()
    stream, raw = link.open(Method.EXECUTE_STREAM, {"operation": NOTHING}, flags=0)
    more = [link.data(stream, {"params_json": "{}"}) for _ in range(3)]
    link.send(raw, *more, link.data(stream, None, end=True))
    link.close_of(stream)


@tried(
    "execute-of-stream",
    "6",
    "Execute of an operation that is a stream is UNIMPLEMENTED",
    _OTHER_METHOD,
    "Answer Execute of an operation that is declared streaming with UNIMPLEMENTED (12).",
    needs=Needs.SHARED,
)
def execute_of_stream(trial: Trial) -> None:
    link = trial.shared()
    names = trial.learned().streaming_names(only=True)
    if not names:
        raise Skipped("it has no operation that is a stream alone")
    answer = link.call(Method.EXECUTE, {"operation": names[0], "params_json": "{}"})
    expect(answer, StatusCode.UNIMPLEMENTED, f"an Execute of {names[0]}")


def _start(
    trial: Trial, link: Link, *, end: bool = True, aux: int = 0, talking: bool = False
) -> int:
    """Open a stream that is known, and send what its client says; ``talking``: rather one whose
    client goes on."""
    call = trial.learned().stream()
    if talking:
        with suppress(Skipped):
            call = trial.facts.stream(talking=True)
    last = end and not call.more
    stream, raw = link.open(Method.EXECUTE_STREAM, call.request(), flags=int(last), aux=aux)
    frames = [raw]
    for number, params in enumerate(call.more, 1):
        done = end and number == len(call.more)
        frames.append(link.data(stream, {"params_json": params}, end=done))
    link.send(*frames)
    return stream


def _next(link: Link, stream: int) -> Frame:
    return link.wait(
        lambda frame: frame.stream == stream and frame.kind in (FrameType.DATA, FrameType.CLOSE),
        f"a message of stream {stream}, or its CLOSE",
    )


@tried(
    "stream-cancel",
    "5",
    "a stream that is cancelled gets its CLOSE",
    "**There is exactly one CLOSE for every OPEN**, whatever\nhappens",
    "Stop the stream at CANCEL, and close it.",
    needs=Needs.SHARED,
)
def stream_cancel(trial: Trial) -> None:
    trial.learned().stream()
    link = trial.shared()
    stream = _start(trial, link, end=False, talking=True)
    link.send(link.cancel(stream))
    link.close_of(stream)


@tried(
    "stream-half-close",
    "6",
    "a half-close without a message is no request",
    "do not take it for a\nrequest.",
    "Take DATA with END and an empty message for the end of what the client says.",
    needs=Needs.SHARED,
)
def stream_half_close(trial: Trial) -> None:
    trial.learned().stream()
    link = trial.shared()
    for empty in (None, b"{}" if link.codec == 1 else b"\x80"):
        stream = _start(trial, link, end=False, talking=True)
        link.send(link.data(stream, empty, end=True))
        for _ in range(MAX_MESSAGES):
            frame = _next_or_none(link, stream)
            if frame is None or frame.kind == FrameType.CLOSE:
                break
            link.send(link.credit(stream, HEADER_SIZE + len(frame.payload)))
        if frame is not None and frame.kind == FrameType.CLOSE:
            if frame.aux == StatusCode.INVALID_ARGUMENT:
                raise Violation("an empty DATA with END was taken for a request, and refused")
            continue
        link.send(link.cancel(stream))  # it goes on by itself, which it may
        link.close_of(stream)


def _next_or_none(link: Link, stream: int) -> Frame | None:
    try:
        return link.wait(
            lambda frame: (
                frame.stream == stream and frame.kind in (FrameType.DATA, FrameType.CLOSE)
            ),
            "a message",
            0.2,
        )
    except Violation:
        if link.ended:
            raise
        return None


@tried(
    "stream-credit",
    "6",
    "it waits for credit, and goes on when it comes",
    "A sender may send while its credit is above 0 (so the last one may take it below), and must "
    "wait otherwise.",
    "Keep a number for each stream: the host's window, less 16 + length for each DATA, plus each "
    "CREDIT; send while it is above 0.",
)
def stream_credit(trial: Trial) -> None:
    trial.learned().stream()
    link = trial.ready(Limits(window=SMALL_WINDOW)).link
    stream = _start(trial, link)
    messages = 0
    waited = False
    frame: Frame | None
    while messages < MAX_MESSAGES:
        if link.watch.credit_of(stream) <= 0:
            waited = True
            link.ping()  # if it sends more without credit, that comes, and the watch tells
            come = link.take_here(stream)
            messages += len(come)
            if any(each.kind == FrameType.CLOSE for each in come):
                break
            link.send(link.credit(stream, SMALL_WINDOW - link.watch.credit_of(stream)))
            frame = _next(link, stream)
        else:
            frame = _next_or_none(link, stream) if messages else _next(link, stream)
        if frame is None or frame.kind == FrameType.CLOSE:
            break
        messages += 1
    if link.watch.has_found("credit-obeyed"):
        raise Violation("it sent DATA without credit")
    if not waited:
        raise Skipped(f"the stream said less than {SMALL_WINDOW} bytes")


@tried(
    "stream-credit-given",
    "6",
    "it gives credit back for what it has dealt with",
    "The reader gives back what it has dealt\nwith by CREDIT; give back several messages' worth at "
    "once, at the latest at half the window.",
    "Add up 16 + length of the DATA that the operation has taken; send CREDIT when it is half your "
    "window.",
)
def stream_credit_given(trial: Trial) -> None:
    call = trial.learned().stream(talking=True)
    link = trial.ready().link
    window = int(link.offer.get("window") or 256 * 1024)
    if window > 4 * 1024 * 1024:
        raise Skipped(f"its window is {window} bytes")
    stream = link.begin(Method.EXECUTE_STREAM, call.request(), flags=0, aux=0)
    size, given = 0, 0
    index = 0
    while size < 2 * window:
        raw = link.data(stream, {"params_json": call.more[index % len(call.more)]})
        index += 1
        while window - size + given <= 0:
            frame = link.wait(
                lambda each: (
                    each.stream == stream
                    and each.kind in (FrameType.CREDIT, FrameType.CLOSE, FrameType.DATA)
                ),
                f"CREDIT for stream {stream}, which has used its window of {window} bytes",
            )
            if frame.kind == FrameType.CLOSE:
                raise Skipped(f"the stream ended with status {frame.aux} before its window did")
            if frame.kind == FrameType.DATA:
                link.send(link.credit(stream, HEADER_SIZE + len(frame.payload)))
            else:
                given += frame.aux
        size += len(raw)
        link.send(raw)
    link.send(link.cancel(stream))
    link.close_of(stream)


@tried(
    "stream-overrun",
    "12",
    "DATA beyond its window ends that call alone",
    "| DATA per call | the reader's `window` | that call ends; a plugin closes it with "
    "RESOURCE_EXHAUSTED or CANCELLED |",
    "Count what a stream has received and not given back; close the call, not the connection, "
    "when it is more than your window.",
)
def stream_overrun(trial: Trial) -> None:
    call = trial.learned().stream()
    with suppress(Skipped):
        call = trial.facts.stream(talking=True)
    link = trial.ready().link
    window = int(link.offer.get("window") or 256 * 1024)
    if window > 4 * 1024 * 1024:
        raise Skipped(f"its window is {window} bytes")
    stream = _start(trial, link, end=False, talking=True)
    more = call.more[0] if call.more else call.params
    raw = link.data(stream, {"params_json": more})
    link.send_bytes(raw * (2 * window // len(raw) + 2), "DATA beyond its window")
    link.ping()
    link.send(link.cancel(stream))
    link.close_of(stream)
    link.call(Method.HEALTH_CHECK, {})


@tried(
    "credit-for-unary",
    "10",
    "CREDIT for a call without a stream does no harm",
    "and CREDIT is legal in both\ndirections.",
    "Ignore CREDIT of a call that sends no DATA.",
    needs=Needs.SHARED,
)
def credit_for_unary(trial: Trial) -> None:
    link = trial.shared()
    call = trial.learned().any_unary()
    stream, raw = link.open(Method.EXECUTE, call.request())
    link.send(raw, frame_bytes(FrameType.CREDIT, stream, aux=4096))
    link.close_of(stream)
