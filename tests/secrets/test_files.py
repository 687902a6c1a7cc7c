"""One secret, one file: what is read, what is refused, and the links of Kubernetes."""

import logging
import os
from pathlib import Path

import pytest

from prism.secrets.files import MAX_SECRET_BYTES, read_from


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "secrets"
    found.mkdir(mode=0o700)
    return found


def write(file: Path, content: bytes = b"hunter2\n", mode: int = 0o600) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    ("content", "secret"),
    [(b"hunter2\n", "hunter2"), (b"a b\r\n", "a b"), (b"x\ny\n\n", "x\ny"), (b" \n", " ")],
)
def test_newlines_at_the_end_are_dropped_and_nothing_else(
    directory: Path, content: bytes, secret: str
) -> None:
    write(directory / "pg", content)
    assert read_from(directory, "pg") == secret


def kubernetes(directory: Path, name: str, content: bytes) -> None:
    """What a kubelet does for a new version of a Secret: one rename of a link."""
    write(directory / name / "pg", content, 0o440)
    (directory / "..data_tmp").symlink_to(name)
    (directory / "..data_tmp").replace(directory / "..data")


def test_the_links_of_kubernetes_are_followed_also_when_they_are_swapped(directory: Path) -> None:
    kubernetes(directory, "..2026_11_29_10", b"first")
    (directory / "pg").symlink_to("..data/pg")
    assert read_from(directory, "pg") == "first"
    kubernetes(directory, "..2026_11_29_11", b"second")
    assert read_from(directory, "pg") == "second"


def test_the_directory_itself_may_be_a_link(directory: Path, tmp_path: Path) -> None:
    write(directory / "pg")
    (tmp_path / "link").symlink_to(directory)
    assert read_from(tmp_path / "link", "pg") == "hunter2"


@pytest.mark.parametrize("target", ["../outside", "absolute", "through a directory"])
def test_a_link_out_of_the_directory_is_refused(
    directory: Path, tmp_path: Path, target: str
) -> None:
    outside = write(tmp_path / "outside", b"CANARY")
    if target == "through a directory":
        (directory / "..data").symlink_to(tmp_path)
        (directory / "pg").symlink_to("..data/outside")
    else:
        (directory / "pg").symlink_to(outside if target == "absolute" else target)
    with pytest.raises(ValueError, match="it is a link out of"):
        read_from(directory, "pg")


def test_a_directory_beside_it_whose_name_begins_the_same_is_outside(
    directory: Path, tmp_path: Path
) -> None:
    write(tmp_path / "secrets-of-others" / "pg")
    (directory / "pg").symlink_to(tmp_path / "secrets-of-others" / "pg")
    with pytest.raises(ValueError, match="it is a link out of"):
        read_from(directory, "pg")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", ".", "a/b"])
def test_a_name_that_is_a_path_is_refused(directory: Path, tmp_path: Path, name: str) -> None:
    write(tmp_path / "outside", b"CANARY")
    with pytest.raises(ValueError, match="its name is no file's"):
        read_from(directory, name)


def test_what_is_no_secret_is_refused(directory: Path) -> None:
    write(directory / "empty", b"")
    write(directory / "newline", b"\n")
    write(directory / "binary", b"CANARY\xff")
    write(directory / "huge", b"C" * (MAX_SECRET_BYTES + 1))
    (directory / "folder").mkdir()
    os.mkfifo(directory / "pipe")
    reasons = {
        "empty": "it is empty",
        "newline": "it is empty",
        "binary": "it is not UTF-8 text",
        "huge": "it is larger than 65536 bytes",
        "folder": "it is not a regular file",
        "pipe": "it is not a regular file",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=reason):
            read_from(directory, name)
    write(directory / "large", b"C" * MAX_SECRET_BYTES)
    assert len(read_from(directory, "large")) == MAX_SECRET_BYTES


def test_what_any_user_may_change_is_refused_and_what_any_may_read_is_told(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(directory / "pg", mode=0o644)
    with caplog.at_level(logging.WARNING):
        assert read_from(directory, "pg") == "hunter2"
    assert f"any user may read the secret file {directory}/pg" in caplog.text
    assert "hunter2" not in caplog.text
    write(directory / "pg", mode=0o602)
    with pytest.raises(ValueError, match="any user may change it; chmod it to 0600"):
        read_from(directory, "pg")
    write(directory / "pg")
    directory.chmod(0o1777)  # as the volumes of Kubernetes
    assert read_from(directory, "pg") == "hunter2"
    directory.chmod(0o703)
    with pytest.raises(ValueError, match="any user may change the directory"):
        read_from(directory, "pg")


def test_a_directory_that_is_not_there(directory: Path) -> None:
    directory.rmdir()
    with pytest.raises(FileNotFoundError):
        read_from(directory, "pg")


def test_reading_keeps_nothing_open(directory: Path, tmp_path: Path) -> None:
    write(directory / "pg")
    write(tmp_path / "outside")
    (directory / "out").symlink_to(tmp_path / "outside")
    (directory / "folder").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("pg", "out", "folder", "missing", "pg") * 3:
        try:
            read_from(directory, name)
        except (OSError, ValueError):
            assert name != "pg"
    assert len(list(Path("/proc/self/fd").iterdir())) == before
