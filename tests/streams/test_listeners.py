import os
import stat

import pytest
import trio

from prism.streams.errors import ListenError
from prism.streams.listeners import bound_address, open_listeners, open_unix_listener


async def test_port_zero_gets_a_free_port():
    [listener] = await open_listeners("127.0.0.1", 0)
    address = bound_address(listener)
    assert str(address) == f"http://127.0.0.1:{address.port}"
    await listener.aclose()


async def test_a_port_in_use_is_named_with_a_way_out():
    [listener] = await open_listeners("127.0.0.1", 0)
    port = bound_address(listener).port
    with pytest.raises(
        ListenError, match=f"127.0.0.1, port {port}: .*in use; .*another port.*ss -tan"
    ):
        await open_listeners("127.0.0.1", port)
    await listener.aclose()


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("192.0.2.1", 0, "cannot assign requested address; .*127.0.0.1"),
        ("no.such.host.invalid", 0, "cannot be resolved; check"),
        ("127.0.0.1", 70000, "no such port; choose one from 1 to 65535"),
    ],
)
async def test_what_cannot_be_listened_on_says_why(host, port, message):
    with pytest.raises(ListenError, match=message):
        await open_listeners(host, port)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every port")
async def test_a_privileged_port_says_why():
    with pytest.raises(ListenError, match=r"permission denied; .*1024"):
        await open_listeners("127.0.0.1", 1)


async def test_only_this_user_may_open_the_file(tmp_path):
    path = tmp_path / "admin.sock"
    before = os.umask(0)
    try:
        async with open_unix_listener(str(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path):
    path = str(tmp_path / "admin.sock")
    async with open_unix_listener(path):
        pass
    async with (
        open_unix_listener(path) as listener,
        await trio.open_unix_socket(path),
        await listener.accept(),
    ):
        pass


async def test_what_is_in_the_way_is_left_alone(tmp_path):
    path = tmp_path / "admin.sock"
    async with open_unix_listener(str(path)):
        with pytest.raises(ListenError, match="another process listens there"):
            open_unix_listener(str(path))
    path.unlink()
    path.write_text("notes")
    with pytest.raises(ListenError, match="a file that is not a socket"):
        open_unix_listener(str(path))
    assert path.read_text() == "notes"
    with pytest.raises(ListenError, match="make the directory"):
        open_unix_listener(str(tmp_path / "none" / "admin.sock"))
