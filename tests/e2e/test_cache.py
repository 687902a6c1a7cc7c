"""The ``cache:`` block of a namespace, from the file to the metrics."""

import sqlite3
import sys

import psycopg
import pytest
from prism_process import FAST_CHECKS, eventually

from tests.services.postgres import PASSWORD, USER, new_name
from tests.services.redis import Redis

SQLITE = [sys.executable, "-m", "prism_plugins.sqlite"]
PLUGINS = {
    "in_process": {"health": FAST_CHECKS},
    "spawned": {"type": "sidecar", "command": SQLITE, "health": FAST_CHECKS},
}


def with_cache(plugin, **cache):
    namespace = {"name": "kv", "backend": "sqlite", "plugin": plugin, "config": {"path": "kv.db"}}
    return {"namespaces": [namespace | ({"cache": cache} if cache else {})]}


def write_behind_its_back(path, value):
    """As another program does it, of which no proxy knows."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE _prism_keyvalue SET value = ?", (value,))
    connection.close()


@pytest.mark.parametrize("plugin", PLUGINS.values(), ids=PLUGINS)
def test_reads_are_kept_and_writes_forget_them(start_prism, plugin):
    proxy = start_prism(with_cache(plugin, operations=["get"], ttl_seconds=3600))
    proxy.call("kv", "set", {"key": "a", "value": 1})
    assert proxy.call("kv", "get", {"key": "a"}).json()["value"] == 1
    write_behind_its_back(proxy.directory / "kv.db", b"2")
    assert proxy.call("kv", "get", {"key": "a"}).json()["value"] == 1
    assert proxy.call("kv", "mget", {"keys": ["a"]}).json()["results"][0]["value"] == 2
    assert proxy.call("kv", "increment", {"key": "a"}).json() == {"value": 3}
    assert proxy.call("kv", "get", {"key": "a"}).json()["value"] == 3

    def counted():
        names = ("prism_plugin_cache_hits_total", "prism_plugin_cache_misses_total")
        return [proxy.metric(name, namespace="kv") for name in names] == [1, 2]

    eventually(counted)


@pytest.mark.parametrize("backend", ["postgres", "redis"])
def test_on_a_server_that_others_write_to(start_prism, shared_server, postgres18, backend):
    name = new_name().replace("_", "-")
    namespace = {
        "name": name,
        "backend": backend,
        "plugin": {
            "type": "sidecar",
            "command": [sys.executable, "-m", f"prism_plugins.{backend}"],
            "health": FAST_CHECKS,
        },
        "cache": {"operations": ["get"], "ttl_seconds": 3600},
    }
    if backend == "redis":
        redis = shared_server(Redis)
        namespace["config"] = {"url": redis.url()}
    else:
        where = f"postgresql://127.0.0.1:{postgres18.port}/postgres?sslmode=disable"
        namespace["config"] = {"connection_string": where}
        namespace["credentials"] = {"username": USER, "password": PASSWORD}
    proxy = start_prism({"namespaces": [namespace]})

    def value():
        return proxy.call(name, "get", {"key": "a"}).json()["value"]

    eventually(proxy.ready)
    proxy.call(name, "set", {"key": "a", "value": 1})
    assert value() == 1
    if backend == "redis":
        assert redis.ask("SET", f"{name}:a", "2") == b"+OK\r\n"
    else:
        with psycopg.connect(postgres18.url()) as connection:
            sql = "UPDATE _prism.keyvalue SET value = '2' WHERE namespace = %s"
            assert connection.execute(sql, [name]).rowcount == 1
    assert value() == 1
    assert proxy.call(name, "increment", {"key": "a"}).json() == {"value": 3}
    assert value() == 3
    assert proxy.call(name, "set", {"key": "a", "value": 4}).json() == {"stored": True}
    assert value() == 4
    eventually(lambda: proxy.metric("prism_plugin_cache_hits_total", namespace=name) == 1)
    eventually(lambda: proxy.metric("prism_plugin_cache_misses_total", namespace=name) == 3)
    proxy.call(name, "delete", {"key": "a"})


def test_without_the_block_nothing_is_kept(start_prism):
    proxy = start_prism(with_cache(PLUGINS["in_process"]))
    proxy.call("kv", "set", {"key": "a", "value": 1})
    assert proxy.call("kv", "get", {"key": "a"}).json()["value"] == 1
    write_behind_its_back(proxy.directory / "kv.db", b"2")
    assert proxy.call("kv", "get", {"key": "a"}).json()["value"] == 2


def test_what_a_plugin_cannot_keep_is_refused_with_the_place(start_prism):
    proxy = start_prism(with_cache(PLUGINS["in_process"], operations=["query"]))
    eventually(lambda: "cache.operations" in proxy.absence("kv"))
    assert "cannot keep results of 'query'; it can of: exists, get, mget" in proxy.absence("kv")
