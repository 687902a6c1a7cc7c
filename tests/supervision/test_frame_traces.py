"""What of a plugin's frames is told to who watches them, of each way to reach one."""

import json
import socket
import subprocess
import sys

import pytest
import trio
from supervised_plugin import leased_call, supervised

from prism.contract.errors import InvalidRequest
from prism.contract.redaction import Redaction
from prism.contract.service import Method
from prism.supervision.frame_traces import MAX_SHOWN, FrameTraces, TracedFrame
from prism.wire.frames import Codec, Frame, FrameType

PASSWORD = "hunter2-of-the-traces"


async def told(follower, *, until):
    """The frames up to the first that ``until`` says yes to."""
    frames = []
    with trio.fail_after(60):
        async for frame in follower:
            assert isinstance(frame, TracedFrame)
            frames.append(frame)
            if until(frame):
                return frames
    raise AssertionError


def is_close(frame):
    return frame.kind == "CLOSE"


@pytest.mark.parametrize("way", ["descriptor", "dials", "listens"])
async def test_the_frames_of_a_call(make_spec, program, tmp_path, way):
    path = str(tmp_path / "d" / "s")
    (tmp_path / "d").mkdir(mode=0o700)
    command = [sys.executable, program]
    plugin = {
        "descriptor": {},
        "dials": {"command": command, "socket": path},
        "listens": {
            "command": [*command, "--listen", f"unix:{path}"],
            "socket": path,
            "dial": True,
        },
    }[way]
    async with supervised(make_spec(**plugin)) as supervisor:
        slot = supervisor.slots["ns"]
        await leased_call(slot, "pid")  # which nobody sees
        channel = slot.current.channel
        assert channel._link._tap is None
        with supervisor.frames("ns").watch(payloads=False) as feed, feed.follow() as follower:
            number = await leased_call(slot, "pid")
            frames = await told(follower, until=is_close)
            opened, closed = (each for each in frames if each.call)
        assert channel._link._tap is None
    assert (opened.sender, opened.kind, opened.method) == ("proxy", "OPEN", "Execute")
    assert (opened.instance, opened.flags) == ("ns/1", ["END"])
    assert json.loads(opened.payload)["operation"] == "pid"
    assert (closed.sender, closed.status, closed.call) == ("plugin", "OK", opened.call)
    assert str(number) not in closed.payload
    assert json.loads(closed.payload)["success"] is True


async def test_the_handshake_of_the_next_instance_is_seen(make_spec):
    async with supervised(make_spec()) as supervisor:
        with supervisor.frames("ns").watch(payloads=True) as feed, feed.follow() as follower:
            await supervisor.reload("ns")
            frames = await told(follower, until=lambda each: each.method == "Initialize")
    new = [each for each in frames if each.instance == "ns/2"]
    assert [(each.sender, each.kind) for each in new] == [
        ("plugin", "HELLO"),
        ("proxy", "HELLO"),
        ("proxy", "OPEN"),
    ]
    assert json.loads(new[0].payload)["name"] == "small"


async def test_a_plugin_in_this_process_has_none(in_process):
    async with supervised(in_process()) as supervisor:
        with pytest.raises(InvalidRequest, match="in the proxy's own process, so there are no"):
            supervisor.frames("ns")


async def test_a_library_in_this_process_has_none(make_spec, tmp_path):
    library = str(tmp_path / "libabsent.so")  # whether it can be loaded does not matter
    spec = make_spec(type="in_process", library=library, isolation="none")
    async with supervised(spec) as supervisor:
        with pytest.raises(InvalidRequest, match="in the proxy's own process, so there are no"):
            supervisor.frames("ns")


async def test_a_plugin_that_is_called_over_grpc_has_none(make_spec):
    spec = make_spec(type="grpc", endpoint="127.0.0.1:1", insecure=True)
    async with supervised(spec) as supervisor:
        with pytest.raises(InvalidRequest, match="is called over gRPC, so there are no frames"):
            supervisor.frames("ns")


@pytest.mark.parametrize(("kind", "way"), [("remote", "tcp"), ("websocket", "ws")])
async def test_the_frames_of_a_plugin_behind_tcp(make_spec, program, kind, way):
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, program, "--listen", f"{way}:{where}", "--insecure"]
    listens = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE)
    try:
        await listens.stderr.receive_some()  # it says that it listens
        spec = make_spec(type=kind, endpoint=where, insecure=True)
        async with supervised(spec) as supervisor:
            slot = supervisor.slots["ns"]
            with supervisor.frames("ns").watch(payloads=False) as feed, feed.follow() as follower:
                await leased_call(slot, "pid")
                frames = await told(follower, until=is_close)
        assert [each.kind for each in frames if each.call] == ["OPEN", "CLOSE"]
    finally:
        listens.terminate()
        await listens.wait()
        await listens.stderr.aclose()


class Channel:
    """Stands for one that is tapped."""

    def __init__(self):
        self.publish = None

    def tap(self, publish):
        self.publish = publish

    def untap(self):
        self.publish = None


def shown(frame, *, payloads, credentials=None):
    traces, channel = FrameTraces(clock=lambda: 5.0), Channel()
    redaction = Redaction(credentials)
    with (
        traces.traced(channel, "ns/1", lambda: redaction),
        traces.watch(payloads=payloads) as feed,
    ):
        found = []
        feed.publish = found.append
        channel.publish("proxy", frame)
    assert channel.publish is None
    (traced,) = found
    return traced


def opened(message, method=Method.EXECUTE):
    payload = json.dumps(message).encode()
    return Frame(FrameType.OPEN, 3, 1, Codec.JSON, method, 1500, payload)


INITIALIZE = opened(
    {"namespace": "ns", "config_json": "{}", "credentials": {"password": PASSWORD, "user": "ada"}},
    Method.INITIALIZE,
)


@pytest.mark.parametrize("payloads", [False, True])
def test_credentials_are_blanked_though_they_are_not_known_yet(payloads):
    text = shown(INITIALIZE, payloads=payloads).payload
    assert PASSWORD not in text
    assert "ada" not in text
    assert '"password":"<21 characters>"' in text


@pytest.mark.parametrize("name", ["name", "reason", "version"])
def test_what_is_called_as_a_field_that_is_told_is_not_told_for_that(name):
    given = {"credentials": {name: PASSWORD}}
    assert PASSWORD not in shown(opened(given, Method.INITIALIZE), payloads=True).payload
    given = {"operation": "echo", "metadata": {name: "of a client"}}
    text = shown(opened(given), payloads=False).payload
    assert json.loads(text) == {"operation": "echo", "metadata": {name: "<11 characters>"}}


def test_credentials_that_are_known_are_blanked_in_all_that_is_shown():
    frame = opened({"operation": "echo", "params_json": f'{{"a":"{PASSWORD}"}}'})
    credentials = {"password": PASSWORD}
    text = shown(frame, payloads=True, credentials=credentials).payload
    assert "[redacted]" in text
    assert PASSWORD not in text
    assert shown(frame, payloads=True).payload.count(PASSWORD) == 1


def test_long_payloads_are_shortened():
    frame = opened({"operation": "echo", "params_json": "x" * 10_000})
    assert len(shown(frame, payloads=True).payload) == MAX_SHOWN + len("...")
    short = shown(frame, payloads=False).payload
    assert json.loads(short) == {"operation": "echo", "params_json": "<10000 characters>"}


@pytest.mark.parametrize("payloads", [False, True])
def test_what_is_no_message(payloads):
    frame = Frame(FrameType.CLOSE, 3, 0, Codec.MSGPACK, 0, 0, b"\xc1")
    assert shown(frame, payloads=payloads).payload == "(no message)"


async def test_who_is_slow_loses_the_oldest():
    traces, channel = FrameTraces(), Channel()
    with (
        traces.traced(channel, "ns/1", Redaction),
        traces.watch(payloads=False) as feed,
        feed.follow(unread=2) as follower,
    ):
        for stream in (1, 3, 5):
            channel.publish("proxy", Frame(FrameType.CANCEL, stream, 0, 0, 0, 1, b""))
        assert (await anext(follower)).number == 1
        assert [(await anext(follower)).call for _ in range(2)] == [3, 5]
