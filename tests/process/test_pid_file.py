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
