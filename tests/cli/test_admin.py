"""What the operators' commands refuse before they ask anybody."""

import pytest
from click.testing import CliRunner

from prism.cli.main import prism


@pytest.mark.parametrize(
    "name", ["../plugins", "kv/health", "..", "", "kv?tail=1", "kv#", "k\u00e4"]
)
@pytest.mark.parametrize(
    "command", [["plugin", "status"], ["plugin", "logs"], ["namespace", "describe"]]
)
def test_a_name_that_would_lead_elsewhere(command, name):
    result = CliRunner().invoke(prism, [*command, "--admin", "http://127.0.0.1:1", "--", name])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "NAMESPACE is letters, digits, hyphens, underscores" in result.stderr


@pytest.mark.parametrize(
    "content", ["correct\nhorse", "correct horse", "h\u00e4llo", "cor\x01rect", " \n"]
)
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(tmp_path, content):
    file = tmp_path / "admin.token"
    file.write_text(content)
    arguments = ["plugin", "list", "--admin", "http://127.0.0.1:1", "--token-file", str(file)]
    result = CliRunner().invoke(prism, arguments)
    assert result.exit_code == 2
    assert "has no token" in result.stderr
    for word in content.split():
        assert word not in result.output
