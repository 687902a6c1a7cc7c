"""Where the plugin connects, and as whom."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from prism.contract.errors import PluginError
from prism.contract.messages import HealthStatus
from prism.contract.status import StatusCode
from prism_plugins.redis import Config
from prism_plugins.redis.config import read_address, read_url
from prism_plugins.redis.transport import tls_context
from tests.plugins.redis.conftest import OpenPlugin
from tests.services.fixtures import StartServer
from tests.services.redis import Redis, Sentinel, Valkey
from tests.services.server import unused_port

ODD_PASSWORD = "p@ss:w/rd %1 #x"


@pytest.mark.parametrize(
    ("url", "shown", "tls", "database"),
    [
        ("redis://localhost", "localhost:6379", False, 0),
        ("rediss://redis.example.com:6380/15", "redis.example.com:6380", True, 15),
        ("redis://[::1]:7000/", "[::1]:7000", False, 0),
        ("unix:///run/redis%20one/redis.sock", "/run/redis one/redis.sock", False, 0),
    ],
)
def test_a_url_says_where(url: str, shown: str, tls: bool, database: int) -> None:
    server = read_url(url)
    assert (str(server), server.tls, server.database) == (shown, tls, database)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://user:hunter2@host", "must not hold credentials"),
        ("redis://:hunter2@host", "must not hold credentials"),
        ("redis://hunter2@host", "must not hold credentials"),
        ("redis://host/0?password=hunter2", "takes no options"),
        ("redis://host:hunter2", "cannot be read"),
        ("redis://host:99999", "the port 99999 is none; a port is a number from 1 to 65535"),
        ("redis://host:637900/1", "the port 637900 is none"),
        ("redis://host:0", "the port 0 is none"),
        ("redis://:637900@host:x", "cannot be read"),
        ("redis://host/hunter2", "number of a database"),
        ("http://host", "begins with redis://"),
        ("hunter2", "begins with redis://"),
        ("unix://host/path", "unix:///path"),
    ],
)
def test_a_wrong_url_is_refused_and_never_shown(url: str, words: str) -> None:
    with pytest.raises(PluginError, match=words) as refused:
        read_url(url)
    assert refused.value.status is StatusCode.INVALID_ARGUMENT
    assert refused.value.detail.startswith("config.url: ")
    assert "hunter2" not in refused.value.detail


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("db=1", '"db": the database stands in the path'),
        ("ssl=true", '"ssl": TLS is rediss://'),
        ("password=hunter2", '"password": it is credentials.password'),
        ("key_prefix=a", '"key_prefix": it is a key beside url'),
        ("key_prefx=a", '"key_prefx": no such key beside url; did you mean "key_prefix"?'),
        ("db=1&key_prefix", '"db": .*, "key_prefix": it is a key'),
        ("hunter2 x=1", "they are keys beside url"),
    ],
)
def test_a_url_s_options_are_named(query: str, words: str) -> None:
    with pytest.raises(PluginError, match=words) as refused:
        read_url(f"redis://host/0?{query}")
    assert "hunter2" not in refused.value.detail


@pytest.mark.parametrize(
    "address",
    ["host", "host:", ":1", "host:0", "host:x", "u@host:1", "http://host:1", "[host", "::1:1"],
)
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected host:port") as refused:
        read_address(address)
    assert "u@" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "credentials", "said"),
    [
        ({"client_key": "k"}, {}, ["config.client_key: it means nothing without client_cert"]),
        (
            {"ca_cert": "c", "url": "redis://h"},
            {},
            ["config.ca_cert: it means nothing without TLS, which a url of rediss:// has"],
        ),
        ({"ca_cert": "c", "url": "rediss://h"}, {}, []),
        ({}, {"username": "u"}, ["credentials.username: it means nothing without password"]),
        ({}, {"username": "u", "password": "p"}, []),
    ],
)
def test_what_does_not_fit_together(settings: dict, credentials: dict, said: list) -> None:
    assert [str(each) for each in Config(**settings).problems(credentials)] == said


async def test_a_password_with_signs_of_a_url(
    start_server: StartServer, open_plugin: OpenPlugin
) -> None:
    server = start_server(Redis, settings={"requirepass": ODD_PASSWORD})
    async with open_plugin(server, credentials={"password": ODD_PASSWORD}) as plugin:
        assert await plugin.call("set", key="k", value=1) == {"stored": True}
    for credentials in ({}, {"password": "wrong"}):
        with pytest.raises(PluginError, match="refuses the namespace's credentials") as refused:
            async with open_plugin(server, credentials=credentials):
                pass
        assert refused.value.status is StatusCode.FAILED_PRECONDITION
        assert "wrong" not in refused.value.detail


async def test_an_acl_forbids_what_it_forbids(
    start_server: StartServer, open_plugin: OpenPlugin
) -> None:
    server = start_server(Redis)
    server.ask("ACL", "SETUSER", "reader", "on", ">secret", "~*", "&*", "+@all", "-@write")
    async with open_plugin(
        server, credentials={"username": "reader", "password": "secret"}
    ) as plugin:
        assert await plugin.call("get", key="k") == {"found": False}
        with pytest.raises(PluginError, match="ACL") as refused:
            await plugin.call("set", key="k", value=1)
        assert refused.value.status is StatusCode.PERMISSION_DENIED


async def test_a_new_password_is_proven_before_the_old_instance_goes(
    start_server: StartServer, open_plugin: OpenPlugin
) -> None:
    server = start_server(Redis)
    server.ask("ACL", "SETUSER", "app", "on", ">old", "~*", "&*", "+@all")
    old = {"username": "app", "password": "old"}
    new = {"username": "app", "password": "new"}
    async with open_plugin(server, "ns", credentials=old) as first:
        await first.call("set", key="k", value=1)
        with pytest.raises(PluginError, match="credentials"):
            async with open_plugin(server, "ns", credentials=new):
                pass
        assert (await first.call("get", key="k"))["value"] == 1  # the old one goes on
        server.ask("ACL", "SETUSER", "app", ">new")
        async with open_plugin(server, "ns", credentials=new) as second:
            assert (await second.call("get", key="k"))["value"] == 1


async def test_databases_are_apart(redis_server: Redis, open_plugin: OpenPlugin) -> None:
    async with (
        open_plugin(redis_server, "same", url=redis_server.url(0)) as zero,
        open_plugin(redis_server, "same", url=redis_server.url(1)) as one,
    ):
        await zero.call("set", key="k", value=0)
        assert await one.call("get", key="k") == {"found": False}
        await zero.call("delete", key="k")
    with pytest.raises(PluginError, match="DB index is out of range"):
        async with open_plugin(redis_server, url=redis_server.url(10_000)):
            pass


async def test_a_unix_socket(start_server: StartServer, open_plugin: OpenPlugin) -> None:
    server = start_server(Redis)
    async with open_plugin(server, url=f"unix://{server.directory}/redis.sock") as plugin:
        assert await plugin.call("set", key="k", value=1) == {"stored": True}


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    """A directory with what a server needs, for the name redis.example."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other-ca.pem")
    for name, host in (("server", "redis.example"), ("client", "client.example")):
        certificate = authority.issue_cert(host)
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    return tmp_path


@pytest.mark.parametrize("kind", [Redis, Valkey])
async def test_tls_verifies_authority_and_name(
    start_server: StartServer, open_plugin: OpenPlugin, tls: Path, kind: type[Redis]
) -> None:
    settings = {"tls-auth-clients": "yes"}
    try:
        server = start_server(kind, tls=tls, settings=settings)
    except RuntimeError as error:
        if kind is Valkey and "TLS" in str(error):
            pytest.skip("this build of Valkey has no TLS")
        raise
    good = {
        "ca_cert": str(tls / "ca.pem"),
        "client_cert": str(tls / "client.pem"),
        "client_key": str(tls / "client.key"),
        "tls_server_name": "redis.example",
    }
    async with open_plugin(server, **good) as plugin:
        value = "x" * 300_000
        await plugin.call("set", key="k", value=value)
        assert (await plugin.call("get", key="k"))["value"] == value
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(lambda n=number: plugin.call("set", key=f"{n}", value=n))
        assert await plugin.call("count") == {"count": 201}
    for change, words in (
        ({"tls_server_name": None}, "certificate is not valid for '127.0.0.1'|IP address mismatch"),
        ({"ca_cert": str(tls / "other-ca.pem")}, "certificate verify failed"),
        ({"client_cert": None, "client_key": None}, "cannot be reached"),
        ({"ca_cert": str(tls / "none.pem")}, "config.ca_cert"),
        ({"client_key": str(tls / "ca.pem")}, "config.client_cert"),
    ):
        with pytest.raises(PluginError, match=words):
            async with open_plugin(server, **(good | change)):
                pass


def test_files_that_any_user_may_change_are_refused(
    tls: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = {"ca_cert": "ca.pem", "client_cert": "client.pem", "client_key": "client.key"}
    config = Config(url="rediss://h", **{key: str(tls / name) for key, name in names.items()})
    for key, name in names.items():
        (tls / name).chmod(0o602)
        with pytest.raises(PluginError, match=rf"config\.{key} .*{name}.*: any user may change it"):
            tls_context(config)
        (tls / name).chmod(0o600)
    tls_context(config)
    assert not caplog.records
    (tls / "client.key").chmod(0o644)
    tls_context(config)
    assert "any user may read the private key" in caplog.text


async def test_plain_text_where_tls_is_spoken_fails(
    start_server: StartServer, open_plugin: OpenPlugin, tls: Path
) -> None:
    server = start_server(Redis, tls=tls)
    with pytest.raises(PluginError, match="cannot be reached"):
        async with open_plugin(server, url=f"redis://127.0.0.1:{server.port}"):
            pass


async def test_nobody_there_says_where(open_plugin: OpenPlugin, redis_server: Redis) -> None:
    port = unused_port()
    with pytest.raises(PluginError, match=f"the server 127.0.0.1:{port} cannot be reached") as no:
        async with open_plugin(redis_server, url=f"redis://127.0.0.1:{port}"):
            pass
    assert no.value.status is StatusCode.UNAVAILABLE


async def test_tls_to_a_server_without_it_is_told(
    open_plugin: OpenPlugin, redis_server: Redis
) -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, silent, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        url = f"rediss://127.0.0.1:{listener.socket.getsockname()[1]}"
        with pytest.raises(PluginError, match="does not answer in TLS; without TLS the url is"):
            async with open_plugin(redis_server, url=url, connect_timeout_seconds=2.5):
                pass
        nursery.cancel_scope.cancel()


async def silent(stream: trio.SocketStream) -> None:
    """Reads as a server does that waits for the end of a line."""
    async with stream:
        while await stream.receive_some():
            pass


async def test_what_is_no_redis_is_told(open_plugin: OpenPlugin, redis_server: Redis) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        port = listener.socket.getsockname()[1]
        with pytest.raises(PluginError, match="does not speak RESP"):
            async with open_plugin(redis_server, url=f"redis://127.0.0.1:{port}"):
                pass
        nursery.cancel_scope.cancel()


async def healthy_soon(plugin: Any, status: HealthStatus = HealthStatus.HEALTHY) -> None:
    while (await plugin.health()).status is not status:  # noqa: ASYNC110 - it has no event
        await trio.sleep(0.05)


async def test_sentinels_name_the_master_and_after_a_failover_the_next(
    start_server: StartServer, open_plugin: OpenPlugin
) -> None:
    first = start_server(Redis)
    second = start_server(Redis, settings={"replicaof": f"127.0.0.1 {first.port}"})
    while b"master_link_status:up" not in second.ask("INFO", "replication"):  # noqa: ASYNC110 - it has no event
        await trio.sleep(0.05)
    sentinel = start_server(Sentinel, watches=first)
    while b"num-slaves\r\n$1\r\n1" not in sentinel.ask("SENTINEL", "MASTER", "main"):  # noqa: ASYNC110 - it has no event
        await trio.sleep(0.05)
    addresses = [f"127.0.0.1:{unused_port()}", f"127.0.0.1:{sentinel.port}"]
    config = {"sentinel": {"name": "main", "addresses": addresses}}
    async with open_plugin(first, url="redis://ignored.invalid/0", **config) as plugin:
        await plugin.call("set", key="k", value="before")
        first.ask("WAIT", "1", "0")
        await trio.to_thread.run_sync(first.kill)
        with trio.fail_after(60):
            await healthy_soon(plugin)
            while True:
                try:
                    await plugin.call("set", key="k", value="after")
                    break
                except PluginError as error:
                    if error.status is not StatusCode.UNAVAILABLE:
                        raise
                    await trio.sleep(0.05)
        assert second.ask("GET", plugin.plugin.prefix.decode() + "k") == b'$7\r\n"after"\r\n'
    with pytest.raises(PluginError, match="knows no master 'other'"):
        async with open_plugin(first, sentinel={"name": "other", "addresses": addresses}):
            pass


async def test_a_master_that_has_become_a_replica_is_left(
    start_server: StartServer, open_plugin: OpenPlugin
) -> None:
    """As after a network was cut in two: the old master still answers."""
    first, second = start_server(Redis), start_server(Redis)
    sentinel = start_server(Sentinel, watches=first)
    config = {"sentinel": {"name": "main", "addresses": [f"127.0.0.1:{sentinel.port}"]}}
    async with open_plugin(first, **config) as plugin:
        await plugin.call("set", key="k", value=1)
        sentinel.ask("SENTINEL", "REMOVE", "main")
        sentinel.ask("SENTINEL", "MONITOR", "main", "127.0.0.1", str(second.port), "1")
        first.ask("REPLICAOF", "127.0.0.1", str(second.port))
        with pytest.raises(PluginError, match="takes no writes"):
            await plugin.call("set", key="k", value=2)
        with trio.fail_after(60):
            while True:
                try:
                    await plugin.call("set", key="k", value=3)
                    break
                except PluginError as error:
                    if error.status is not StatusCode.UNAVAILABLE:
                        raise
                    await trio.sleep(0.05)
        assert b"3" in second.ask("GET", plugin.plugin.prefix.decode() + "k")


async def test_a_replica_is_degraded_and_takes_no_writes(
    start_server: StartServer, open_plugin: OpenPlugin
) -> None:
    first = start_server(Redis)
    replica = start_server(Redis, settings={"replicaof": f"127.0.0.1 {first.port}"})
    async with open_plugin(replica) as plugin:
        health = await plugin.health()
        assert (health.status, health.message) == (
            HealthStatus.DEGRADED,
            "the server is a replica and takes no writes",
        )
        with pytest.raises(PluginError, match="takes no writes") as refused:
            await plugin.call("set", key="k", value=1)
        assert refused.value.status is StatusCode.UNAVAILABLE
        assert await plugin.call("get", key="k") == {"found": False}
