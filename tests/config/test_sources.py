import os
import re
import threading

import pytest
import trio

from prism.config import sources
from prism.config.errors import ConfigError
from prism.config.sources import MAX_FILE_BYTES, FileWatch, read_file

LIMIT = 30
"""Seconds until a change must have been seen, on a machine that does much else."""


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch):
    monkeypatch.setattr(sources, "INTERVAL", 0.005)


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "prism.yaml"
    file.write_text("one")
    return file


def test_a_file_is_read_as_it_is(file):
    file.write_bytes("é\r\n".encode())
    assert read_file(file) == "é\r\n"
    file.write_bytes(b"#" * MAX_FILE_BYTES)
    assert len(read_file(str(file))) == MAX_FILE_BYTES


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: 1\nb: \xe9\n", "the file is not UTF-8 text (line 2)"),
        (b"#" * (MAX_FILE_BYTES + 1), f"the file is larger than {MAX_FILE_BYTES} bytes"),
    ],
    ids=["Latin-1", "too large"],
)
def test_a_file_that_cannot_be_used(file, content, problem):
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{file}: {problem}")):
        read_file(file)


def test_a_file_that_cannot_be_read(file, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_file(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_file(tmp_path)
    if os.getuid() != 0:
        file.chmod(0)
        with pytest.raises(ConfigError, match="Permission denied"):
            read_file(file)


async def seen(watch):
    with trio.fail_after(LIMIT):
        await watch.changed()


async def unseen(watch):
    with trio.move_on_after(0.1) as waiting:
        await watch.changed()
    assert waiting.cancelled_caught


async def test_a_file_that_is_written_anew(file):
    watch = FileWatch(str(file))
    await unseen(watch)
    file.write_text("two")
    await seen(watch)
    await unseen(watch)
    file.write_text("one")
    await seen(watch)


async def test_a_file_system_that_hangs_does_not_hold_up_the_end(file, monkeypatch):
    watch = FileWatch(str(file))
    hanging, go_on, ended = trio.Event(), threading.Event(), threading.Event()

    def hang():
        trio.from_thread.run_sync(hanging.set)
        go_on.wait(LIMIT)
        ended.set()

    monkeypatch.setattr(watch, "_look", hang)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.changed)
        await hanging.wait()
        nursery.cancel_scope.cancel()
    assert not ended.is_set()
    go_on.set()


async def test_the_same_content_is_no_change(file):
    watch = FileWatch(str(file))
    file.write_text("one")
    os.utime(file, (1, 1))
    await unseen(watch)


async def test_a_file_put_in_its_place(file):
    watch = FileWatch(str(file))
    new = file.with_suffix(".new")
    new.write_text("two")
    new.rename(file)
    await seen(watch)


async def test_a_symlink_above_it_that_is_swapped(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prism.yaml").write_text(name)
    (tmp_path / "data").symlink_to("first")
    (tmp_path / "prism.yaml").symlink_to("data/prism.yaml")
    watch = FileWatch(str(tmp_path / "prism.yaml"))
    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").rename(tmp_path / "data")
    await seen(watch)


async def test_a_file_that_is_missing_for_a_while(file):
    watch = FileWatch(str(file))
    file.unlink()
    await unseen(watch)
    file.write_text("one")
    await unseen(watch)
    file.unlink()
    file.write_text("two")
    await seen(watch)
