import pytest
import trustme
from click.testing import CliRunner

from prism.cli.connection import ANSWER_GRACE, LONGEST_CALL, patience_for
from prism.cli.main import prism


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        (None, LONGEST_CALL),
        ("250ms", 0.25 + ANSWER_GRACE),
        ("2s", 2 + ANSWER_GRACE),
        ("1.5m", 90 + ANSWER_GRACE),
        ("soon", LONGEST_CALL),  # the proxy says what is wrong with it
        ("ms", LONGEST_CALL),
    ],
)
def test_it_waits_longer_than_the_call_may_take(timeout, seconds):
    assert patience_for(timeout) == seconds


@pytest.mark.parametrize(
    "arguments",
    [
        ["a/b", "get"],
        ["kv", "../get"],
        ["kv", ".."],
        ["kv", "get#fragment"],
        ["kv", "get?query"],
        ["kv", "%67et"],
        ["kv", "get\udcff"],
        ["", "get"],
        ["kv", "get", "--timeout", "1\ns"],
        ["kv", "get", "--timeout", "\u00e9"],
        ["kv", "get", "--url", "ftp://127.0.0.1"],
        ["kv", "get", "--url", "127.0.0.1:50051"],
        ["kv", "get", "--url", "http://[::1"],
        ["kv", "get", "--url", "https://127.0.0.1", "--ca-cert", "none.pem"],
    ],
)
def test_wrong_usage(arguments):
    result = CliRunner().invoke(prism, ["call", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_a_certificate_without_its_key_is_named(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("me").cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    files = ["--ca-cert", str(tmp_path / "ca.pem"), "--cert", str(tmp_path / "client.pem")]
    result = CliRunner().invoke(prism, ["call", "kv", "get", "--url", "https://[::1]:1", *files])
    assert result.exit_code == 2
    assert "client.pem: not the PEM it should be; it must hold the certificate" in result.stderr
    assert "ca.pem" not in result.stderr
