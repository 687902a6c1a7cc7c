"""``prism replay``, as far as it comes without a target: what is wrong with its options."""

import pytest
from click.testing import CliRunner

from prism.cli.main import prism

SECRET = "hunter2-canary"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calls.jsonl").touch()
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "list.json").write_text(f'["{SECRET}"]')
    (tmp_path / "numbers.json").write_text('{"password": 1}')
    (tmp_path / "torn.json").write_text(f'{{"password": "{SECRET}')
    (tmp_path / "bytes.json").write_bytes(b"\xff")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("none.json", "cannot read none.json: No such file or directory"),
        (".", "cannot read .: Is a directory"),
        ("bytes.json", "cannot read bytes.json: not text"),
        ("deep.json", "is not JSON: "),
        ("torn.json", "is not JSON: "),
        ("list.json", "is no JSON object"),
    ],
)
@pytest.mark.parametrize("option", ["--plugin-config", "--plugin-credentials"])
@pytest.mark.usefixtures("files")
def test_a_file_that_cannot_be_used_is_told_and_not_shown(option, file, said):
    given = f"@{file}" if option == "--plugin-config" else file
    result = CliRunner().invoke(prism, ["replay", "calls.jsonl", option, given, "--", "true"])
    assert (result.exit_code, result.stdout) == (2, "")
    error = " ".join(result.stderr.split())
    assert option in error
    assert said in error
    assert SECRET not in error


@pytest.mark.usefixtures("files")
def test_credentials_are_texts():
    arguments = ["replay", "calls.jsonl", "--plugin-credentials", "numbers.json", "--", "true"]
    result = CliRunner().invoke(prism, arguments)
    assert result.exit_code == 2
    assert "numbers.json: expected texts as values" in result.stderr
