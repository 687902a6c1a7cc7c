import os
from pathlib import Path

import pytest

from prism.process.pid_file import PidFile, PidFileError


def test_it_holds_the_pid_and_goes_with_the_process(tmp_path: Path) -> None:
    file = tmp_path / "prism.pid"
    pid_file = PidFile(str(file))
    assert not file.exists()
    pid_file.write()
    assert file.read_text() == f"{os.getpid()}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["prism.pid"]
    pid_file.remove()
    assert not file.exists()
    pid_file.remove()


def test_that_of_a_successor_stays(tmp_path: Path) -> None:
    file = tmp_path / "prism.pid"
    pid_file = PidFile(str(file))
    pid_file.write()
    file.write_text("1\n")
    pid_file.remove()
    assert file.read_text() == "1\n"


def test_where_there_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(PidFileError, match=r"there is no directory .*/none"):
        PidFile(str(tmp_path / "none" / "prism.pid"))


def test_one_that_cannot_be_written_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "prism.pid").mkdir()
    PidFile(str(tmp_path / "prism.pid")).write()
    assert "prism.pid cannot be written: Is a directory" in caplog.text


@pytest.mark.parametrize("content", ["", "123\n", "123"])
def test_an_old_one_is_taken(tmp_path: Path, content: str) -> None:
    file = tmp_path / "prism.pid"
    file.write_text(content)
    PidFile(str(file)).write()
    assert file.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("content", ["namespaces: []\n", "1" * 40, "12 of them"])
def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path, content: str) -> None:
    file = tmp_path / "prism.yaml"
    file.write_text(content)
    with pytest.raises(PidFileError, match="holds something else than a pid"):
        PidFile(str(file))
    assert file.read_text() == content
