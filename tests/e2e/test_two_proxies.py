"""Two proxies on one plugin's socket: the second leaves it to the first."""


def test_the_second_proxy_says_who_has_the_socket(start_prism, tmp_path):
    socket = tmp_path / "sockets" / "plugin.sock"
    plugin = {"type": "sidecar", "socket": str(socket)}
    config = {"namespaces": [{"name": "kv", "backend": "memory", "plugin": plugin}]}
    first = start_prism(config)
    inode = socket.lstat().st_ino
    second = start_prism(config)
    assert f"is in use by another proxy (pid {first.pid})" in second.absence("kv")
    assert second.stop() == 0
    assert socket.lstat().st_ino == inode, "the first one's socket was left alone"

    first.process.kill()
    first.process.wait()
    third = start_prism(config)
    assert "waits for the plugin to dial" in third.absence("kv")
