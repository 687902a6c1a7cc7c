"""How plugins are reached, and what is said of one that cannot be."""

import dataclasses
import grp
import os
import sys
import threading

import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from supervised_plugin import Model, eventually

from prism.channels.frames.channel import FramedChannel
from prism.contract.errors import ChannelError
from prism.contract.messages import (
    CacheSettings,
    ExecuteRequest,
    InitializeResponse,
    OperationDeclaration,
    ShutdownRequest,
)
from prism.streams import unix
from prism.streams.errors import LaunchError
from prism.supervision import connect
from prism.supervision.connect import Connector, DialInSockets, declared_operations, initialize
from prism.wire.events import GoAway


async def nothing(_channel):
    """Leave at once."""


async def stay(_channel):
    await trio.sleep_forever()


async def reach(connector, use=nothing):
    """Connect, ``use`` the channel, and leave; raises what that raises, without a group."""
    failure = None
    async with trio.open_nursery() as nursery:
        try:
            async with connector.connect(nursery) as channel:
                await use(channel)
        except Exception as error:
            failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


# -- each way -----------------------------------------------------------------------------


async def test_a_process_is_started_initialised_and_ended(make_spec, is_alive):
    spec = make_spec({"a": 1})
    connector = Connector(spec)

    async def use(channel):
        assert isinstance(channel, FramedChannel)
        assert is_alive(connector.pid)
        assert connector.ending == ""
        answer = await initialize(channel, spec, {})
        assert "pid" in declared_operations(answer)
        result = await channel.execute(ExecuteRequest(operation="pid", params_json="{}"))
        assert int(result.result_json) == connector.pid
        await channel.shutdown(ShutdownRequest(timeout_seconds=1, reason="stop"))

    await reach(connector, use)
    assert not is_alive(connector.pid)
    assert connector.ending == "exited with status 0"


async def test_a_process_that_says_that_it_stops_is_heard(make_spec):
    said = []
    connector = Connector(make_spec(), on_goaway=said.append)

    async def use(channel):
        await initialize(channel, make_spec(), {})
        os.kill(connector.pid, 15)
        await eventually(lambda: said)

    await reach(connector, use)
    assert isinstance(said[0], GoAway)


async def test_a_program_that_does_not_serve_is_told_so(make_spec):
    connector = Connector(make_spec(command=[sys.executable, "-c", "pass"]))
    with pytest.raises(LaunchError, match=r"status 0 \(does it end with a call of serve\("):
        await reach(connector)


@pytest.mark.parametrize(("configured", "told"), [("small", 0), ("other", 1)])
async def test_the_log_has_the_name_that_a_plugin_gives_itself(make_spec, caplog, configured, told):
    caplog.set_level("INFO")
    await reach(Connector(dataclasses.replace(make_spec(), plugin_name=configured)))
    assert caplog.text.count("calls itself 'small', version '0.0.0'") == told


@pytest.mark.parametrize(
    ("code", "message", "crashed"),
    [
        ("print('a last word'); raise SystemExit(7)", "; its process exited with status 7", True),
        ("import os; os.kill(os.getpid(), 11)", "; its process was ended by SIGSEGV", True),
    ],
)
async def test_how_a_process_ended_is_part_of_the_reason(make_spec, code, message, crashed):
    connector = Connector(make_spec(command=[sys.executable, "-c", code]))
    with pytest.raises(LaunchError) as caught:
        await reach(connector)
    assert str(caught.value).endswith(message)
    assert caught.value.crashed == crashed
    if "print" in code:
        assert caught.value.output == ("a last word",)


async def test_a_script_that_is_not_there_is_missed_before_its_interpreter_starts(
    make_spec, tmp_path
):
    spec = make_spec(command=["python", "v1.3/shop.py"], working_directory=str(tmp_path))
    connector = Connector(spec)
    with pytest.raises(LaunchError, match=f"there is no file v1.3/shop.py in {tmp_path}"):
        await reach(connector)
    assert connector.pid is None


async def test_cancelling_while_the_process_says_nothing_ends_it(make_spec, is_alive):
    connector = Connector(make_spec(command=["sleep", "60"]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reach, connector)
        await eventually(lambda: connector.pid)
        nursery.cancel_scope.cancel()
    assert not is_alive(connector.pid)
    assert connector.ending == "was ended by SIGTERM"


async def test_a_command_with_a_null_byte_is_no_command(make_spec):
    with pytest.raises(LaunchError, match=r"plugin 'small': command: .*null byte"):
        await reach(Connector(make_spec(command=["a\0b"])))


async def test_a_class_in_this_process(in_process, model):
    connector = Connector(in_process())
    channels = []

    async def use(channel):
        channels.append(channel)
        assert channel.ended is None

    await reach(connector, use)
    assert isinstance(channels[0]._plugin, Model)
    assert channels[0].ended is not None
    assert (connector.pid, connector.ending) == (None, "")


@pytest.mark.parametrize(
    ("plugin", "dialled", "place"),
    [
        ({"socket": "/run/small.sock", "dial": True}, "streams.unix.dial", "/run/small.sock"),
        (
            {"type": "remote", "endpoint": "db:7000", "insecure": True},
            "streams.tcp.dial",
            "db:7000",
        ),
        ({"type": "grpc", "endpoint": "db:7000", "insecure": True}, "streams.tcp.dial", "db:7000"),
        (
            {"type": "websocket", "endpoint": "ws://db:7000/p", "insecure": True},
            "channels.websocket.dial",
            "ws://db:7000/p",
        ),
    ],
)
async def test_a_plugin_that_does_not_accept_in_time(
    make_spec, monkeypatch, autojump_clock, plugin, dialled, place
):
    async def dial(*_arguments, **_keywords):
        await trio.sleep_forever()

    monkeypatch.setattr(f"prism.{dialled}", dial)
    spec = make_spec(start_timeout_seconds=3, **plugin)
    with pytest.raises(LaunchError, match=f"plugin 'small': {place} did not accept in time"):
        await reach(Connector(spec))
    assert trio.current_time() == 3


@pytest.mark.parametrize("isolation", ["process", "none"])
async def test_a_library_is_checked_before_it_is_loaded(make_spec, tmp_path, isolation):
    library = tmp_path / "lib.so"
    spec = make_spec(type="in_process", library=str(library), isolation=isolation)
    with pytest.raises(LaunchError, match="file_missing"):
        await reach(Connector(spec))
    library.write_bytes(b"\x7fELF")
    library.chmod(0o666)
    with pytest.raises(LaunchError, match=r"world_writable|permission"):
        await reach(Connector(spec))


async def test_a_library_that_is_none_is_not_loaded_into_the_proxy(make_spec, tmp_path):
    library = tmp_path / "lib.so"
    library.write_bytes(b"#!/bin/sh")
    library.chmod(0o644)
    spec = make_spec(type="in_process", library=str(library), isolation="none")
    with pytest.raises(LaunchError, match=rf"{library} cannot be loaded: it is no shared library"):
        await reach(Connector(spec))


# -- plugins that dial in -----------------------------------------------------------------


async def test_files_are_looked_at_beside_the_event_loop(make_spec, monkeypatch, tmp_path):
    """And so are those who may own them, whom a directory service may know."""
    threads = []

    def note(function):
        def noted(*args):
            threads.append(threading.get_ident())
            return function(*args)

        return noted

    for name in ("Verifier", "missing_script"):
        monkeypatch.setattr(connect, name, note(getattr(connect, name)))
    await reach(Connector(make_spec()))
    assert len(threads) == 2
    group = grp.getgrgid(os.getegid()).gr_name
    monkeypatch.setattr(unix, "find_group", note(unix.find_group))
    sockets = DialInSockets("ns")
    await sockets.open(make_spec(socket=str(tmp_path / "s"), group=group).plugin)
    await sockets.keep_only(None)
    assert len(threads) == 3
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    ("kind", "endpoint"),
    [("remote", "h:1"), ("grpc", "h:1"), ("websocket", "wss://h:1/")],
)
async def test_nobody_is_asked_for_the_passphrase_of_a_key(make_spec, tmp_path, kind, endpoint):
    cert, key = locked_key(tmp_path)
    spec = make_spec(type=kind, endpoint=endpoint, tls={"cert": cert, "key": key})
    with pytest.raises(LaunchError, match=f"^{key}: .*protected by a passphrase"):
        await reach(Connector(spec))


def locked_key(directory):
    """A certificate, and its key with a passphrase."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    issued = trustme.CA().issue_cert("h")
    issued.cert_chain_pems[0].write_to_path(cert)
    unlocked = load_pem_private_key(issued.private_key_pem.bytes(), None)
    protection = BestAvailableEncryption(b"secret")
    key.write_bytes(unlocked.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    return str(cert), str(key)


@pytest.fixture
async def sockets():
    sockets = DialInSockets("ns")
    yield sockets
    await sockets.keep_only(None)


async def test_a_plugin_dials_in_after_strangers(
    make_spec, sockets, program, tmp_path, monkeypatch, caplog
):
    spec = make_spec(socket=str(tmp_path / "d" / "s"))
    listener = await sockets.open(spec.plugin)
    refusals = [ChannelError("refused a peer with pid 1")]
    check_peer = unix.check_peer

    def check(stream, group):
        if refusals:
            raise refusals.pop()
        return check_peer(stream, group)

    monkeypatch.setattr(unix, "check_peer", check)
    connector = Connector(spec, listener=listener)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reach, connector, stay)
        async with await trio.open_unix_socket(spec.plugin.socket) as stranger:
            assert await stranger.receive_some() == b""
        await eventually(lambda: "refused a peer with pid 1" in caplog.text)
        environment = os.environ | {"PLUGIN_SOCKET": spec.plugin.socket}
        plugin = await trio.lowlevel.open_process([sys.executable, program], env=environment)
        await eventually(lambda: connector.pid)
        assert connector.pid == plugin.pid
        nursery.cancel_scope.cancel()
    assert connector.ending == "", "it is not ours to end"
    plugin.terminate()
    await plugin.wait()


# -- programs that the proxy starts, and reaches over a socket with a path -------------------


async def test_a_program_is_started_and_dials_in(make_spec, sockets, program, tmp_path, is_alive):
    spec = make_spec(command=[sys.executable, program], socket=str(tmp_path / "d" / "s"))
    connector = Connector(spec, listener=await sockets.open(spec.plugin))

    async def use(channel):
        await initialize(channel, spec, {})
        result = await channel.execute(ExecuteRequest(operation="pid", params_json="{}"))
        assert int(result.result_json) == connector.pid
        assert is_alive(connector.pid)

    await reach(connector, use)
    assert not is_alive(connector.pid), "it would dial again, but is ours to end"
    assert connector.ending == "exited with status 0"


async def test_a_program_is_started_and_listens(make_spec, program, tmp_path, is_alive):
    path = str(tmp_path / "s")
    command = [sys.executable, program, "--listen", f"unix:{path}"]
    spec = make_spec(command=command, socket=path, dial=True)
    connector = Connector(spec)

    async def use(channel):
        await initialize(channel, spec, {})
        result = await channel.execute(ExecuteRequest(operation="pid", params_json="{}"))
        assert int(result.result_json) == connector.pid

    await reach(connector, use)
    assert not is_alive(connector.pid)


@pytest.mark.parametrize(
    ("dial", "absence"), [(False, "it did not dial"), (True, "cannot connect to")]
)
async def test_a_program_that_ends_unreached_is_told_with_its_last_output(
    make_spec, sockets, tmp_path, dial, absence
):
    command = ["sh", "-c", "echo what is wrong >&2; exit 3"]
    spec = make_spec(command=command, socket=str(tmp_path / "d" / "s"), dial=dial)
    listener = None if dial else await sockets.open(spec.plugin)
    with pytest.raises(LaunchError) as caught:
        await reach(Connector(spec, listener=listener))
    assert f"was not reached before it ended: {absence}" in str(caught.value)
    assert str(caught.value).endswith("; its process exited with status 3")
    assert caught.value.output == ("what is wrong",)


@pytest.mark.parametrize("dial", [False, True])
async def test_a_program_that_is_not_reached_in_time_is_ended(
    make_spec, sockets, tmp_path, dial, is_alive
):
    path = str(tmp_path / "d" / "s")
    spec = make_spec(command=["sleep", "60"], socket=path, dial=dial, start_timeout_seconds=0.2)
    listener = None if dial else await sockets.open(spec.plugin)
    connector = Connector(spec, listener=listener)
    with pytest.raises(LaunchError, match=r"was not reached within 0\.2 s"):
        await reach(connector)
    assert not is_alive(connector.pid)


async def test_another_process_is_not_taken_for_the_one_that_was_started(
    make_spec, sockets, program, tmp_path, caplog
):
    caplog.set_level("INFO")
    path = str(tmp_path / "d" / "s")
    spec = make_spec(command=[sys.executable, program], socket=path)
    listener = await sockets.open(spec.plugin)
    connector = Connector(spec, listener=listener)
    async with trio.open_nursery() as nursery, await trio.open_unix_socket(path) as other:
        nursery.start_soon(reach, connector)
        assert await other.receive_some() == b""
    assert f"turned away pid {os.getpid()}" in caplog.text
    assert connector.ending == "exited with status 0"


async def test_what_a_program_starts_may_dial_for_it(make_spec, sockets, program, tmp_path):
    command = ["sh", "-c", f"{sys.executable} {program}; true"]
    spec = make_spec(command=command, socket=str(tmp_path / "d" / "s"))
    connector = Connector(spec, listener=await sockets.open(spec.plugin))

    async def use(channel):
        await initialize(channel, spec, {})

    await reach(connector, use)


async def test_another_process_that_listens_there_is_not_served(make_spec, tmp_path):
    path = str(tmp_path / "s")
    command = ["sleep", "60"]
    spec = make_spec(command=command, socket=path, dial=True, start_timeout_seconds=0.2)
    async with trio.open_nursery() as nursery:
        listeners = [trio.SocketListener(await listening(path))]
        nursery.start_soon(trio.serve_listeners, close, listeners)
        with pytest.raises(LaunchError, match=rf"another process \(pid {os.getpid()},"):
            await reach(Connector(spec))
        nursery.cancel_scope.cancel()


async def listening(path):
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(path)
    sock.listen()
    return sock


async def close(stream):
    await stream.aclose()


async def test_a_socket_that_is_removed_ends_the_wait(make_spec, sockets, tmp_path, autojump_clock):
    spec = make_spec(socket=str(tmp_path / "d" / "s"))
    listener = await sockets.open(spec.plugin)
    listener.path.unlink()
    with pytest.raises(LaunchError, match=r"the socket .* was removed"):
        await reach(Connector(spec, listener=listener))


async def test_sockets_stay_open_until_they_are_of_no_use(make_spec, sockets, tmp_path):
    first, second = (make_spec(socket=str(tmp_path / "d" / name)).plugin for name in "ab")
    listener = await sockets.open(first)
    assert await sockets.open(first) is listener
    other = await sockets.open(second)
    listener.path.unlink()
    again = await sockets.open(first)
    assert again is not listener
    assert (again.in_place, other.in_place) == (True, True)
    await sockets.keep_only(second)
    assert (again.path.exists(), other.path.exists()) == (False, True)
    await sockets.keep_only(make_spec().plugin)
    assert not other.path.exists()


# -- the first call -----------------------------------------------------------------------


class Answers:
    """A channel whose plugin answers Initialize like that; None: not at all."""

    def __init__(self, answer):
        self.answer = answer
        self.requests = []

    async def initialize(self, request):
        self.requests.append(request)
        if self.answer is None:
            await trio.sleep_forever()
        return self.answer


async def test_initialize_says_what_the_plugin_must_know(make_spec):
    channel = Answers(InitializeResponse(success=True))
    cache = CacheSettings(operations=["get"])
    spec = dataclasses.replace(make_spec({"a": 1}), cache=cache)
    assert await initialize(channel, spec, {"user": "ada"}) is channel.answer
    (request,) = channel.requests
    assert (request.namespace, request.backend_type) == ("ns", "memory")
    assert (request.config_json, request.credentials) == ('{"a":1}', {"user": "ada"})
    assert request.capabilities.proxy_version == connect.__version__
    assert request.cache is cache


@pytest.mark.parametrize(
    ("answer", "message", "crashed"),
    [
        (InitializeResponse(error="no database"), "refused to start: no database", False),
        (InitializeResponse(), "refused to start: it did not say why", False),
        (None, "did not answer Initialize within 3 seconds", True),
        (
            InitializeResponse(success=True, supported_operations=["get", "get-all"]),
            "offers operations that nobody could call: 'get-all'; an operation is 1 to 64 lower",
            False,
        ),
        (
            InitializeResponse(success=True, operations=[OperationDeclaration(name="Get")]),
            "nobody could call: 'Get'",
            False,
        ),
    ],
)
async def test_a_plugin_that_does_not_consent(make_spec, autojump_clock, answer, message, crashed):
    with pytest.raises(LaunchError, match=message) as caught:
        await initialize(Answers(answer), make_spec(start_timeout_seconds=3), {})
    assert caught.value.crashed == crashed


def test_operations_are_those_supported_with_what_is_declared_of_them():
    get = OperationDeclaration(name="get", idempotent=True)
    both = InitializeResponse(supported_operations=["get", "set"], operations=[get])
    assert declared_operations(both) == {"get": get, "set": OperationDeclaration(name="set")}
    assert declared_operations(InitializeResponse(operations=[get])) == {"get": get}


async def test_a_schema_that_is_no_json_object_is_left_out(make_spec, caplog):
    broken = OperationDeclaration(
        name="get", params_schema="{", result_schema='{"type":"object"}', stream_result_schema="[]"
    )
    deep = OperationDeclaration(name="set", params_schema='{"a":' * 5000 + "1" + "}" * 5000)
    answer = InitializeResponse(success=True, operations=[broken, deep])
    found = await initialize(Answers(answer), make_spec(), {})
    assert found.operations == [
        OperationDeclaration(name="get", result_schema='{"type":"object"}'),
        OperationDeclaration(name="set"),
    ]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert "the params_schema of its operation get is no JSON object" in said[0]
