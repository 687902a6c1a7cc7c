"""The ``cache:`` block of a namespace, from the file to the metrics."""

import sqlite3
import sys

import pytest
from prism_process import FAST_CHECKS, eventually

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
