import os
import stat

import pytest
import trio

from prism.frontends.admin.unix_socket import open_unix_listener
from prism.streams.errors import ListenError


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
    with pytest.raises(ListenError, match="a file that is no socket"):
        open_unix_listener(str(path))
    assert path.read_text() == "notes"
    with pytest.raises(ListenError, match="make the directory"):
        open_unix_listener(str(tmp_path / "none" / "admin.sock"))
