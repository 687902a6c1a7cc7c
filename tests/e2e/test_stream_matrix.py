"""The same streams through every front door, to a plugin behind every kind of channel."""

import threading
import time
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
from prism_process import LIMIT, eventually, settled
from stream_channels import LIMITS, NAMESPACES, STREAM_CHANNELS, open_streams
from stream_doors import STREAM_DOORS, StreamFailed

from prism.server.settings import ServerSettings

MIB = 2**20

pytestmark = [pytest.mark.slow, pytest.mark.matrix("behind", "door")]


@pytest.fixture(scope="module", params=STREAM_CHANNELS)
def behind(request, start_shared_prism, start_shared_process, tmp_path_factory):
    """``proxy``, and ``plugin``: how its plugin is reached."""
    plugin = STREAM_CHANNELS[request.param](start_shared_process, tmp_path_factory.mktemp("plugin"))
    return SimpleNamespace(proxy=open_streams(start_shared_prism, plugin), plugin=plugin)


@pytest.fixture
def proxy(behind):
    return behind.proxy


def through(*needs):
    """Parametrize with the doors that have all of ``needs``."""
    doors = [
        pytest.param(door, id=name)
        for name, door in STREAM_DOORS.items()
        if all(getattr(door, need) for need in needs)
    ]
    return pytest.mark.parametrize("door", doors)


every_door = through()
doors_that_send = through("sends")
doors_in_turn = through("sends", "in_turn")
doors_with_positions = through("positions")


@pytest.fixture
def opened(door, proxy):
    """Opens a stream through the door; it is left with the block, and leaves nothing behind."""

    @contextmanager
    def opened(operation, *, namespace="kv", **options):
        headers = {name: options.pop(name) for name in ("timeout", "resume_after") & options.keys()}
        stream = door(proxy.port, f"/v1/{namespace}/{operation}", options, **headers)
        try:
            yield stream
        finally:
            stream.leave()

    yield opened
    open_streams = partial(proxy.metric, "prism_streams_open")
    eventually(lambda: not any(open_streams(namespace=namespace) for namespace in NAMESPACES))


def failure_of(stream):
    """How the stream failed, and the values before."""
    values = []
    try:
        values.extend(message.value for message in iter(stream.receive, None))
    except StreamFailed as failure:
        return failure.code, failure.reason, values
    return pytest.fail(f"it ended well, after {values}")


def seen(proxy, namespace="kv"):
    return proxy.call(namespace, "seen").json()


def unharmed(proxy, namespace="kv"):
    return proxy.call(namespace, "echo", {"a": 1}).json() == {"a": 1}


@every_door
def test_messages_come_in_order_and_end(opened):
    with opened("count", n=2000) as stream:
        stream.end()
        assert stream.values() == list(range(2000))


@every_door
def test_a_stream_of_none(opened):
    with opened("count", n=0) as stream:
        stream.end()
        assert stream.receive() is None


@doors_with_positions
def test_positions_are_shown(opened):
    with opened("count", n=3) as stream:
        stream.end()
        assert [message.position for message in iter(stream.receive, None)] == ["1", "2", "3"]


@every_door
def test_it_is_resumed(opened):
    with opened("count", n=5, resume_after="3") as stream:
        stream.end()
        assert stream.values() == [3, 4]


@every_door
def test_what_the_plugin_is_told(opened, proxy):
    with opened("told") as stream:
        stream.end()
        (told,) = stream.values()
    assert told["prism-namespace"] == "kv"
    assert told["prism-principal"] == "anonymous"
    record = eventually(
        lambda: [r for r in proxy.records if r.get("request_id") == told["prism-request-id"]]
    )[0]
    assert (record["namespace"], record["operation"]) == ("kv", "told")


@every_door
@pytest.mark.parametrize("before", [0, 3])
def test_the_plugins_error_comes_after_its_messages(opened, before):
    with opened("fail", n=before) as stream:
        stream.end()
        assert failure_of(stream) == ("DATA_LOSS", "plugin_error", list(range(before)))


@every_door
@pytest.mark.parametrize(
    ("operation", "params", "code"),
    [
        ("count", {"n": "three"}, "INVALID_ARGUMENT"),
        ("nothing", {}, "UNIMPLEMENTED"),
        ("echo", {}, "INVALID_ARGUMENT"),
    ],
)
def test_what_is_no_stream_is_refused(opened, operation, params, code):
    with opened(operation, **params) as stream:
        stream.end()
        assert failure_of(stream)[0] == code


@every_door
def test_an_unknown_namespace(opened):
    with opened("count", namespace="nowhere") as stream:
        stream.end()
        assert failure_of(stream) == ("NOT_FOUND", "unknown_namespace", [])


@every_door
def test_a_large_message_from_the_plugin(opened):
    with opened("count", n=2, size=200_000) as stream:
        stream.end()
        assert [len(value) for value in stream.values()] == [200_000] * 2


@doors_that_send
def test_the_clients_messages_are_taken_to_their_end(opened):
    with opened("total", n=1) as stream:
        for n in range(500):
            stream.send({"n": n})
        stream.end()
        assert stream.values() == [1 + sum(range(500))]


@doors_that_send
def test_a_large_message_from_the_client(opened):
    with opened("chat", text="hi") as stream:
        stream.send({"text": "x" * 200_000})
        stream.end()
        hi, large, bye = stream.values()
        assert (hi, len(large), bye) == ("hi", 200_000, "bye")


@doors_in_turn
def test_question_and_answer(opened):
    with opened("chat", text="hi") as stream:
        assert stream.receive().value == "hi"
        for n in range(100):
            stream.send({"text": f"m{n}"})
            assert stream.receive().value == f"M{n}"
        stream.end()
        assert stream.values() == ["bye"]


@doors_that_send
@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{broken", "INVALID_ARGUMENT"),
        ("[1]", "INVALID_ARGUMENT"),
        ('{"text": "' + "x" * (LIMITS["max_payload_bytes"] + 100_000) + '"}', "RESOURCE_EXHAUSTED"),
    ],
    ids=["broken", "no object", "too large"],
)
def test_a_bad_message_ends_its_stream_only(opened, proxy, message, code):
    with opened("chat", text="other") as other, opened("chat", text="hi") as stream:
        stream.send_text(message)
        if not stream.in_turn:
            stream.end()
        assert failure_of(stream)[0] == code
        assert unharmed(proxy)
        other.send({"text": "still"})
        other.end()
        assert other.values() == ["other", "STILL", "bye"]


@every_door
def test_a_deadline(opened):
    with opened("quiet", timeout="300ms") as stream:
        assert failure_of(stream)[::2] == ("DEADLINE_EXCEEDED", [])


@every_door
def test_silence_ends_it(opened):
    with opened("quiet", namespace="idle") as stream:
        assert failure_of(stream)[::2] == ("DEADLINE_EXCEEDED", [])


@every_door
def test_one_stream_too_many(opened, proxy):
    with opened("flood", namespace="few", size=1) as first:
        assert first.receive().value == "x"
        with opened("flood", namespace="few", size=1) as second:
            assert failure_of(second) == ("RESOURCE_EXHAUSTED", "too_many_streams", [])
    eventually(lambda: proxy.metric("prism_streams_open", namespace="few") == 0)


def left_by_their_client(proxy, operation):
    """How many streams the access log says so of."""
    ends = [
        (r.get("status"), r.get("reason")) for r in proxy.records if r.get("operation") == operation
    ]
    return ends.count(("CANCELLED", "client_gone"))


@every_door
@pytest.mark.parametrize("operation", ["flood", "quiet"])
def test_a_client_that_leaves_cancels_in_the_plugin(opened, proxy, operation):
    before, recorded = seen(proxy), left_by_their_client(proxy, operation)
    with opened(operation, size=10) as stream:
        if operation == "flood":
            stream.receive()
        elif not stream.in_turn and stream.sends:
            stream.end()
        eventually(lambda: seen(proxy)["begun"] == before["begun"] + 1)
    eventually(lambda: seen(proxy)["cancelled"] == before["cancelled"] + 1)
    eventually(lambda: left_by_their_client(proxy, operation) == recorded + 1)


@every_door
def test_a_slow_reader_holds_back_its_own_stream_only(opened, proxy):
    """A machine that is busy can make a slow reader one that takes nothing for so long that the
    proxy cuts it, as it should; then another one shows it."""
    memory = proxy.resident()

    def is_shown():
        before = seen(proxy)["sent"]
        with opened("flood", size=1000) as stream:
            stream.receive()
            began = time.monotonic()

            def sent_so_far():
                with opened("count", n=100) as other:
                    other.end()
                    assert other.values() == list(range(100))
                return seen(proxy)["sent"]

            sent = settled(sent_so_far) - before
            assert sent > 10
            assert proxy.resident() - memory < 20 * MIB
            paused = time.monotonic() - began
            try:
                for _ in range(sent + 1000):
                    assert len(stream.receive().value) == 1000
            except Exception:
                if paused < ServerSettings().send_stall_timeout:
                    raise
                return False
        return True

    eventually(is_shown, 10 * LIMIT)


@doors_in_turn
def test_a_plugin_that_takes_nothing_holds_back_its_client(opened, proxy):
    """What the client has sent stays within the windows, costs no one else, and is not lost."""
    memory, sent, enough = proxy.resident(), 0, threading.Event()

    def send_on():
        nonlocal sent
        while not enough.is_set():
            stream.send({"text": "x" * 100_000})
            sent += 1

    with opened("deaf") as stream:
        assert stream.receive().value == "I take nothing"
        sender = threading.Thread(target=send_on)
        sender.start()

        def sent_so_far():
            assert unharmed(proxy)
            return sent

        assert settled(sent_so_far) < 200
        assert proxy.resident() - memory < 20 * MIB
        enough.set()
        assert proxy.call("kv", "wake").is_success
        sender.join(LIMIT)
        stream.end()
        assert stream.values() == [sent]


@every_door
@pytest.mark.parametrize(
    "behind", [name for name, kind in STREAM_CHANNELS.items() if kind.can_die], indirect=True
)
def test_a_plugin_that_dies(opened, behind):
    with opened("die", namespace="doomed") as stream:
        assert failure_of(stream) == ("UNAVAILABLE", "plugin_crashed", ["last words"])
    assert unharmed(behind.proxy)
    behind.plugin.revive("doomed")
    eventually(behind.proxy.ready)
    assert unharmed(behind.proxy, "doomed")


@every_door
def test_a_reload_tells_it_and_counts_it(opened, proxy):
    with opened("flood", size=1) as stream:
        assert stream.receive().value == "x"
        reload = f"{proxy.admin}/admin/plugin/reload"
        receipts = []

        def ask():
            receipts.append(proxy.client.post(reload, json={"namespace": "kv"}).json())

        asking = threading.Thread(target=ask)
        asking.start()
        assert failure_of(stream)[:2] == ("UNAVAILABLE", "draining")
        asking.join(LIMIT)
    (receipt,) = receipts
    assert receipt["outcome"] == "swapped", receipt
    assert receipt["calls"]["cancelled"] == 1
    assert receipt["calls"]["lost"] == 0
    assert unharmed(proxy)
